"""What the predictions on a task's test clips tell: scores by class, the hardest clips, and paired differences.

Letters: U scored units, K classes, tags or dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench import task_types
from carrara.bench.leaderboard.compare import (
    NotComparable,
    ScoreDraws,
    TaskComparison,
    add_verdicts,
    compare_records,
    draw_scores,
    subtract_draws,
    to_task_comparison,
)
from carrara.bench.leaderboard.ranking import PERCENT
from carrara.bench.predictions import predictions_path, read_groups, read_predictions, to_metric_input
from carrara.core.errors import CarraraError, StoreError
from carrara.core.hashing import sha256_of_json
from carrara.core.record import Record
from carrara.core.settings import parse_settings
from carrara.core.task import Task
from carrara.metrics.bootstrap import resample_counts
from carrara.metrics.r2 import r2
from carrara.metrics.ranking import average_precision

# Pairs grow with the square: `carrara compare` compares any two systems.
MAX_COMPARED = 50
MAX_HARDEST = 10


@dataclass(frozen=True)
class LoadedPredictions:
    """A record's predictions, reduced to what its comparisons with other systems need.

    Attributes:
        units: the scored units, sorted.
        groups: the group of each.
        identity: equal where task, units, groups and truths are.
        draws: the scores on draws of the units.
    """

    units: Sequence[str]
    groups: Sequence[str]
    identity: str
    draws: ScoreDraws


@dataclass
class PairComparisons:
    """The comparisons of every two systems, task by task."""

    tasks: dict[tuple[str, str], list[TaskComparison | NotComparable]] = field(default_factory=dict)

    def by_first(self) -> dict[str, dict[str, Any]]:
        """Return by first and second system the plain values that the page shows, with p corrected over the tasks."""
        plain: dict[str, dict[str, Any]] = {}
        for (first, second), compared in self.tasks.items():
            decided = add_verdicts([each for each in compared if isinstance(each, TaskComparison)])
            plain.setdefault(first, {})[second] = {
                "tasks": [
                    {
                        "task": each.task,
                        "first": round(each.first, 3),
                        "second": round(each.second, 3),
                        "difference": [round(value, 3) for value in vars(each.difference).values()],
                        "p": float(f"{each.p_holm:.3g}"),
                        "verdict": each.verdict,
                        "n": each.n,
                    }
                    for each in decided
                ],
                "not_comparable": [
                    {"task": each.task, "reason": each.reason} for each in compared if isinstance(each, NotComparable)
                ],
            }
        return plain


def compare_and_count(records: Mapping[str, Record], results: Path, comparisons: PairComparisons) -> dict[str, Any]:
    """Add the comparisons of one task, and return its scores by class.

    Args:
        records: of the task, by system, the best system first. The first `MAX_COMPARED` are compared.
        results: the folder of the records.
        comparisons: that this task's are added to.

    Returns:
        `metric`, `classes` with the number of test units of each, and `scores`: by system one for each class, in
        percent, None where it is not defined; `hardest` as of `rank_clips`. Empty where the task has no classes or no
        predictions.
    """
    loaded: dict[str, LoadedPredictions | str] = {}
    by_class: dict[str, Any] = {}
    answers: list[tuple[Task, dict[int, Any]]] = []
    for position, (name, record) in enumerate(records.items()):
        path = predictions_path(record, results)
        if not path.is_file():
            loaded[name] = f"no predictions beside the record of {name}"
            continue
        try:
            predictions = read_predictions(path)
            by_class = _add_classes(by_class, name, record, predictions)
            if by_class:
                answers.append((parse_settings(Task, record.task.task, "the record"), predictions))
            if position < MAX_COMPARED:
                loaded[name] = _load(record, predictions, read_groups(path))
        except StoreError as problem:
            loaded[name] = str(problem).replace(str(path.parent), "").lstrip("/\\")
        except (CarraraError, ArithmeticError, LookupError, TypeError, ValueError) as problem:
            loaded[name] = f"its predictions cannot be scored ({' '.join(str(problem).split())[:200]})"
    for first, second in itertools.combinations(list(records)[:MAX_COMPARED], 2):
        compared = _compare(records[first], records[second], loaded[first], loaded[second], results)
        comparisons.tasks.setdefault((first, second), []).append(compared)
    return {**by_class, "hardest": rank_clips(answers)} if by_class else {}


def rank_clips(answers: Sequence[tuple[Task, Mapping[int, Mapping[str, tuple[Any, Any]]]]]) -> list[dict[str, Any]]:
    """Return the test clips on which the systems err most, at most `MAX_HARDEST`, the hardest first.

    The error of a system on a clip is 1 or 0 in a multiclass task, and else the mean over tags or dimensions of the
    absolute difference of truth and prediction; it is averaged over training seeds, then over systems.

    Args:
        answers: for each system the task, and truth and prediction by training seed and clip.

    Returns:
        `clip`, `error`, `systems` (how many were scored on it), and of a multiclass task `truth` and `answer`, the
        label that most of them gave.
    """
    errors: dict[str, list[float]] = {}
    given: dict[str, Counter[str]] = {}
    truths: dict[str, str] = {}
    for task, predictions in answers:
        of_system: dict[str, list[float]] = {}
        for clips in predictions.values():
            for clip, (truth, prediction) in clips.items():
                if task.task_type == "multiclass":
                    if task.aggregate == "window":
                        prediction = int(np.bincount(prediction).argmax())
                    truths[clip] = str(task.labels[truth])
                    given.setdefault(clip, Counter())[str(task.labels[prediction])] += 1
                    error = float(prediction != truth)
                else:
                    error = float(np.mean(np.abs(np.asarray(truth, float) - np.asarray(prediction, float))))
                of_system.setdefault(clip, []).append(error)
        for clip, values in of_system.items():
            errors.setdefault(clip, []).append(float(np.mean(values)))
    means = {clip: float(np.mean(values)) for clip, values in errors.items()}
    hardest = sorted((clip for clip in means if means[clip] > 0), key=lambda clip: (-means[clip], clip))[:MAX_HARDEST]
    return [
        {
            "clip": clip,
            "error": round(means[clip], 4),
            "systems": len(errors[clip]),
            **({"truth": truths[clip], "answer": given[clip].most_common(1)[0][0]} if clip in truths else {}),
        }
        for clip in hardest
    ]


def class_scores(task: Task, truths: Sequence[Any], predictions: Sequence[Any]) -> tuple[str, list[int], list[float]]:
    """Return the metric's name, the number of units and the score (in percent) of each class of a task.

    A class of a multiclass task has its recall, a tag its average precision, a dimension of a regression its R². NaN
    where it is not defined.

    Args:
        task: a multiclass, multilabel or regression task.
        truths, predictions: one per scored unit, as a predictions file has them.
    """
    if task.task_type == "multiclass":
        if task.aggregate == "window":
            predictions = [int(np.bincount(windows).argmax()) for windows in predictions]
        truth_U, predicted_U = np.asarray(truths), np.asarray(predictions)
        counts = [int(np.sum(truth_U == label)) for label in range(len(task.labels))]
        right = [int(np.sum((truth_U == label) & (predicted_U == label))) for label in range(len(task.labels))]
        recall = [PERCENT * hit / count if count else math.nan for hit, count in zip(right, counts)]
        return "recall", counts, recall
    truth_UK, predicted_UK = np.asarray(truths, dtype=float), np.asarray(predictions, dtype=float)
    if task.task_type == "multilabel":
        values_K = np.asarray(average_precision(truth_UK, predicted_UK)).reshape(-1)
        return "average precision", truth_UK.sum(axis=0).astype(int).tolist(), (PERCENT * values_K).tolist()
    values_K = np.asarray(r2(truth_UK, predicted_UK)).reshape(-1)
    return "R²", [len(truth_UK)] * truth_UK.shape[1], (PERCENT * values_K).tolist()


def _add_classes(by_class: dict[str, Any], name: str, record: Record, predictions: dict[int, Any]) -> dict[str, Any]:
    task = parse_settings(Task, record.task.task, "the record")
    if task.task_type not in ("multiclass", "multilabel", "regression"):
        return by_class
    scored = [
        class_scores(task, *(list(values) for values in zip(*(clips[unit] for unit in sorted(clips)))))
        for clips in predictions.values()
    ]
    metric, counts, _ = scored[0]
    means = np.mean([scores for _, _, scores in scored], axis=0)
    values = [None if math.isnan(value) else round(float(value), 2) for value in means]
    known = by_class or {
        "metric": metric,
        "classes": [[label, count] for label, count in zip(task.labels, counts)],
        "scores": {},
    }
    if len(values) == len(known["classes"]):
        known["scores"][name] = values
    return known


def _load(record: Record, predictions: dict[int, Any], group_of: dict[str, str]) -> LoadedPredictions | str:
    units = [frozenset(clips) for clips in predictions.values()]
    if len(set(units)) > 1:
        return "its training seeds were scored on different clips"
    task = parse_settings(Task, record.task.task, "the record")
    ids = sorted(units[0])
    groups = [group_of[unit] for unit in ids]
    truths = [next(iter(predictions.values()))[unit][0] for unit in ids]
    seeds = [[to_metric_input(clips[unit][1]) for unit in ids] for clips in predictions.values()]
    counts_GU = resample_counts(groups, task.dataset)
    inputs = [to_metric_input(truth) for truth in truths]
    draws = draw_scores(task, task_types.REGISTRY.get(task.task_type), inputs, seeds, counts_GU)
    identity = sha256_of_json([record.task.version, record.task.fingerprint, ids, groups, truths])
    return LoadedPredictions(ids, groups, identity, draws)


def _compare(
    first: Record,
    second: Record,
    first_loaded: LoadedPredictions | str,
    second_loaded: LoadedPredictions | str,
    results: Path,
) -> TaskComparison | NotComparable:
    for loaded in (first_loaded, second_loaded):
        if isinstance(loaded, str):
            return NotComparable(first.task.name, first.protocol.name, loaded)
    assert isinstance(first_loaded, LoadedPredictions) and isinstance(second_loaded, LoadedPredictions)
    if first_loaded.identity != second_loaded.identity:
        return compare_records(first, second, results)
    groups = len(set(first_loaded.groups))
    raw = subtract_draws(first_loaded.draws, second_loaded.draws, groups)
    return to_task_comparison(first, second, raw, first_loaded.units, first_loaded.groups)
