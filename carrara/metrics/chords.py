"""Chord accuracy over time: mir_eval's comparisons of chords in Harte's syntax, weighted by seconds [harte2005].

A track is a list of [start, end, chord], in seconds. A comparison (`mir_eval.chord`: root, majmin, sevenths, …) says of
two chords 1, 0, or -1 where the annotated chord is none that it compares; those seconds do not count. A score is the
correct seconds over all seconds that count, of all tracks together, as MIREX weights it; of one track it is
`mir_eval.chord.weighted_accuracy`. Beyond the predicted segments the prediction is N, as in mir_eval; seconds without
an annotation do not count.

Letters: S segments, E edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

NO_CHORD = "N"
FRAME_SECONDS = 0.1


@cache
def encode_chord(label: str) -> tuple[int, tuple[int, ...]]:
    """Return a chord's root (0 for C, -1 for none) and which of the twelve semitones above it sound, by mir_eval.

    Raises:
        ValueError: it is no chord in Harte's syntax.
    """
    from mir_eval.chord import InvalidChordException, encode

    try:
        root, semitones, _ = encode(label)
    except InvalidChordException as problem:
        raise ValueError(f"{label!r} is no chord in Harte's syntax, such as A:min7 or N ({problem})") from None
    return int(root), tuple(int(step) for step in semitones)


@cache
def compare_chords(comparison: str, truth: str, predicted: str) -> float:
    """Return `mir_eval.chord`'s comparison of two chords: 1 equal, 0 different, -1 not compared."""
    import mir_eval.chord

    return float(getattr(mir_eval.chord, comparison)([truth], [predicted])[0])


def chord_seconds(truth: Sequence[Any], predicted: Sequence[Any], comparison: str) -> tuple[float, float]:
    """Return the correct seconds of a track, and the seconds that count."""
    if not truth:
        return 0.0, 0.0
    edge_E = np.unique([time for start, end, _ in [*truth, *predicted] for time in (start, end)])
    middle_E = (edge_E[1:] + edge_E[:-1]) / 2
    labels = zip(labels_at(truth, middle_E, None), labels_at(predicted, middle_E, NO_CHORD))
    score_E = np.array([-1.0 if own is None else compare_chords(comparison, own, other) for own, other in labels])
    second_E = np.diff(edge_E) * (score_E >= 0)
    return float(second_E @ score_E), float(second_E.sum())


def chord_frames(truth: Sequence[Any], predicted: Sequence[Any]) -> tuple[float, float]:
    """Return how many frames of 100 ms have the annotated label exactly, and how many are annotated.

    Labels that are None in the annotation do not count.
    """
    if not truth:
        return 0.0, 0.0
    time_E = np.arange(0, truth[-1][1], FRAME_SECONDS) + FRAME_SECONDS / 2
    pairs = zip(labels_at(truth, time_E, None), labels_at(predicted, time_E, NO_CHORD))
    hits = [own == other for own, other in pairs if own is not None]
    return float(sum(hits)), float(len(hits))


def labels_at(track: Sequence[Any], time_E: np.ndarray, default: Any) -> list[Any]:
    """Return the label of a track at each time; `default` where no segment is."""
    if not track:
        return [default] * len(time_E)
    start_S, end_S = np.array([[start, end] for start, end, _ in track], dtype=np.float64).T
    index_E = np.searchsorted(start_S, time_E, side="right") - 1
    return [
        track[index][2] if index >= 0 and time < end_S[index] else default
        for index, time in zip(index_E.tolist(), time_E.tolist())
    ]
