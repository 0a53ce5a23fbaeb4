"""95 % confidence intervals of a task's metrics from draws of its scored units (`carrara/metrics/bootstrap.py`).

A unit is what is scored once: a clip, a track, a note; never a window of one, whose neighbours are no new evidence.
Units of one group (song, singer, instrument, artist) are drawn together where the dataset knows groups, since they are
no independent evidence either. R² and the two tag metrics are computed for all draws from how often each draw holds
each unit; a tag that a draw leaves without a positive or a negative is skipped in that draw's mean. Draws of the tag
metrics spread too far with few groups and not far enough with some more, so up to 200 groups they are scaled to the
jackknife's standard error, from leaving out one group at a time. A metric that is a mean of its units' own values, or a
ratio of sums over them, is resampled as that; any other is computed again for each draw. With several training seeds
the interval says how far another run on other recordings may lie.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.core.clip import Clip
from carrara.core.task import Task
from carrara.metrics.bootstrap import (
    DRAWS,
    SEED,
    centre_draws,
    jackknife_error,
    log_interval,
    resample_counts,
    scale_draws,
    standard_error,
    wilson_interval,
)
from carrara.metrics.r2 import r2
from carrara.metrics.ranking import average_precision, macro_mean, roc_auc

if TYPE_CHECKING:
    from carrara.bench.task_types._base import TaskType

TAG_METRICS = ("roc_auc", "average_precision")
JACKKNIFE_GROUPS = 200


@dataclass(frozen=True)
class ScoreInterval:
    """The 95 % interval of a metric.

    Attributes:
        low, high: its ends; NaN where no draw has a value.
        method: `wilson`, `log` or `t` (`carrara/metrics/bootstrap.py`).
        groups: how many independent groups of units were drawn from.
        draw_G: the metric in each draw, centred on the score.
    """

    low: float
    high: float
    method: str
    groups: int
    draw_G: np.ndarray


def unit_groups(clips: Sequence[Clip]) -> list[str]:
    """Return each clip's group for resampling: its own, or itself where it has none.

    Clips that are all of one group are groups of their own, because one group says nothing of another.
    """
    groups = [clip.id if clip.group is None else clip.group for clip in clips]
    return groups if len(set(groups)) > 1 else [clip.id for clip in clips]


def confidence_intervals(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    groups: Sequence[str] | None = None,
    seed: int = SEED,
    draws: int = DRAWS,
) -> dict[str, ScoreInterval]:
    """Return the 95 % interval of each metric that the task requests.

    Args:
        task, task_type: which metrics, and how they are computed.
        truths: one for each unit.
        predictions_S: for each training seed one for each unit; the metric is the mean over the seeds.
        groups: the name of each unit's group, from `unit_groups`; None means that every unit is independent.
        seed: of the draws.
        draws: how many.
    """
    groups = list(map(str, range(len(truths)))) if groups is None else groups
    counts_GU = resample_counts(groups, task.dataset, seed, draws)
    return intervals_from_counts(task, task_type, truths, predictions_S, groups, counts_GU)


def intervals_from_counts(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    groups: Sequence[str],
    counts_GU: np.ndarray,
) -> dict[str, ScoreInterval]:
    """Return the intervals of `confidence_intervals` from given draws: draw g holds unit u `counts_GU[g, u]` times."""
    count = len(set(groups))
    values_S = [task_type.metrics(task, truths, predictions) for predictions in predictions_S]
    drawn_S = [resample_metrics(task, task_type, truths, predictions, counts_GU) for predictions in predictions_S]
    deleted = _delete_groups(task, task_type, truths, predictions_S, groups) if 1 < count <= JACKKNIFE_GROUPS else {}
    intervals = {}
    for name in values_S[0]:
        seed_values = [values[name] for values in values_S]
        value = sum(seed_values) / len(seed_values)
        mean_G = np.mean([drawn[name] for drawn in drawn_S], axis=0)
        draw_G = centre_draws(mean_G, value, count)
        if name in deleted:
            draw_G = scale_draws(draw_G, value, jackknife_error(deleted[name]))
        scale = task_type.metric_scale(name)
        method = "log" if name.split("_")[0] == "r2" else "wilson" if scale == "ratio" and 0 <= value <= 1 else "t"
        if not np.isfinite(draw_G).any() or not math.isfinite(value):
            low = high = math.nan
        elif method == "log":
            low, high = log_interval(value, mean_G, count, seed_values)
        elif method == "wilson":
            low, high = wilson_interval(
                value, standard_error(draw_G, count, [seed_values]), count, grouped=count < len(truths)
            )
        else:
            margin = standard_error(draw_G, count, [seed_values]).margin()
            low, high = value - margin, value + margin
            if scale == "rank":
                low = max(1.0, low)
        intervals[name] = ScoreInterval(low, high, method, count, draw_G)
    return intervals


def _delete_groups(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    groups: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return each tag metric without each group in turn; nothing for other metrics."""
    if not set(TAG_METRICS).intersection(task.metrics):
        return {}
    names, index_U = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    kept_NU = index_U[None] != np.arange(len(names))[:, None]
    values_S = [resample_metrics(task, task_type, truths, predictions, kept_NU) for predictions in predictions_S]
    return {name: np.mean([values[name] for values in values_S], axis=0) for name in TAG_METRICS if name in values_S[0]}


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
        sums = task_type.unit_sums(task, truths, predictions) or _unit_values(task, task_type, truths, predictions)
        weight_GU = counts_GU.astype(np.float64)
        for name in values.keys() - drawn.keys():
            if name not in sums:
                continue
            part_U, whole_U = (np.asarray(each, dtype=np.float64) for each in sums[name])
            # Only where the sums give the metric itself: it may be no ratio of theirs.
            if math.isclose(_ratio(part_U.sum(), whole_U.sum()), values[name], rel_tol=1e-9, abs_tol=1e-9):
                drawn[name] = _ratio(weight_GU @ part_U, weight_GU @ whole_U)
    if others := values.keys() - drawn.keys():
        by_draw = []
        for counts_U in counts_GU:
            picks = np.repeat(np.arange(len(truths)), counts_U).tolist()
            drawn_truths, drawn_predictions = [truths[i] for i in picks], [predictions[i] for i in picks]
            by_draw.append(task_type.metrics(task, drawn_truths, drawn_predictions) if picks else {})
        drawn |= {name: np.array([metrics.get(name, math.nan) for metrics in by_draw]) for name in others}
    return {name: drawn[name] for name in values}


def encode_draws(draw_G: np.ndarray) -> str:
    """Return draws as standard scores in half precision, base64: what two scores need to be combined."""
    finite = np.isfinite(draw_G)
    if not finite.any() or not np.std(draw_G[finite]) > 0:
        return ""
    scores_G = np.where(finite, (draw_G - draw_G[finite].mean()) / draw_G[finite].std(), 0.0)
    return base64.b64encode(scores_G.astype("<f2").tobytes()).decode()


def decode_draws(text: str) -> np.ndarray | None:
    """Return the standard scores of `encode_draws`, `[G]`; None where there are none."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64) if text else None


def _unit_values(
    task: Task, task_type: TaskType, truths: Sequence[Any], predictions: Sequence[Any]
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Return each metric of every unit alone, each with the weight 1."""
    units = [task_type.metrics(task, [truth], [prediction]) for truth, prediction in zip(truths, predictions)]
    values = {name: np.array([unit[name] for unit in units]) for name in units[0]}
    return {name: (value_U, np.ones(len(units))) for name, value_U in values.items()}


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole)
