"""95 % confidence intervals of a task's metrics: the seeded percentile bootstrap over scored units [efron1979].

A unit is what is scored once: a clip, a track, a note; never a window of one, whose neighbours are no new evidence. R²
and the two tag metrics are computed for all draws from how often each draw holds each unit; a tag that a draw leaves
without a positive or a negative is skipped in that draw's mean. Another metric that equals the mean of its units' own
values is resampled as that mean; any other is computed again for each draw. Several training seeds are resampled too,
so that an interval says how far another run on other recordings may lie.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from carrara.bench.task_types._base import TaskType
from carrara.core.task import Task
from carrara.metrics.bootstrap import DRAWS, mean_over_seeds, percentile_interval, resample_counts
from carrara.metrics.r2 import r2
from carrara.metrics.ranking import average_precision, macro_mean, roc_auc


def confidence_intervals(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    seed: int,
    draws: int = DRAWS,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric that the task requests; NaN where no draw has a value.

    Args:
        task, task_type: which metrics, and how they are computed.
        truths: one for each unit.
        predictions_S: for each training seed one for each unit; the metric is the mean over the seeds.
        seed: of the draws.
        draws: how many. Each takes units with replacement, the same for all training seeds, and of several training
            seeds as many with replacement.
    """
    counts_GU = resample_counts(len(truths), seed, draws)
    by_seed = [resample_metrics(task, task_type, truths, predictions, counts_GU) for predictions in predictions_S]
    intervals = {}
    for name in by_seed[0]:
        value_SG = np.stack([values[name] for values in by_seed])
        intervals[name] = percentile_interval(mean_over_seeds(value_SG, np.random.default_rng([seed, len(by_seed)])))
    return intervals


def resample_metrics(
    task: Task, task_type: TaskType, truths: Sequence[Any], predictions: Sequence[Any], counts_GU: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each metric's value in each draw, `[G]`; draw g holds unit u `counts_GU[g, u]` times."""
    values = task_type.metrics(task, truths, predictions)
    drawn: dict[str, np.ndarray] = {}
    for name in values:
        if name == "roc_auc":
            drawn[name] = macro_mean(roc_auc(np.asarray(truths), np.asarray(predictions), counts_GU))
        elif name == "average_precision":
            drawn[name] = macro_mean(average_precision(np.asarray(truths), np.asarray(predictions), counts_GU))
        elif name == "r2":
            drawn[name] = r2(np.asarray(truths), np.asarray(predictions), counts_GU).mean(1)
        elif name.startswith("r2_"):
            value_GE = r2(np.asarray(truths), np.asarray(predictions), counts_GU)
            drawn[name] = value_GE[:, task.labels.index(name.removeprefix("r2_"))]
    if len(drawn) < len(values):
        units = [task_type.metrics(task, [truth], [prediction]) for truth, prediction in zip(truths, predictions)]
        for name in values.keys() - drawn.keys():
            value_U = np.array([unit[name] for unit in units])
            if np.isfinite(value_U).all() and math.isclose(value_U.mean(), values[name], rel_tol=1e-9, abs_tol=1e-9):
                drawn[name] = counts_GU @ value_U / len(value_U)
    if others := values.keys() - drawn.keys():
        by_draw = []
        for counts_U in counts_GU:
            picks = np.repeat(np.arange(len(truths)), counts_U).tolist()
            by_draw.append(task_type.metrics(task, [truths[i] for i in picks], [predictions[i] for i in picks]))
        drawn |= {name: np.array([metrics[name] for metrics in by_draw]) for name in others}
    return {name: drawn[name] for name in values}
