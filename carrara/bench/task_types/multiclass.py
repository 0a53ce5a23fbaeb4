"""One class of several: key, genre, pitch, instrument, singer, technique.

Cross-entropy; the answer is the class of the highest logit. A truth and an answer are places in the task's labels.
Metrics: `accuracy`, and for keys `key_weighted` and `key_weighted_2017`. Where each window answers for itself, the
answer is the list of a recording's windows' classes, and the metrics are `accuracy_windows`, over all windows (so that
long recordings weigh more, as MARBLE scores VocalSet), and `accuracy_recordings`, by majority vote (ties: the first
class).

Letters: P probes, B examples of a batch, K classes, U scored units, R windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.task_types._base import Frames, TaskType
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics.accuracy import accuracy
from carrara.metrics.key import key_weighted, key_weighted_2017


def truths(task: Task, clips: Sequence[Clip]) -> list[int]:
    """Return the place of each clip's class among the task's labels.

    Raises:
        DataError: a clip has no such label, or a class that the task does not know.
    """
    places = {label: place for place, label in enumerate(task.labels)}
    found = []
    for clip in clips:
        name = str(clip.labels.get(task.label))
        if name not in places:
            raise DataError(f"clip {clip.id!r}: its {task.label} is {name!r}, which task {task.name!r} does not know")
        found.append(places[name])
    return found


def targets(task: Task, state: None, truths: Sequence[int], frames: Frames | None) -> np.ndarray:
    """Return the class numbers, `[U]`."""
    return np.asarray(truths, dtype=np.int64)


def loss(logits_PBK: Tensor, targets_B: Tensor) -> Tensor:
    """Return each probe's mean cross-entropy, `[P]`."""
    place_PB1 = targets_B.expand(len(logits_PBK), -1)[..., None]
    return -torch.log_softmax(logits_PBK, -1).gather(2, place_PB1).mean((1, 2))


def decode(task: Task, state: None, logits: Tensor | list[Tensor], frames: Frames | None) -> list[list[Any]]:
    """Return for each probe the class of every unit's highest logit; of every window's where they come in lists."""
    if isinstance(logits, Tensor):
        return logits.argmax(-1).tolist()
    by_unit = [part_PWK.argmax(-1).tolist() for part_PWK in logits]
    return [list(units) for units in zip(*by_unit)]


def metrics(task: Task, truths: Sequence[int], answers: Sequence[Any]) -> dict[str, float]:
    """Return the metrics that the task names."""
    named = {*task.metrics, *task.extra_metrics, task.monitor}
    if task.aggregate == "window":
        return {name: value for name, value in _of_windows(truths, answers).items() if name in named}
    truth_U, answer_U = np.asarray(truths), np.asarray(answers)
    values = {}
    if "accuracy" in named:
        values["accuracy"] = accuracy(truth_U, answer_U)
    if "key_weighted" in named:
        values["key_weighted"] = key_weighted(truth_U, answer_U, task.labels)
    if "key_weighted_2017" in named:
        values["key_weighted_2017"] = key_weighted_2017(truth_U, answer_U, task.labels)
    return values


def _of_windows(truths: Sequence[int], answers: Sequence[Sequence[int]]) -> dict[str, float]:
    truth_R = np.repeat(truths, [len(windows) for windows in answers])
    voted_U = np.array([np.bincount(windows).argmax() for windows in answers])
    return {
        "accuracy_windows": accuracy(truth_R, np.concatenate([np.asarray(windows) for windows in answers])),
        "accuracy_recordings": accuracy(np.asarray(truths), voted_U),
    }


TASK_TYPE = TaskType(
    frames=False,
    outputs=lambda task: len(task.labels),
    truths=truths,
    fit=lambda task, truths: None,
    targets=targets,
    loss=loss,
    decode=decode,
    metrics=metrics,
)
