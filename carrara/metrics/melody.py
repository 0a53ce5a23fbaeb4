"""Accuracy of a melody's pitch over time, by `mir_eval.melody` on a grid of 10 ms.

A track is a list of [start, end, frequency] in seconds and Hz; without a segment the melody rests. A predicted segment
with a negative frequency is a rest whose pitch is -frequency all the same, which pitch accuracy counts and voicing does
not. Pitch accuracies are over the frames in which the annotated melody sounds, within 50 cents; chroma forgives
octaves; overall accuracy is over all frames up to the end of the annotation and counts rests.

Letters: F frames of the grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

HOP_SECONDS = 0.01
BASE_HZ = 10.0  # of the cents in which mir_eval compares


def melody_accuracies(truth: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """Return raw pitch, raw chroma and overall accuracy of one track; NaN where its annotation has no note."""
    from mir_eval.melody import overall_accuracy, raw_chroma_accuracy, raw_pitch_accuracy

    names = ("melody_raw_pitch", "melody_raw_chroma", "melody_overall")
    if not truth:
        return dict.fromkeys(names, np.nan)
    count = max(1, round(max(end for _, end, _ in truth) / HOP_SECONDS))
    true_hz_F, hz_F = (_frequencies(track, count) for track in (truth, predicted))
    true_cent_F, cent_F = _cents(true_hz_F), _cents(hz_F)
    arguments = ((true_hz_F > 0).astype(float), true_cent_F, (hz_F > 0).astype(float), cent_F)
    with warnings.catch_warnings():
        # An estimate that rests throughout is a valid one, and probes in training make many.
        warnings.filterwarnings("ignore", "Estimated melody has no voiced frames")
        values = (raw_pitch_accuracy(*arguments), raw_chroma_accuracy(*arguments), overall_accuracy(*arguments))
    return {name: float(value) for name, value in zip(names, values)}


def _frequencies(track: Sequence[Any], count: int) -> np.ndarray:
    hz_F = np.zeros(count)
    for start, end, hz in track:
        # A frame belongs to the segment in which its middle lies.
        low, high = (max(0, int(np.ceil(time / HOP_SECONDS - 0.5 - 1e-9))) for time in (start, end))
        hz_F[low:high] = hz
    return hz_F


def _cents(hz_F: np.ndarray) -> np.ndarray:
    """Return cents above `BASE_HZ`; 0 where there is no pitch, as in mir_eval."""
    size_F = np.abs(hz_F)
    return 1200 * np.log2(np.where(size_F > 0, size_F, BASE_HZ) / BASE_HZ)
