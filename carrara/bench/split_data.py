"""One split of a task as a protocol gets it: clips, the rows of the features that are theirs, and truths.

Nothing is copied from the feature store unless the mean over a clip's windows is taken.

Letters: U clips, R rows, D features, P probes, K outputs, F frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.window_ensemble import MEAN, RULES, combine_windows
from carrara.bench.task_types._base import Frames, Prediction, ProbeTaskType, State, Truth, monitor_only
from carrara.core.clip import Clip
from carrara.core.progress import track
from carrara.core.task import Task


@dataclass(frozen=True)
class SplitData:
    """The clips of one split without their truths.

    Attributes:
        clips: in the order of everything else here.
        layers: a matrix of features by layer, shared by all splits; empty for a protocol that reads audio.
        rows_U: each clip's rows of these matrices.
        frame_rate: in Hz where rows are frames; None where a row is a window or a clip.
    """

    clips: Sequence[Clip] = ()
    layers: Mapping[str, Any] = field(default_factory=dict)
    rows_U: Sequence[np.ndarray] = ()
    frame_rate: float | None = None

    def frames(self) -> Frames | None:
        """Return the frames of the rows; None where rows are no frames."""
        return None if self.frame_rate is None else Frames([len(rows) for rows in self.rows_U], self.frame_rate)

    def eval_examples(self) -> Examples:
        """Return all rows, clip by clip, without targets."""
        return Examples(self.layers, np.concatenate(self.rows_U), np.array([len(rows) for rows in self.rows_U]))


@dataclass(frozen=True)
class LabelledSplit(SplitData):
    """The clips of one split with their truths, one for each clip."""

    truths: Sequence[Truth] = ()


def training_examples(task: Task, task_type: ProbeTaskType, state: State, split: LabelledSplit) -> Examples:
    """Return the examples of a split to train on: windows, or excerpts of frames without the padding."""
    frames = split.frames()
    targets = task_type.targets(task, state, split.truths, frames)
    if frames is None:
        counts_U = np.array([len(rows) for rows in split.rows_U])
        rows_R = np.concatenate(split.rows_U)
        targets_R = np.repeat(targets, counts_U, axis=0)
        return Examples(split.layers, rows_R, np.ones(len(rows_R), dtype=np.int64), targets_R)
    size = max(frames.counts_U) if task.window_seconds is None else max(1, round(task.window_seconds * frames.rate))
    excerpts, counts, excerpt_targets = [], [], []
    for rows_F, target_FK in zip(split.rows_U, targets):
        for low in range(0, len(rows_F), size):
            target = np.asarray(target_FK[low : low + size], dtype=np.float32)
            known = ~np.isnan(target.reshape(len(target), -1)).any(1)
            if known.any():
                excerpts.append(rows_F[low : low + size][known])
                counts.append(int(known.sum()))
                excerpt_targets.append(target[known])
    return Examples(split.layers, np.concatenate(excerpts), np.array(counts), np.concatenate(excerpt_targets))


def predict(
    task: Task, task_type: ProbeTaskType, state: State, split: SplitData, logits_PRK: Tensor, rule: str = MEAN
) -> list[list[Prediction]]:
    """Return each probe's prediction for each clip; the rule combines the logits of a clip's several windows."""
    counts = [len(rows) for rows in split.rows_U]
    logits_by_clip = logits_PRK.split(counts, dim=1)
    frames = split.frames()
    if frames is not None or task.aggregate == "window":
        return task_type.decode(task, state, list(logits_by_clip), frames)
    if max(counts) > 1:
        logits_PRK = combine_windows(logits_by_clip, rule)
    return task_type.decode(task, state, logits_PRK, None)


def monitored_score(
    task: Task, task_type: ProbeTaskType, state: State, split: LabelledSplit, logits_PRK: Tensor
) -> list[tuple[float, str]]:
    """Return each probe's monitored metric by the best rule for windows, and that rule (the first of equals).

    Only where the task says "ensemble" is there more than one rule to choose from.
    """
    has_choice = task.aggregate == "ensemble" and max(len(rows) for rows in split.rows_U) > 1
    monitored = monitor_only(task)
    best: list[tuple[float, str]] = []
    for rule in RULES if has_choice else (MEAN,):
        predictions_P = predict(task, task_type, state, split, logits_PRK, rule)
        scores = [
            (task_type.metrics(monitored, split.truths, predictions)[task.monitor], rule)
            for predictions in predictions_P
        ]
        # NaN compares false, so a rule without a score never wins.
        best = [new if new[0] > old[0] else old for old, new in zip(best, scores)] if best else scores
    return best


def average_windows(layers: Mapping[str, Any], rows_U: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return each layer's mean over each clip's rows, `[U, D]`, in half precision as in the feature store."""
    return {
        name: np.stack([matrix[rows].mean(0, dtype=np.float32) for rows in rows_U]).astype(np.float16)
        for name, matrix in track(layers.items(), "averaging windows", len(layers))
    }
