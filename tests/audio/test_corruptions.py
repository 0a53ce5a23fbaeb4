"""Corrupted audio against what each kind is documented to do, and the peak of a spectrum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.audio.corruptions import CORRUPTIONS, EXAMPLES, corrupt, parse_corruption
from carrara.core.errors import UsageError

RATE = 16_000


def tone(seconds=2.0, pitch=440.0, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * pitch * time) * (1 + 0.3 * np.sin(3 * time))).astype(np.float32)


def power(samples):
    return np.mean(np.square(samples, dtype=np.float64))


def test_noise_has_the_requested_signal_to_noise_ratio():
    sound = tone()
    for below in (-5, 10, 30):
        added = corrupt(sound, RATE, f"noise:{below}db").astype(np.float64) - sound
        assert 10 * np.log10(power(sound) / power(added)) == pytest.approx(below, abs=0.2)


def test_gain_is_a_factor():
    np.testing.assert_allclose(corrupt(tone(), RATE, "gain:-6db"), tone() * 10**-0.3, rtol=1e-6)


def test_clipping_clips_the_requested_fraction_of_samples():
    sound, cut = tone(), corrupt(tone(), RATE, "clip:25")
    assert np.mean(cut != sound) == pytest.approx(0.25, abs=0.01)
    assert np.abs(cut).max() < np.abs(sound).max() and np.array_equal(np.sign(cut), np.sign(sound))


def test_reverb_has_the_requested_decay_time_and_does_not_delay_the_direct_sound():
    click = np.zeros(3 * RATE, np.float32)
    click[100] = 1
    decoded = corrupt(click, RATE, "reverb:1s")
    assert np.abs(decoded).argmax() == 100 and not decoded[:99].round(6).any()
    decay = [10 * np.log10(power(decoded[100 + round(at * RATE) :][: RATE // 20])) for at in (0.1, 0.6)]
    assert decay[0] - decay[1] == pytest.approx(30, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("semitones", [-7, -1, 1, 4])
def test_pitch_shift_moves_by_semitones_and_keeps_time(semitones):
    sound = tone()
    sound[: RATE // 2] = 0
    moved = corrupt(sound, RATE, f"pitch:{semitones:+}")
    middle = moved[RATE : 2 * RATE - 4000]
    peak = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**18)).argmax() * RATE / 2**18
    assert 12 * np.log2(peak / 440) == pytest.approx(semitones, abs=0.15)
    onset = np.flatnonzero(np.abs(moved) > 0.1)[0] / RATE
    assert onset == pytest.approx(0.5, abs=0.07) and power(moved) == pytest.approx(power(sound), rel=0.15)


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 10_000])
def test_mp3_changes_little_and_adds_no_delay(rate):
    rough = np.random.default_rng(0).standard_normal(2 * rate + 20)
    sound = (0.01 * np.convolve(rough, np.hanning(21), "valid")).astype(np.float32)
    decoded = corrupt(sound, rate, "mp3:64k")
    lag = np.argmax(np.correlate(decoded[4000:12000], sound[2000:14000], "valid")[::-1]) - 2000
    assert lag == 0
    assert power(corrupt(sound, rate, "mp3:8k") - sound) > power(decoded - sound) > 0 and power(
        decoded
    ) == pytest.approx(power(sound), rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EXAMPLES.split(", ")), st.integers(0, 6000), st.sampled_from([16_000, 24_000]))
def test_corruptions_keep_the_length_and_are_deterministic(corruption, length, rate):
    sound = np.random.default_rng(length).standard_normal(length).astype(np.float32) * 0.1
    first = corrupt(sound, rate, corruption)
    assert first.shape == sound.shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, corrupt(sound, rate, corruption))


def test_silence_stays_silent_except_through_codecs():
    silence = np.zeros(8000, np.float32)
    for corruption in EXAMPLES.split(", "):
        assert np.abs(corrupt(silence, RATE, corruption)).max() < 1e-4


@pytest.mark.parametrize("wrong", ["noize:20db", "noise", "noise:loud", "mp3:5000k", "pitch:+40", "gain:", "clip:200"])
def test_what_is_not_known_is_named_with_examples(wrong):
    with pytest.raises(UsageError, match="noise:20db"):
        parse_corruption(wrong)
    with pytest.raises(UsageError, match="'noise'"):
        parse_corruption("noize:1")


def test_every_example_is_read():
    assert {example.partition(":")[0] for example in EXAMPLES.split(", ")} == set(CORRUPTIONS)
    for example in EXAMPLES.split(", "):
        parse_corruption(example)
