"""One class of several: key, genre, pitch, instrument, singer, technique.

Loss: cross-entropy; the prediction is the class of the highest logit. Truths and predictions are indices into the
task's labels. Metrics: `accuracy`, and for keys `key_weighted` and `key_weighted_2017`. Where windows are scored
themselves, a prediction is the list of the classes of a recording's windows, and the metrics are `accuracy_windows`,
over all windows (so that long recordings weigh more, as MARBLE scores VocalSet), and `accuracy_recordings`, by majority
vote (ties: the first class).

Letters: P probes, B examples of a batch, K classes, U scored units, R windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.task_types._base import Frames, ProbeTaskType, label_of, requested_metrics
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.accuracy import accuracy
from carrara.metrics.key import key_weighted, key_weighted_2017, parse_key

KEY_METRICS = ("key_weighted", "key_weighted_2017")


class _Multiclass(ProbeTaskType):
    def metric_names(self, task: Task) -> tuple[str, ...]:
        return ("accuracy_windows", "accuracy_recordings") if task.aggregate == "window" else ("accuracy", *KEY_METRICS)

    def check(self, task: Task) -> None:
        """Check the metrics, and that the labels are keys where a metric needs keys; see the base class."""
        super().check(task)
        metric = next((name for name in requested_metrics(task) if name in KEY_METRICS), None)
        for label in task.labels if metric else ():
            try:
                parse_key(label)
            except ValueError as problem:
                raise UsageError(f"task {task.name!r}: {metric} needs keys, and the label {problem}") from None

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[int]:
        index = {label: number for number, label in enumerate(task.labels)}
        truths = []
        for clip in clips:
            value = label_of(task, clip)
            if isinstance(value, list | dict):
                raise DataError(
                    f"clip {clip.id!r}: its {task.label} is a list or an object; task {task.name!r} is multiclass and "
                    "needs one label for each clip (multilabel takes lists)"
                )
            label = str(value)
            if label not in index:
                raise DataError(
                    f"clip {clip.id!r}: its {task.label} is {label!r}, which is none of the {len(index)} labels of "
                    f"task {task.name!r}; by default they are those of the train split"
                )
            truths.append(index[label])
        return truths

    def check_truths(self, task: Task, clips: Sequence[Clip], truths: Sequence[int], strict: bool) -> None:
        trained = {truth for clip, truth in zip(clips, truths) if clip.split == "train"}
        if len(trained) == 1:
            raise DataError(
                f"task {task.name!r}: the {task.label} of every training clip is {task.labels[trained.pop()]!r}, so a "
                "probe can learn nothing; give training clips of two classes or more"
            )
        unknown = [(clip, truth) for clip, truth in zip(clips, truths) if trained and truth not in trained]
        if unknown:
            clip, truth = unknown[0]
            more = f" (and {len(unknown) - 1} more such clips)" if len(unknown) > 1 else ""
            problem = (
                f"task {task.name!r}: the {task.label} of the {clip.split} clip {clip.id!r} is {task.labels[truth]!r}, "
                f"which no train clip has{more}"
            )
            if strict:
                raise DataError(f"{problem}; add train clips of this class, or leave it out")
            warnings.warn(f"{problem}; it counts as wrong", stacklevel=2)

    def targets(self, task: Task, state: None, truths: Sequence[int], frames: Frames | None) -> np.ndarray:
        return np.asarray(truths, dtype=np.int64)

    def loss(self, logits_PBK: Tensor, targets_B: Tensor) -> Tensor:
        index_PB1 = targets_B.expand(len(logits_PBK), -1)[..., None]
        return -torch.log_softmax(logits_PBK, -1).gather(2, index_PB1).mean((1, 2))

    def decode(self, task: Task, state: None, logits: Tensor | list[Tensor], frames: Frames | None) -> list[list[Any]]:
        if isinstance(logits, Tensor):
            return logits.argmax(-1).tolist()
        by_unit = [window_PWK.argmax(-1).tolist() for window_PWK in logits]
        return [list(units) for units in zip(*by_unit)]

    def constant(self, task: Task, truths: Sequence[int], counts_U: Sequence[int], rate: float | None) -> list[Any]:
        """Return the most frequent class; the first of equals."""
        majority = int(np.bincount(truths).argmax())
        return [[majority] * count if task.aggregate == "window" else majority for count in counts_U]

    def metrics(self, task: Task, truths: Sequence[int], predictions: Sequence[Any]) -> dict[str, float]:
        requested = requested_metrics(task)
        if task.aggregate == "window":
            truth_R = np.repeat(truths, [len(windows) for windows in predictions])
            vote_U = np.array([np.bincount(windows).argmax() for windows in predictions])
            values = {
                "accuracy_windows": accuracy(truth_R, np.concatenate([np.asarray(w) for w in predictions])),
                "accuracy_recordings": accuracy(np.asarray(truths), vote_U),
            }
            return {name: value for name, value in values.items() if name in requested}
        values = {}
        if "accuracy" in requested:
            values["accuracy"] = accuracy(np.asarray(truths), np.asarray(predictions))
        if "key_weighted" in requested:
            values["key_weighted"] = key_weighted(np.asarray(truths), np.asarray(predictions), task.labels)
        if "key_weighted_2017" in requested:
            values["key_weighted_2017"] = key_weighted_2017(np.asarray(truths), np.asarray(predictions), task.labels)
        return values

    def unit_sums(
        self, task: Task, truths: Sequence[int], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        if task.aggregate != "window":
            return {}
        right = [float(np.sum(np.asarray(windows) == truth)) for truth, windows in zip(truths, predictions)]
        voted = [float(np.bincount(windows).argmax() == truth) for truth, windows in zip(truths, predictions)]
        return {
            "accuracy_windows": (right, [float(len(windows)) for windows in predictions]),
            "accuracy_recordings": (voted, [1.0] * len(truths)),
        }


TASK_TYPE = _Multiclass()
