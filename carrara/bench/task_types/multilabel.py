"""Any of several tags at once: genre tags, instruments, moods.

Binary cross-entropy on each tag's logit; an answer is a probability for each tag, a truth 0 or 1 for each, as arrays
`[K]`. Metrics: `roc_auc` and `average_precision`, each the mean over the tags that have both a positive and a negative
among the scored units; those that have not are left out,
and a warning names them.

Letters: P probes, B examples of a batch, K tags, U scored units.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from carrara.bench.task_types._base import Frames, TaskType
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics._ranking import macro
from carrara.metrics.average_precision import average_precision
from carrara.metrics.roc_auc import roc_auc

NAMED = 6
MEASURES = {"roc_auc": roc_auc, "average_precision": average_precision}


def truths(task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
    """Return for each clip 1 where it has the tag and 0 where not, `[K]`; tags the task does not know are passed over.

    Raises:
        DataError: a clip has no such label at all.
    """
    found = []
    for clip in clips:
        if task.label not in clip.labels:
            raise DataError(f"clip {clip.id!r}: it has no {task.label}, which task {task.name!r} asks for")
        tags = set(clip.labels[task.label])
        found.append(np.array([tag in tags for tag in task.labels], dtype=np.float32))
    return found


def left_out(task: Task, truths: Sequence[np.ndarray]) -> list[str]:
    """Return the tags that have no positive or no negative among these truths."""
    mean_K = np.mean(np.asarray(truths), axis=0)
    return [tag for tag, mean in zip(task.labels, mean_K) if mean in (0.0, 1.0)]


def targets(task: Task, state: None, truths: Sequence[np.ndarray], frames: Frames | None) -> np.ndarray:
    """Return the truths as one array, `[U, K]`."""
    return np.asarray(truths, dtype=np.float32)


def loss(logits_PBK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return each probe's binary cross-entropy, the mean over batch and tags, `[P]`."""
    wanted_PBK = targets_BK.expand(len(logits_PBK), -1, -1)
    return F.binary_cross_entropy_with_logits(logits_PBK, wanted_PBK, reduction="none").mean((1, 2))


def decode(task: Task, state: None, logits_PUK: Tensor, frames: Frames | None) -> list[list[np.ndarray]]:
    """Return for each probe the probabilities of every unit, `[K]`."""
    # In float64 two distinct logits stay distinct probabilities, so that no tie is made among confident answers.
    return [list(probability_UK) for probability_UK in torch.sigmoid(logits_PUK.double()).numpy()]


def metrics(task: Task, truths: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the metrics that the task names; NaN where no tag has both a positive and a negative.

    A warning names the tags that are left out; Python shows it once, not once a probe.
    """
    if names := left_out(task, truths):
        shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        warnings.warn(
            f"{task.name}: {len(names)} of {len(task.labels)} tags have no positive or no negative among "
            f"{len(truths)} scored clips and are left out of the mean: {shown}",
            # Of this line, not of the callers', so that each message is shown once.
            stacklevel=1,
        )
    named = {*task.metrics, *task.extra_metrics, task.monitor}
    return {
        name: float(macro(measure(np.asarray(truths), np.asarray(answers)))[0])
        for name, measure in MEASURES.items()
        if name in named
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
