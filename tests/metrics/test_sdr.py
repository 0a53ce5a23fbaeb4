"""The global SDR against closed forms, a naive sum and its own sums gathered in pieces."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.metrics.sdr import EPSILON, sdr, sdr_from_sums


@pytest.fixture
def song():
    return np.random.default_rng(0).standard_normal((2, 5000))


def test_an_estimate_at_a_known_distance_has_the_closed_forms_value(song):
    assert sdr(song, 0.9 * song) == pytest.approx(20.0, abs=1e-6)
    assert sdr(song, 0 * song) == pytest.approx(0.0, abs=1e-12)
    assert sdr(song, 2 * song) == pytest.approx(0.0, abs=1e-12)
    assert sdr(song, -song) == pytest.approx(-20 * math.log10(2), abs=1e-6)
    assert sdr(song, song) == pytest.approx(10 * math.log10((np.sum(song**2) + 1e-7) / 1e-7))


def test_both_channels_and_all_samples_count_together(song):
    estimate = song.copy()
    estimate[1] = 0
    signal = error = 0.0
    for channel in range(2):
        for sample in range(song.shape[1]):
            signal += song[channel][sample] ** 2
            error += (song[channel][sample] - estimate[channel][sample]) ** 2
    assert sdr(song, estimate) == pytest.approx(10 * math.log10((signal + 1e-7) / (error + 1e-7)))


def test_a_silent_estimate_has_0_db_against_silence_and_less_against_audio():
    silence = np.zeros((2, 100))
    assert sdr(silence, silence) == 0
    assert sdr(silence, silence + 0.1) == pytest.approx(10 * math.log10(1e-7 / (2 + 1e-7)))
    assert EPSILON == 1e-7


def test_sdr_depends_on_scale_unlike_si_sdr(song):
    assert sdr(song, 0.5 * song) == pytest.approx(20 * math.log10(2), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_accumulated_sums_equal_one_pass(pieces, seed):
    rng = np.random.default_rng(seed)
    truth, estimate = rng.standard_normal((2, 2, 400)).astype(np.float32)
    parts = list(zip(np.array_split(truth, pieces, axis=1), np.array_split(estimate, pieces, axis=1)))
    signal = sum(np.sum(s.astype(np.float64) ** 2) for s, _ in parts)
    error = sum(np.sum((s.astype(np.float64) - e) ** 2) for s, e in parts)
    assert sdr_from_sums(signal, error) == pytest.approx(sdr(truth, estimate), abs=1e-9)
