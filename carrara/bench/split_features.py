"""One side of a split as a protocol meets it: the clips' truths, and which rows of the features are theirs.

Nothing is copied from the feature store but where a clip of several windows becomes one embedding.

Letters: U clips, R rows, D features, P probes, K outputs, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.window_ensemble import MEAN, RULES, joined
from carrara.bench.task_types._base import Frames, State, TaskType, Truth
from carrara.core.progress import track
from carrara.core.task import Task


@dataclass(frozen=True)
class SplitFeatures:
    """Clips of one side.

    Attributes:
        truths: a truth a clip.
        layers: a matrix of features by layer; sides share them.
        rows_U: the rows of each clip.
        rate: frames a second where rows are frames, in Hz.
    """

    truths: Sequence[Truth]
    layers: Mapping[str, Any]
    rows_U: Sequence[np.ndarray]
    rate: float | None = None

    def frames(self) -> Frames | None:
        """Return the time grid of the rows; none where rows are not frames."""
        return None if self.rate is None else Frames([len(rows) for rows in self.rows_U], self.rate)

    def to_answer(self) -> Examples:
        """Return all rows, clip by clip, without targets."""
        return Examples(self.layers, np.concatenate(self.rows_U), np.array([len(rows) for rows in self.rows_U]))


def to_learn(task: Task, answer: TaskType, state: State, side: SplitFeatures) -> Examples:
    """Return the examples that a side gives to train on: windows, or excerpts of frames without the padding."""
    frames = side.frames()
    targets = answer.targets(task, state, side.truths, frames)
    if frames is None:
        counts_U = np.array([len(rows) for rows in side.rows_U])
        rows_R = np.concatenate(side.rows_U)
        return Examples(side.layers, rows_R, np.ones(len(rows_R), dtype=np.int64), np.repeat(targets, counts_U, axis=0))
    longest = max(frames.counts_U)
    size = longest if task.window_seconds is None else max(1, round(task.window_seconds * frames.rate))
    rows, counts, wanted = [], [], []
    for rows_F, target_FK in zip(side.rows_U, targets):
        for low in range(0, len(rows_F), size):
            part = np.asarray(target_FK[low : low + size], dtype=np.float32)
            known = ~np.isnan(part.reshape(len(part), -1)).any(1)
            if known.any():
                rows.append(rows_F[low : low + size][known])
                counts.append(int(known.sum()))
                wanted.append(part[known])
    return Examples(side.layers, np.concatenate(rows), np.array(counts), np.concatenate(wanted))


def answers(
    task: Task, answer: TaskType, state: State, side: SplitFeatures, logits_PRK: Tensor, rule: str = MEAN
) -> list[list[Any]]:
    """Return each probe's answer for each clip; the logits of a clip's several windows are joined by the rule."""
    counts = [len(rows) for rows in side.rows_U]
    parts = logits_PRK.split(counts, dim=1)
    frames = side.frames()
    if frames is not None or task.aggregate == "window":
        return answer.decode(task, state, list(parts), frames)
    if max(counts) > 1:
        logits_PRK = joined(parts, rule)
    return answer.decode(task, state, logits_PRK, None)


def rules(task: Task, side: SplitFeatures) -> tuple[str, ...]:
    """Return the rules that validation may choose from to join a clip's windows."""
    several = task.aggregate == "ensemble" and max(len(rows) for rows in side.rows_U) > 1
    return tuple(RULES) if several else (MEAN,)


def watched(
    task: Task, answer: TaskType, state: State, side: SplitFeatures, logits_PRK: Tensor
) -> list[tuple[float, str]]:
    """Return each probe's watched score on a side, by the best rule, and that rule (the first of equals)."""
    watching = task.model_copy(update={"metrics": (task.monitor,), "extra_metrics": ()})
    best: list[tuple[float, str]] = []
    for rule in rules(task, side):
        given = answers(task, answer, state, side, logits_PRK, rule)
        found = [(answer.metrics(watching, side.truths, one)[task.monitor], rule) for one in given]
        # NaN compares false, so a rule without a score never takes a place.
        best = [new if new[0] > old[0] else old for old, new in zip(best, found)] if best else found
    return best


def averaged(layers: Mapping[str, Any], rows_U: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return each layer's mean over each clip's rows, `[U, D]`, in half precision as the store's own."""
    return {
        name: np.stack([matrix[rows].mean(0, dtype=np.float32) for rows in rows_U]).astype(np.float16)
        for name, matrix in track(layers.items(), "averaging windows", len(layers))
    }
