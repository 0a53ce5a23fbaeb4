"""The resampler against closed-form tones and scipy's polyphase filter; streams against whole arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from carrara.audio.resample import RESAMPLER, resample, resample_blocks

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000]


def tone(frequency, rate, seconds=1.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("source", RATES)
@pytest.mark.parametrize("target", [16_000, 22_050, 24_000, 44_100])
def test_a_tone_stays_the_same_tone(source, target):
    edge = target // 10
    got_T, truth_T = resample(tone(1000.0, source), source, target), tone(1000.0, target)
    assert got_T.dtype == np.float32
    assert len(got_T) == target
    np.testing.assert_allclose(got_T[edge:-edge], truth_T[edge:-edge], atol=2e-5)


def test_frequencies_above_the_target_nyquist_are_removed():
    assert np.abs(resample(tone(15_000.0, 44_100), 44_100, 24_000)[2000:-2000]).max() < 1e-4


def test_against_scipy_on_band_limited_noise():
    rng = np.random.default_rng(0)
    noise_T = resample_poly(rng.normal(size=6000), 4, 1).astype(np.float32)
    other_T = resample_poly(noise_T, 1, 2, window=("kaiser", 14.0))
    np.testing.assert_allclose(resample(noise_T, 48_000, 24_000)[200:-200], other_T[200:-200], atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 5000),
    block=st.integers(1, 2000),
    source=st.sampled_from(RATES),
    target=st.sampled_from([16_000, 22_050, 24_000]),
)
def test_a_resampled_stream_equals_the_resampled_whole(length, block, source, target):
    samples_T = np.random.default_rng(length).normal(size=length).astype(np.float32)
    parts = (samples_T[begin : begin + block] for begin in range(0, length, block))
    streamed_T = np.concatenate(list(resample_blocks(parts, source, target)))
    np.testing.assert_array_equal(streamed_T, resample(samples_T, source, target))
    assert len(streamed_T) >= 1


def test_empty_audio_stays_empty_and_the_resampler_names_its_version():
    assert list(resample_blocks([], 44_100, 16_000)) == []
    assert any(char.isdigit() for char in RESAMPLER)
