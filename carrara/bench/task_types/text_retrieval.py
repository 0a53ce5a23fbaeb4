"""Text retrieval: find the recording that a text describes, with an encoder that has a text tower.

Nothing is trained (`carrara/bench/text_retrieval.py`), so a task needs test clips only. A label is a text or a list of
them, a truth the list, empty for a clip that is only searched; a prediction holds for each text the ranks of its
positives, the clips that have this text. An encoder without a text tower has no record.

Metrics: `map`, `mrr`, `hit_at_1`, `hit_at_5`, `hit_at_10` and `r_precision`, means over the texts that have a positive
(`carrara/metrics/retrieval.py`); `median_rank`, of the first positive; `with_positive`, the fraction of the texts that
have one. Intervals draw clips with their texts; what is searched stays whole. A task has labels = ["similarity"].

Letters: R ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from carrara.bench.task_types._base import TaskType, ratios, requested_metrics
from carrara.bench.text_retrieval import texts_of
from carrara.core.clip import Clip, Split
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.retrieval import query_scores

MEDIAN_RANK, WITH_POSITIVE = "median_rank", "with_positive"


@lru_cache(maxsize=8192)
def _query_scores(rank_R: tuple[int, ...]) -> dict[str, float]:
    """Return the metrics of a query; each of the thousand draws of an interval has the same queries."""
    return query_scores(np.asarray(rank_R))


class _TextRetrieval(TaskType):
    has_text_queries = True
    splits: tuple[Split, ...] = ("test",)

    def metric_names(self, task: Task) -> tuple[str, ...]:
        return "map", "mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", MEDIAN_RANK, WITH_POSITIVE

    def metric_scale(self, name: str) -> Literal["ratio", "dB", "rank"]:
        return "rank" if name == MEDIAN_RANK else self.scale

    def check(self, task: Task) -> None:
        """Check the metrics, the labels and that a clip has one embedding; see the base class."""
        super().check(task)
        if task.labels != ("similarity",):
            raise UsageError(f'task {task.name!r}: text_retrieval has labels = ["similarity"], not {list(task.labels)}')
        if task.aggregate != "embedding":
            raise UsageError(f"task {task.name!r}: text_retrieval compares clips; set aggregate to embedding")

    def truths(self, task: Task, clips: Sequence[Clip]) -> list[list[str]]:
        truths = []
        for clip in clips:
            texts = texts_of(clip, task.label)
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(f"clip {clip.id!r}: its {task.label} is {str(texts)[:60]!r}, not a text or texts")
            truths.append(texts)
        if not any(truths):
            raise DataError(f"task {task.name!r}: no clip has {task.label}")
        return truths

    def metrics(self, task: Task, truths: Sequence[list[str]], predictions: Sequence[Any]) -> dict[str, float]:
        values = ratios(self.unit_sums(task, truths, predictions))
        if MEDIAN_RANK in requested_metrics(task):
            first = [min(rank_R) for ranks in predictions for rank_R in ranks if rank_R]
            values[MEDIAN_RANK] = float(np.median(first)) if first else np.nan
        return {name: values[name] for name in requested_metrics(task)}

    def unit_sums(
        self, task: Task, truths: Sequence[list[str]], predictions: Sequence[Any]
    ) -> dict[str, tuple[list[float], list[float]]]:
        scores = [[_query_scores(tuple(rank_R)) for rank_R in ranks if rank_R] for ranks in predictions]
        counted = [float(len(each)) for each in scores]
        sums: dict[str, tuple[list[float], list[float]]] = {}
        for name in requested_metrics(task):
            if name == WITH_POSITIVE:
                sums[name] = counted, [float(len(texts)) for texts in truths]
            elif name != MEDIAN_RANK:
                sums[name] = [sum(score[name] for score in each) for each in scores], counted
        return sums


TASK_TYPE = _TextRetrieval()
