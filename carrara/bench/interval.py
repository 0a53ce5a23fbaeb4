"""95 % intervals: the percentile bootstrap (Efron 1979) over the scored unit, seeded.

A unit is what was scored once: a clip, a track, a note; never a window of one, whose neighbours are no new evidence. R²
and the two tag measures are computed for all draws from each unit's count in each draw; a tag that a draw leaves
without a positive or a negative is skipped in that draw's mean. Another metric that equals the mean of its units' own
values is resampled as that mean; whatever is left is asked again for each draw. Several seeds of the training are
resampled too, so that an interval says how far another run on other recordings may lie.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from carrara.bench.task_types._base import TaskType
from carrara.core.task import Task
from carrara.metrics._ranking import macro
from carrara.metrics.average_precision import average_precision
from carrara.metrics.r2 import r2
from carrara.metrics.roc_auc import roc_auc

DRAWS = 1000
LOW, HIGH = 2.5, 97.5


def intervals(
    task: Task,
    answer: TaskType,
    truths: Sequence[Any],
    answers_S: Sequence[Sequence[Any]],
    seed: int,
    draws: int = DRAWS,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric that the task names; that of a metric no draw could compute is NaN.

    Args:
        task: what was asked.
        answer: its kind of answer.
        truths: one a unit.
        answers_S: for each seed of the training one a unit; the metric is the mean over the seeds.
        seed: of the draws.
        draws: how many.

    A draw takes units with replacement, the same for all seeds, and of several seeds as many with replacement.
    """
    counts_GU = resampled_counts(len(truths), seed, draws)
    by_seed = [resampled(task, answer, truths, answers, counts_GU) for answers in answers_S]
    seeds = len(by_seed)
    picks_GS = np.random.default_rng([seed, seeds]).integers(0, seeds, (draws, seeds))
    found = {}
    for name in by_seed[0]:
        value_SG = np.stack([values[name] for values in by_seed])
        found[name] = percentiles(np.take_along_axis(value_SG.T, picks_GS, 1).mean(1))
    return found


def resampled(
    task: Task, answer: TaskType, truths: Sequence[Any], answers: Sequence[Any], counts_GU: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each metric's value in each draw, `[G]`; a draw holds unit u `counts_GU[g, u]` times."""
    value = answer.metrics(task, truths, answers)
    draws_by_name: dict[str, np.ndarray] = {}
    left: list[str] = []
    for name in value:
        found_G = _from_counts(name, task, truths, answers, counts_GU)
        if found_G is None:
            left.append(name)
        else:
            draws_by_name[name] = found_G
    draws_by_name |= _from_units(left, value, task, answer, (truths, answers), counts_GU)
    left = [name for name in left if name not in draws_by_name]
    draws_by_name |= _from_scratch(left, task, answer, (truths, answers), counts_GU)
    return {name: draws_by_name[name] for name in value}


def resampled_counts(units: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Return how often each draw with replacement holds each unit, `[G, U]`."""
    generator = np.random.default_rng([seed, units])
    picks_GU = generator.integers(0, units, (draws, units))
    return np.stack([np.bincount(picks_U, minlength=units) for picks_U in picks_GU])


def percentiles(values_G: np.ndarray) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of the finite draws."""
    finite = values_G[np.isfinite(values_G)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, (LOW, HIGH))
    return float(low), float(high)


def _from_counts(
    name: str, task: Task, truths: Sequence[Any], answers: Sequence[Any], counts_GU: np.ndarray
) -> np.ndarray | None:
    if name == "roc_auc":
        return macro(roc_auc(np.asarray(truths), np.asarray(answers), counts_GU))
    if name == "average_precision":
        return macro(average_precision(np.asarray(truths), np.asarray(answers), counts_GU))
    if name == "r2" or name.startswith("r2_"):
        value_GE = r2(np.asarray(truths), np.asarray(answers), counts_GU)
        return value_GE.mean(1) if name == "r2" else value_GE[:, task.labels.index(name.removeprefix("r2_"))]
    return None


def _from_units(
    names: list[str],
    value: dict[str, float],
    task: Task,
    answer: TaskType,
    pairs: tuple[Sequence[Any], Sequence[Any]],
    counts_GU: np.ndarray,
) -> dict[str, np.ndarray]:
    if not names:
        return {}
    own = [answer.metrics(task, [truth], [given]) for truth, given in zip(*pairs)]
    found = {}
    for name in names:
        value_U = np.array([unit[name] for unit in own])
        if np.isfinite(value_U).all() and math.isclose(value_U.mean(), value[name], rel_tol=1e-9, abs_tol=1e-9):
            found[name] = counts_GU @ value_U / len(value_U)
    return found


def _from_scratch(
    names: list[str], task: Task, answer: TaskType, pairs: tuple[Sequence[Any], Sequence[Any]], counts_GU: np.ndarray
) -> dict[str, np.ndarray]:
    if not names:
        return {}
    truths, answers = pairs
    drawn = []
    for counts_U in counts_GU:
        picks = np.repeat(np.arange(len(truths)), counts_U).tolist()
        drawn.append(answer.metrics(task, [truths[i] for i in picks], [answers[i] for i in picks]))
    return {name: np.array([values[name] for values in drawn]) for name in names}
