"""F-measure of beats: predicted and annotated beats match one to one within a window of ± so many seconds.

The values are those of `mir_eval.beat.f_measure`: a largest one-to-one matching; a track without annotated or without
predicted beats scores 0. mir_eval looks for the matching in a general graph. For sorted times and windows of one width,
giving each beat the earliest partner that is still free yields a largest matching too, ten times faster, which matters
because validation scores every probe after every epoch.

Texts and code disagree on the window (20 ms in [yuan2023thesis], 70 ms in all released code) and on the mean: over the
tracks' own F-measures, or pooled, one F-measure of all tracks' counts, as in MARBLE's code [notes/benchmark §0].
Trimmed leaves out the first 5 s, as `mir_eval.beat.evaluate` does and MARBLE does not.

Letters: R annotated beats, E predicted beats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRIM_SECONDS = 5.0


def beat_f(truth_R: np.ndarray, predicted_E: np.ndarray, window: float) -> float:
    """Return the F-measure of one track; times and window in seconds."""
    return _f_measure(count_matches(truth_R, predicted_E, window), len(truth_R), len(predicted_E))


def beat_f_mean(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], window: float) -> float:
    """Return the mean of the tracks' own F-measures."""
    return sum(beat_f(truth_R, predicted_E, window) for truth_R, predicted_E in zip(truths, predictions)) / len(truths)


def beat_f_pooled(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], window: float) -> float:
    """Return one F-measure over the beats of all tracks, matched within each track."""
    matches = sum(count_matches(truth_R, predicted_E, window) for truth_R, predicted_E in zip(truths, predictions))
    return _f_measure(matches, sum(map(len, truths)), sum(map(len, predictions)))


def beat_f_trimmed(truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray], window: float) -> float:
    """Return the mean of the tracks' own F-measures over beats at 5 s or later."""
    return beat_f_mean([_trim(truth_R) for truth_R in truths], [_trim(times_E) for times_E in predictions], window)


def count_matches(truth_R: np.ndarray, predicted_E: np.ndarray, window: float) -> int:
    """Return the number of pairs in a largest one-to-one matching within the window."""
    truth, predicted = np.sort(truth_R), np.sort(predicted_E)
    # The same sums as mir_eval's, so that a beat on the very edge falls on the same side.
    lows, highs = (predicted - window).tolist(), (predicted + window).tolist()
    matches = index = 0
    for time in truth.tolist():
        while index < len(lows) and highs[index] < time:
            index += 1
        if index < len(lows) and lows[index] <= time:
            matches += 1
            index += 1
    return matches


def _trim(times: np.ndarray) -> np.ndarray:
    times = np.asarray(times, dtype=np.float64)
    return times[times >= TRIM_SECONDS]


def _f_measure(matches: int, annotated: int, predicted: int) -> float:
    return 2 * matches / (annotated + predicted) if annotated and predicted else 0.0
