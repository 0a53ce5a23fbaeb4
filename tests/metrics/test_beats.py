"""F-measures of beats against mir_eval's own, which looks for a matching in a general graph."""

from __future__ import annotations

import warnings

import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.metrics.beats import beat_f, beat_f_mean, beat_f_pooled, beat_f_trimmed, count_matches

# Whole hundredths crowd the windows' edges; any float does the rest.
times = st.one_of(
    st.lists(st.integers(0, 120).map(lambda tick: tick / 100), max_size=25),
    st.lists(st.floats(0, 20), max_size=40),
).map(lambda found: np.sort(np.array(found, dtype=np.float64)))
windows = st.sampled_from([0.02, 0.07, 0.1])


def reference(truth, answer, window):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mir_eval.beat.f_measure(truth, answer, f_measure_threshold=window)


@settings(max_examples=300, deadline=None)
@given(times, times, windows)
def test_one_track_is_mir_evals(truth, answer, window):
    assert beat_f(truth, answer, window) == pytest.approx(reference(truth, answer, window), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(times, times, windows)
def test_as_many_pairs_as_mir_eval_finds(truth, answer, window):
    assert count_matches(truth, answer, window) == len(mir_eval.util.match_events(truth, answer, window))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(times, times), min_size=1, max_size=5))
def test_means_and_pools(tracks):
    truths, answers = zip(*tracks)
    each = [reference(*track, 0.07) for track in tracks]
    assert beat_f_mean(truths, answers, 0.07) == pytest.approx(np.mean(each), abs=1e-12)
    late = [reference(*map(mir_eval.beat.trim_beats, track), 0.07) for track in tracks]
    assert beat_f_trimmed(truths, answers, 0.07) == pytest.approx(np.mean(late), abs=1e-12)
    hits = sum(len(mir_eval.util.match_events(*track, 0.07)) for track in tracks)
    beats, found = sum(map(len, truths)), sum(map(len, answers))
    precision, recall = hits / max(found, 1), hits / max(beats, 1)
    expected = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert beat_f_pooled(truths, answers, 0.07) == pytest.approx(expected, abs=1e-12)


def test_the_mean_weighs_tracks_equally_and_the_pooled_score_beats():
    truths = [np.arange(10.0), np.arange(90.0)]
    answers = [np.arange(10.0), np.arange(90.0) + 0.5]
    assert beat_f_mean(truths, answers, 0.07) == pytest.approx(0.5)
    assert beat_f_pooled(truths, answers, 0.07) == pytest.approx(0.1)


def test_no_annotated_or_no_predicted_beats_score_zero():
    some, none = np.array([1.0, 2.0]), np.empty(0)
    assert beat_f(some, none, 0.07) == beat_f(none, some, 0.07) == beat_f(none, none, 0.07) == 0
    assert beat_f_pooled([some, none], [none, none], 0.07) == 0
