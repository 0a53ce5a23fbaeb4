"""Regression of one or more numbers per clip, such as valence and arousal.

Loss: squared error on targets standardised by the training clips' mean and population std, as JukeMIR's; predictions
are on the annotators' scale. Each dimension is a label of its own on the clip, or all of them are a mapping in the
label that the task names. Metrics: `r2_<dimension>` for each, and `r2`, their mean.

Letters: P probes, B examples of a batch, E dimensions, U scored units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from carrara.bench.task_types._base import Frames, ProbeTaskType, requested_metrics
from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics.r2 import r2


@dataclass(frozen=True)
class _Moments:
    """Mean and std of each dimension over the training clips."""

    mean_E: np.ndarray
    std_E: np.ndarray


class _Regression(ProbeTaskType):
    def metric_names(self, task: Task) -> tuple[str, ...]:
        return ("r2", *(f"r2_{name}" for name in task.labels))

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return each clip's numbers in the order of the task's labels, `[E]`.

        Raises:
            DataError: a clip lacks one, or has something else there.
        """
        truths = []
        for clip in clips:
            label = clip.labels.get(task.label)
            values = label if isinstance(label, Mapping) and set(label).intersection(task.labels) else clip.labels
            if missing := [name for name in task.labels if values.get(name) is None]:
                raise DataError(f"clip {clip.id!r}: it has no label {missing[0]!r}, which task {task.name!r} needs")
            truths.append(np.array([_number(clip, name, values[name]) for name in task.labels], dtype=np.float64))
        return truths

    def check_truths(self, task: Task, clips: Sequence[Clip], truths: Sequence[np.ndarray], strict: bool) -> None:
        for split in SPLITS:
            own = [truth for clip, truth in zip(clips, truths) if clip.split == split]
            if not own:
                continue
            for name, same in zip(task.labels, (np.asarray(own) == own[0]).all(0)):
                if same:
                    purpose = "nothing to learn" if split == "train" else "no R² to compute"
                    raise DataError(
                        f"task {task.name!r}: {name} is the same for every {split} clip, so there is {purpose}; give "
                        "clips that differ in it"
                    )

    def fit(self, task: Task, truths: Sequence[np.ndarray]) -> _Moments:
        """Return mean and std of the training truths; `check` refuses truths that do not vary."""
        truth_UE = np.asarray(truths)
        return _Moments(truth_UE.mean(0), truth_UE.std(0))

    def targets(self, task: Task, state: _Moments, truths: Sequence[np.ndarray], frames: Frames | None) -> np.ndarray:
        return ((np.asarray(truths) - state.mean_E) / state.std_E).astype(np.float32)

    def loss(self, logits_PBE: Tensor, targets_BE: Tensor) -> Tensor:
        return (logits_PBE - targets_BE).square().mean((1, 2))

    def decode(self, task: Task, state: _Moments, logits: Tensor, frames: Frames | None) -> list[list[np.ndarray]]:
        return [list(value_UE * state.std_E + state.mean_E) for value_UE in logits.double().numpy()]

    def constant(
        self, task: Task, truths: Sequence[np.ndarray], counts_U: Sequence[int], rate: float | None
    ) -> list[np.ndarray]:
        """Return the mean of each number."""
        return [np.mean(np.asarray(truths), axis=0)] * len(counts_U)

    def metrics(self, task: Task, truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        value_E = r2(np.asarray(truths), np.asarray(predictions))[0]
        values = {f"r2_{name}": float(value) for name, value in zip(task.labels, value_E)}
        values["r2"] = float(value_E.mean())
        return {name: value for name, value in values.items() if name in requested_metrics(task)}


def _number(clip: Clip, name: str, value: Any) -> float:
    try:
        # Python's own 1_000 and true for 1 are no numbers of a table.
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        text = str(value)[:60]
        is_decimal_comma = re.fullmatch(r"[+-]?\d*,\d+", text.strip())
        cure = (
            f"write it with a point: {text.strip().replace(',', '.')}"
            if is_decimal_comma
            else "write one, such as 0.25"
        )
        raise DataError(f"clip {clip.id!r}: its {name} is {text!r}, not a finite number; {cure}")
    return number


TASK_TYPE = _Regression()
