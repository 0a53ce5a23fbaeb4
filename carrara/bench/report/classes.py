"""Classes and tags of the test clips: confusion matrices and scores of each class, from stored predictions.

Letters: U clips, K classes or tags, T true classes, P predicted classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.leaderboard.ranking import PERCENT, Leaderboard
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.core.record import Record

MAX_CLASSES = 40


def class_results(leaderboard: Leaderboard, results: Path) -> list[dict[str, Any]]:
    """Return for each multiclass and multilabel task what its systems did with each class.

    Only systems whose predictions are stored, floors left out, and only the first seed's.

    Args:
        leaderboard: the systems and their records.
        results: the folder of the records, which has the predictions beside them.

    Raises:
        StoreError: predictions are damaged.
    """
    shown = []
    for task in leaderboard.tasks:
        records = {
            system.name: system.results[task].record
            for system in leaderboard.systems
            if task in system.results and not system.is_floor
        }
        records = {name: record for name, record in records.items() if predictions_path(record, results).is_file()}
        if not records:
            continue
        description = next(iter(records.values())).task.task
        labels = list(description.get("labels", ()))
        if description.get("task_type") == "multiclass":
            matrices = {name: _confusion(record, results, len(labels)) for name, record in records.items()}
            scores = {name: f1_by_class(matrix_TP) for name, matrix_TP in matrices.items()}
            counts = next(iter(matrices.values())).sum(1)
            # A matrix of very many classes is no picture any more.
            drawn = {name: matrix_TP.tolist() for name, matrix_TP in matrices.items() if len(labels) <= MAX_CLASSES}
            metric = "F1"
        elif description.get("task_type") == "multilabel":
            pairs = {name: _tag_arrays(record, results) for name, record in records.items()}
            scores = {name: average_precision_by_tag(*pair) for name, pair in pairs.items()}
            counts = next(iter(pairs.values()))[0].sum(0)
            drawn, metric = {}, "average precision"
        else:
            continue
        shown.append(
            {
                "task": task,
                "labels": labels,
                "metric": metric,
                "matrices": drawn,
                "systems": list(records),
                "rows": [
                    (label, int(counts[k]), [_percent(scores[name][k]) for name in records])
                    for k, label in enumerate(labels)
                    if counts[k]
                ],
            }
        )
    return shown


def f1_by_class(matrix_TP: np.ndarray) -> np.ndarray:
    """Return F1 of each class of a confusion matrix `[true, predicted]`; 0 where nothing is right."""
    right_K = np.diag(matrix_TP)
    return 2 * right_K / np.maximum(matrix_TP.sum(0) + matrix_TP.sum(1), 1)


def average_precision_by_tag(truth_UK: np.ndarray, probability_UK: np.ndarray) -> np.ndarray:
    """Return the average precision of each tag, NaN where no clip has it or every clip has it."""
    from sklearn.metrics import average_precision_score

    return np.array(
        [
            average_precision_score(truth_U, probability_U) if 0 < truth_U.mean() < 1 else np.nan
            for truth_U, probability_U in zip(truth_UK.T, probability_UK.T)
        ]
    )


def label_and_prediction(record: Record, results: Path, clip_id: str) -> tuple[str, str] | None:
    """Return the label of a test clip and what a system predicted, as text; None where no text or prediction is there.

    Of a multilabel task the tags of a probability over one half.

    Raises:
        StoreError: predictions are damaged.
    """
    path = predictions_path(record, results)
    pair = _first_seed(path).get(clip_id) if path.is_file() else None
    if pair is None:
        return None
    labels = list(record.task.task.get("labels", ()))
    truth, prediction = pair
    if record.task.task["task_type"] == "multiclass":
        return str(labels[truth]), str(labels[_vote(prediction)])
    if record.task.task["task_type"] == "multilabel":
        first, second = (
            ", ".join(tag for tag, value in zip(labels, values) if value > 0.5) or "none" for values in pair
        )
        return first, second
    if record.task.task["task_type"] == "regression":
        first, second = (
            ", ".join(f"{name} {value:.2f}" for name, value in zip(labels, np.atleast_1d(values))) for values in pair
        )
        return first, second
    return None


def _confusion(record: Record, results: Path, num_classes: int) -> np.ndarray:
    from sklearn.metrics import confusion_matrix

    pairs = _first_seed(predictions_path(record, results)).values()
    truths, predictions = [truth for truth, _ in pairs], [_vote(prediction) for _, prediction in pairs]
    return np.asarray(confusion_matrix(truths, predictions, labels=range(num_classes)))


def _tag_arrays(record: Record, results: Path) -> tuple[np.ndarray, np.ndarray]:
    pairs = list(_first_seed(predictions_path(record, results)).values())
    return np.array([truth for truth, _ in pairs]), np.array([prediction for _, prediction in pairs])


def _first_seed(path: Path) -> dict[str, tuple[Any, Any]]:
    return next(iter(read_predictions(path).values()))


def _vote(prediction: int | list[int]) -> int:
    """Return a class, the most frequent where each window has its own."""
    return int(np.bincount(prediction).argmax()) if isinstance(prediction, list) else int(prediction)


def _percent(value: float) -> str:
    return f"{PERCENT * value:.0f}" if np.isfinite(value) else "–"
