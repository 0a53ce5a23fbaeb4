"""Labels that are segments of time, [start, end, value] in seconds: read from clips, and runs of predicted frames."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from carrara.bench.task_types._base import label_of
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task


def read_segments(task: Task, clip: Clip) -> list[list[Any]]:
    """Return a clip's segments, ascending, without empty ones.

    Raises:
        DataError: the label is no list of [start, end, value], or segments overlap.
    """
    label = label_of(task, clip)
    try:
        segments = [[float(start), float(end), value] for start, end, value in label]
    except (TypeError, ValueError):
        raise DataError(
            f"clip {clip.id!r}: its {task.label} are {str(label)[:60]!r}, not a list of [start, end, value] with times "
            "in seconds"
        ) from None
    segments = sorted((each for each in segments if each[1] != each[0]), key=lambda each: each[0])
    end = 0.0
    for segment in segments:
        # Annotators' files round to a millisecond.
        if not (end - 2e-3 <= segment[0] < segment[1] < np.inf):
            raise DataError(
                f"clip {clip.id!r}: its {task.label} have a segment from {segment[0]:g} to {segment[1]:g} s that is "
                "no time or overlaps the one before"
            )
        segment[0] = max(segment[0], end)
        end = segment[1]
    return segments


def frame_values(segments: list[list[Any]], times: np.ndarray) -> list[Any]:
    """Return the value of the segment at each time; None where there is none."""
    values: list[Any] = [None] * len(times)
    for start, end, value in segments:
        for index in range(*np.searchsorted(times, [start, end]).tolist()):
            values[index] = value
    return values


def runs(value_F: np.ndarray, rate: float) -> list[tuple[float, float, int]]:
    """Return the start and end in seconds and the value of each run of equal values."""
    if not len(value_F):
        return []
    edges = [0, *(np.flatnonzero(np.diff(value_F)) + 1).tolist(), len(value_F)]
    return [(low / rate, high / rate, int(value_F[low])) for low, high in pairwise(edges)]
