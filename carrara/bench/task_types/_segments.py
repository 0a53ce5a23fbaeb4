"""Labels that are segments of time, [start, end, value] in seconds: read from clips, as targets, and from frames.

Letters: P probes, B frames of a batch, F frames of a clip, K outputs, U clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.task_types._base import Frames, label_of
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


def index_targets(
    truths: Sequence[Any], frames: Frames | None, index_of: Callable[[Any], float | None], gap: float
) -> list[np.ndarray]:
    """Return for each clip the index of the label at each frame, `[F, 1]`.

    Args:
        truths: each clip's segments.
        frames: of the clips.
        index_of: value of a segment → index; None where no label has it, which is NaN.
        gap: index where there is no segment.
    """
    assert frames is not None, "frame-level tasks come with frames"
    targets = []
    for segments, count in zip(truths, frames.counts_U):
        indices = [(start, end, index_of(value)) for start, end, value in segments]
        known = [[start, end, np.nan if index is None else index] for start, end, index in indices]
        values = frame_values(known, (np.arange(count) + 0.5) / frames.rate)
        targets.append(np.array([gap if value is None else value for value in values], dtype=np.float32)[:, None])
    return targets


def frame_cross_entropy(logits_PBK: Tensor, index_B: Tensor) -> Tensor:
    """Return each probe's mean cross-entropy over the frames whose index is not NaN, `[P]`."""
    known_B = ~index_B.isnan()
    index_PB1 = index_B.nan_to_num().long().expand(len(logits_PBK), -1)[..., None]
    error_PB = -torch.log_softmax(logits_PBK, -1).gather(2, index_PB1)[..., 0]
    return (error_PB * known_B).sum(1) / known_B.sum().clamp(min=1)


def join_frames(
    index_U: Sequence[np.ndarray], frames: Frames | None, value_of: Callable[[int], Any]
) -> list[list[list[list[Any]]]]:
    """Return for each probe each clip's segments, equal neighbours joined.

    Args:
        index_U: of each clip the index of every probe and frame, `[P, F]`.
        frames: of the clips.
        value_of: index → value of a segment.
    """
    assert frames is not None, "frame-level tasks come with frames"
    return [
        [
            [[start, end, value_of(index)] for start, end, index in runs(index_PF[probe], frames.rate)]
            for index_PF in index_U
        ]
        for probe in range(len(index_U[0]) if index_U else 0)
    ]


def runs(value_F: np.ndarray, rate: float) -> list[tuple[float, float, int]]:
    """Return the start and end in seconds and the value of each run of equal values."""
    if not len(value_F):
        return []
    edges = [0, *(np.flatnonzero(np.diff(value_F)) + 1).tolist(), len(value_F)]
    return [(low / rate, high / rate, int(value_F[low])) for low, high in pairwise(edges)]
