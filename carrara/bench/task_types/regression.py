"""Numbers: valence and arousal.

Squared error on targets that have the training clips' mean 0 and deviation 1 (the population's, as JukeMIR's); answers
are turned back to the annotators' scale. Each dimension is a label of its own on the clip, or all of them stand, by
name, in the label that the task names. Metrics: `r2_<dimension>` for each, and `r2`, their mean.

Letters: P probes, B examples of a batch, E dimensions, U scored units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from carrara.bench.task_types._base import Frames, TaskType
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics.r2 import r2


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of each dimension over the training clips."""

    mean_E: np.ndarray
    deviation_E: np.ndarray


def truths(task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
    """Return each clip's numbers in the order of the task's labels, `[E]`.

    Raises:
        DataError: a clip lacks one of them.
    """
    found = []
    for clip in clips:
        held = clip.labels.get(task.label)
        values = held if isinstance(held, Mapping) else clip.labels
        if missing := [name for name in task.labels if name not in values]:
            raise DataError(f"clip {clip.id!r}: it has no {missing[0]}, which task {task.name!r} asks for")
        found.append(np.array([values[name] for name in task.labels], dtype=np.float64))
    return found


def fit(task: Task, truths: Sequence[np.ndarray]) -> Scale:
    """Return the training truths' mean and deviation.

    Raises:
        DataError: a dimension is the same for all of them.
    """
    truth_UE = np.asarray(truths)
    deviation_E = truth_UE.std(0)
    for name, deviation in zip(task.labels, deviation_E):
        if not deviation > 0:
            raise DataError(f"task {task.name!r}: {name} is the same for every training clip; nothing can be learned")
    return Scale(truth_UE.mean(0), deviation_E)


def targets(task: Task, state: Scale, truths: Sequence[np.ndarray], frames: Frames | None) -> np.ndarray:
    """Return the truths on the training clips' scale, `[U, E]`."""
    return ((np.asarray(truths) - state.mean_E) / state.deviation_E).astype(np.float32)


def loss(logits_PBE: Tensor, targets_BE: Tensor) -> Tensor:
    """Return each probe's squared error, the mean over batch and dimensions, `[P]`."""
    return (logits_PBE - targets_BE).square().mean((1, 2))


def decode(task: Task, state: Scale, logits_PUE: Tensor, frames: Frames | None) -> list[list[np.ndarray]]:
    """Return for each probe every unit's numbers on the annotators' scale, `[E]`."""
    return [list(answer_UE * state.deviation_E + state.mean_E) for answer_UE in logits_PUE.double().numpy()]


def metrics(task: Task, truths: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, float]:
    """Return R² of each dimension and their mean, as far as the task names them."""
    value_E = r2(np.asarray(truths), np.asarray(answers))[0]
    values = {f"r2_{name}": float(value) for name, value in zip(task.labels, value_E)}
    values["r2"] = float(value_E.mean())
    named = {*task.metrics, *task.extra_metrics, task.monitor}
    return {name: value for name, value in values.items() if name in named}


TASK_TYPE = TaskType(
    frames=False,
    outputs=lambda task: len(task.labels),
    truths=truths,
    fit=fit,
    targets=targets,
    loss=loss,
    decode=decode,
    metrics=metrics,
)
