"""Events in time, answered frame by frame: beats.

The probe gives every frame of the encoder's grid the log odds of a beat; the loss is their binary cross-entropy; the
answer is the list of times that the bar-pointer network (`carrara/bench/beat_decoder.py`) finds in them. A truth is the
annotators' own times, never rounded to frames. For training a beat is frame round(rate·t) and its neighbours on
either side, as in MARBLE's first code (benchmark.md 1.5), which widens in training only: only training asks for
targets here. A beat that falls beyond the last frame has none.

Metrics: `beat_f_70ms` and `beat_f_20ms` (mean of the tracks' F-measures), `beat_f_70ms_pooled`, `beat_f_20ms_pooled`
and `beat_f_70ms_trimmed`; see `carrara/metrics/beats.py`.

Letters: P probes, B frames of a batch, F frames of a clip, K outputs (1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from carrara.bench.beat_decoder import beat_times
from carrara.bench.task_types._base import Frames, TaskType
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.beats import beat_f_mean, beat_f_pooled, beat_f_trimmed

METRICS: dict[str, tuple[Callable[[Sequence[np.ndarray], Sequence[np.ndarray], float], float], float]] = {
    "beat_f_70ms": (beat_f_mean, 0.07),
    "beat_f_20ms": (beat_f_mean, 0.02),
    "beat_f_70ms_pooled": (beat_f_pooled, 0.07),
    "beat_f_20ms_pooled": (beat_f_pooled, 0.02),
    "beat_f_70ms_trimmed": (beat_f_trimmed, 0.07),
}


def truths(task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
    """Return the times of each clip's beats in seconds, ascending; a clip may have none.

    Raises:
        UsageError: the task asks for anything but beats.
        DataError: a clip has no list of times.
    """
    if task.labels != ("beat",):
        raise UsageError(f"task {task.name!r}: events of the kinds {task.labels}; only ('beat',) can be decoded")
    found = []
    for clip in clips:
        if task.label not in clip.labels:
            raise DataError(f"clip {clip.id!r}: it has no {task.label}, which task {task.name!r} asks for")
        try:
            times = np.sort(np.asarray(clip.labels[task.label], dtype=np.float64).reshape(-1))
        except (TypeError, ValueError):
            raise DataError(f"clip {clip.id!r}: its {task.label} are not a list of times in seconds") from None
        if not np.isfinite(times).all():
            raise DataError(f"clip {clip.id!r}: one of its {task.label} is not a time")
        found.append(times)
    return found


def targets(task: Task, state: None, truths: Sequence[np.ndarray], frames: Frames | None) -> list[np.ndarray]:
    """Return for each clip 1 at the frames of its beats and their neighbours, else 0, `[F, 1]`."""
    if frames is None:
        raise UsageError(f"task {task.name!r}: beats need an encoder that answers frame by frame")
    found = []
    for times, count in zip(truths, frames.counts_U):
        beat_F1 = np.zeros((count, 1), dtype=np.float32)
        places = np.round(times * frames.rate).astype(np.int64)
        for place in places[(places >= 0) & (places < count)]:
            beat_F1[max(0, place - 1) : place + 2] = 1
        found.append(beat_F1)
    return found


def loss(logits_PBK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return each probe's mean binary cross-entropy over the frames whose target is not NaN, `[P]`."""
    known_BK = ~targets_BK.isnan()
    wanted_PBK = targets_BK.nan_to_num().expand_as(logits_PBK)
    error_PBK = functional.binary_cross_entropy_with_logits(logits_PBK, wanted_PBK, reduction="none")
    return (error_PBK * known_BK).sum((1, 2)) / known_BK.sum().clamp(min=1)


def decode(task: Task, state: None, logits: Sequence[Tensor], frames: Frames | None) -> list[list[np.ndarray]]:
    """Return for each probe the times of the beats of every clip, in seconds."""
    if frames is None:
        raise UsageError(f"task {task.name!r}: beats need an encoder that answers frame by frame")
    if not logits:
        return []
    probes, units = len(logits[0]), len(logits)
    # All probes' clips at once: the decoder is at its best with many.
    times = beat_times([one_PFK[probe, :, 0] for probe in range(probes) for one_PFK in logits], frames.rate)
    return [times[probe * units : (probe + 1) * units] for probe in range(probes)]


def metrics(task: Task, truths: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the metrics that the task names."""
    named = {*task.metrics, *task.extra_metrics, task.monitor}
    return {name: score(truths, answers, window) for name, (score, window) in METRICS.items() if name in named}


TASK_TYPE = TaskType(
    frames=True,
    outputs=lambda task: len(task.labels),
    truths=truths,
    fit=lambda task, truths: None,
    targets=targets,
    loss=loss,
    decode=decode,
    metrics=metrics,
    unit="track",
)
