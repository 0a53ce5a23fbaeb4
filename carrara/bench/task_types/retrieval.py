"""Retrieval: find the other clips with a query's label (the same song, the same artist) by similarity of embeddings.

Nothing is trained: the protocol chooses the layer on validation (`carrara/bench/retrieval.py`). A truth is the clip's
label, None for a clip that is only searched (the noise of Da-TACOS); a prediction is the clip's embedding. Every
labelled clip is a query, and all other clips of its split are searched by cosine similarity.

Metrics (`carrara/metrics/retrieval.py`): `map`, `mrr`, `hit_at_1`, `hit_at_5`, `hit_at_10` and `r_precision`, means
over the queries that have a positive, and `with_positive`, the fraction of the queries that have one. Intervals draw
queries, those of a group together; what is searched stays whole. A task has labels = ["similarity"].

Letters: U clips, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carrara.bench.task_types._base import TaskType, ratios, requested_metrics
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.retrieval import score_queries

WITH_POSITIVE = "with_positive"


class _Retrieval(TaskType):
    def metric_names(self, task: Task) -> tuple[str, ...]:
        return "map", "mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", WITH_POSITIVE

    def check(self, task: Task) -> None:
        """Check the metrics, the labels and that a clip has one embedding; see the base class."""
        super().check(task)
        if task.labels != ("similarity",):
            raise UsageError(f'task {task.name!r}: retrieval has labels = ["similarity"], not {list(task.labels)}')
        if task.aggregate != "embedding":
            raise UsageError(f"task {task.name!r}: retrieval compares clips; set aggregate to embedding")

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[str | None]:
        truths = []
        for clip in clips:
            label = clip.labels.get(task.label)
            if isinstance(label, list | dict):
                raise DataError(f"clip {clip.id!r}: its {task.label} is a list or an object; retrieval needs one label")
            truths.append(None if label is None else str(label))
        if all(label is None for label in truths):
            raise DataError(f"task {task.name!r}: no clip has a label {task.label!r}")
        return truths

    def metrics(self, task: Task, truths: Sequence[str | None], predictions: Sequence[Any]) -> dict[str, float]:
        return ratios(self.unit_sums(task, truths, predictions))

    def unit_sums(
        self, task: Task, truths: Sequence[str | None], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        scores = score_queries(np.asarray(predictions), list(truths))
        sums = {}
        for name in requested_metrics(task):
            if name == WITH_POSITIVE:
                part, whole = [float(each is not None) for each in scores], [float(each is not None) for each in truths]
            else:
                part, whole = (
                    [each[name] if each else 0.0 for each in scores],
                    [float(each is not None) for each in scores],
                )
            sums[name] = part, whole
        return sums


TASK_TYPE = _Retrieval()
