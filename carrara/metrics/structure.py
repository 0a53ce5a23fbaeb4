"""Metrics of musical structure, those of `mir_eval.segment`: boundaries, and which segments are alike.

A track is a list of [start, end, label], in seconds, from the start of the recording to its end without gaps.
`boundary_f` is the F-measure of boundaries within ± so many seconds, start and end of the recording included
(`mir_eval.segment.detection`), or without them (its `trim`). `segment_pairwise_f` compares all pairs of frames of
100 ms: alike in the annotation, alike in the prediction (`mir_eval.segment.pairwise`). `segment_label_accuracy` is the
fraction of the annotated time with the right label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carrara.metrics.beats import beat_f
from carrara.metrics.chords import labels_at


def boundary_f(truth: Sequence[Any], predicted: Sequence[Any], window: float, trimmed: bool = False) -> float:
    """Return the F-measure of one track's boundaries; the window in seconds.

    Args:
        truth, predicted: the track's segments.
        window: in seconds.
        trimmed: leave out the first and the last boundary; a track that then has none in the annotation or the
            prediction scores 0, as in mir_eval.
    """
    edges = [np.unique([time for start, end, _ in track for time in (start, end)]) for track in (truth, predicted)]
    first, second = (edge[1:-1] if trimmed else edge for edge in edges)
    return beat_f(first, second, window)


def segment_pairwise_f(truth: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Return the F-measure of pairs of frames with the same label."""
    from mir_eval.segment import pairwise
    from mir_eval.util import adjust_intervals

    end = truth[-1][1]
    tracks = []
    for track in (truth, predicted):
        intervals, labels = np.array([segment[:2] for segment in track]), [str(segment[2]) for segment in track]
        tracks += adjust_intervals(intervals, labels, t_min=0.0, t_max=end)
    return float(pairwise(*tracks)[2])


def label_seconds(truth: Sequence[Any], predicted: Sequence[Any]) -> tuple[float, float]:
    """Return the seconds of a track with the annotated label, and its annotated seconds."""
    edges = np.unique([time for start, end, _ in [*truth, *predicted] for time in (start, end)])
    middles, seconds = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    own, other = labels_at(truth, middles, None), labels_at(predicted, middles, None)
    is_known = np.array([label is not None for label in own])
    is_right = np.array([label is not None and label == guess for label, guess in zip(own, other)])
    return float(seconds[is_right].sum()), float(seconds[is_known].sum())
