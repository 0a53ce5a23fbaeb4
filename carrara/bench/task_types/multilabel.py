"""Any number of tags at once: genre tags, instruments, moods.

Loss: binary cross-entropy of each tag's logit. A truth is 0 or 1 for each tag, a prediction a probability for each, as
arrays `[K]`. Metrics: `roc_auc` and `average_precision`, each the mean over the tags that have both a positive and a
negative among the scored units; a warning names the tags that have not.

Letters: P probes, B examples of a batch, K tags, U scored units.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from carrara.bench.task_types._base import Frames, ProbeTaskType, label_of, requested_metrics
from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.metrics.ranking import average_precision, macro_mean, roc_auc

_NAMED = 6
_SEPARATORS = frozenset(",;|")
_METRICS = {"roc_auc": roc_auc, "average_precision": average_precision}


class _Multilabel(ProbeTaskType):
    def metric_names(self, task: Task) -> tuple[str, ...]:
        return tuple(_METRICS)

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return for each clip 1 where it has the tag, else 0, `[K]`; tags that the task does not know do not count.

        A bare word among lists is one tag.

        Raises:
            DataError: a clip has no tags, or a text that may stand for several.
        """
        labels = [label_of(task, clip) for clip in clips]
        has_lists = any(isinstance(label, list | tuple) for label in labels)
        tags_by_clip = [_tags(task, clip, label, has_lists) for clip, label in zip(clips, labels)]
        return [np.array([tag in tags for tag in task.labels], dtype=np.float32) for tags in tags_by_clip]

    def check_truths(self, task: Task, clips: Sequence[Clip], truths: Sequence[np.ndarray], strict: bool) -> None:
        for split in SPLITS:
            own = [truth for clip, truth in zip(clips, truths) if clip.split == split]
            if own and len(self.unscored_tags(task, own)) == len(task.labels):
                raise DataError(
                    f"task {task.name!r}: each tag is on all or on none of the {len(own)} {split} clips, so there is "
                    "nothing to learn or to score; give clips that differ in their tags"
                )

    def targets(self, task: Task, state: None, truths: Sequence[np.ndarray], frames: Frames | None) -> np.ndarray:
        return np.asarray(truths, dtype=np.float32)

    def loss(self, logits_PBK: Tensor, targets_BK: Tensor) -> Tensor:
        targets_PBK = targets_BK.expand(len(logits_PBK), -1, -1)
        return F.binary_cross_entropy_with_logits(logits_PBK, targets_PBK, reduction="none").mean((1, 2))

    def decode(self, task: Task, state: None, logits: Tensor, frames: Frames | None) -> list[list[np.ndarray]]:
        # In float64 two distinct logits stay distinct probabilities, so confident predictions do not tie.
        return [list(probability_UK) for probability_UK in torch.sigmoid(logits.double()).numpy()]

    def constant(
        self, task: Task, truths: Sequence[np.ndarray], counts_U: Sequence[int], rate: float | None
    ) -> list[np.ndarray]:
        """Return how frequent each tag is."""
        return [np.mean(np.asarray(truths, dtype=np.float64), axis=0)] * len(counts_U)

    def metrics(self, task: Task, truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the metrics; NaN where no tag has both a positive and a negative."""
        if unscored := self.unscored_tags(task, truths):
            names = ", ".join(unscored[:_NAMED]) + (", …" if len(unscored) > _NAMED else "")
            warnings.warn(
                f"{task.name}: {len(unscored)} of {len(task.labels)} tags have no positive or no negative among "
                f"{len(truths)} scored clips and are left out of the mean: {names}",
                # Of this line, not of the callers', so that Python shows each message once and not once a probe.
                stacklevel=1,
            )
        requested = requested_metrics(task)
        return {
            name: float(macro_mean(metric(np.asarray(truths), np.asarray(predictions)))[0])
            for name, metric in _METRICS.items()
            if name in requested
        }

    def unscored_tags(self, task: Task, truths: Sequence[np.ndarray]) -> list[str]:
        """Return the tags that have no positive or no negative among these truths."""
        mean_K = np.mean(np.asarray(truths), axis=0)
        return [tag for tag, mean in zip(task.labels, mean_K) if mean in (0.0, 1.0)]


def _tags(task: Task, clip: Clip, label: Any, has_lists: bool) -> set[str]:
    if isinstance(label, str) and has_lists and not _SEPARATORS.intersection(label):
        return {label}
    if isinstance(label, list | tuple) and not any(isinstance(tag, list | dict) or tag is None for tag in label):
        return {str(tag) for tag in label if str(tag).strip()}  # as labels.csv leaves out what is empty
    raise DataError(
        f"clip {clip.id!r}: its {task.label} is {str(label)[:60]!r}, not a list of tags; in labels.csv call the column "
        f"{task.label}[] and separate tags by semicolons, in labels.jsonl write a list"
    )


TASK_TYPE = _Multilabel()
