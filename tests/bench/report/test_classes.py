"""Confusion, scores by class and the map of features against definitions written here with NumPy."""

import numpy as np
import pytest

from carrara.bench.leaderboard.ranking import build_leaderboard
from carrara.bench.predictions import predictions_path, write_predictions
from carrara.bench.report.classes import average_precision_by_tag, class_results, f1_by_class, label_and_prediction
from carrara.bench.report.feature_map import principal_components
from carrara.core.clip import Clip
from carrara.core.record import Record

LABELS = ["a", "b", "c"]
TRUTHS = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 0, 0]


def record(task_type, name="net"):
    return Record.model_validate(
        {
            "task": {
                "name": f"pebble/{task_type}",
                "version": 1,
                "fingerprint": "f",
                "task": {"metrics": ["m"], "task_type": task_type, "labels": LABELS, "label": "x"},
            },
            "data": {"name": "pebble", "index": "i", "n": {"test": 6}},
            "encoder": {"name": name, "weights_sha256": "ab", "output_version": 1, "parameters": 3},
            "protocol": {"name": "constrained", "version": 1, "tried": 1, "chosen": {}, "monitor": "valid"},
            "grid": [],
            "scores": {"m": {"value": 0.5, "low": 0.4, "high": 0.6, "unit": "clip", "n": 6}},
            "run": {"seed": 1, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "", "command": ""},
        }
    )


def clips(tmp_path):
    return [Clip(id=f"clip-{number}", path=tmp_path / f"{number}.wav") for number in range(6)]


def test_classes_of_a_multiclass_task(tmp_path):
    stored = record("multiclass")
    path = predictions_path(stored, tmp_path)
    path.parent.mkdir(parents=True)
    write_predictions(path, clips(tmp_path), TRUTHS, [PREDICTIONS], [1])
    (result,) = class_results(build_leaderboard([stored, record("multiclass", "without-predictions")]), tmp_path)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (TRUTHS, PREDICTIONS), 1)
    assert result["matrices"] == {"net": expected.tolist()}
    # Precision 2/4 and recall 2/3; precision and recall 1/2; nothing right.
    f1 = [2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3), 0.5, 0]
    np.testing.assert_allclose(f1_by_class(expected), f1)
    assert result["rows"] == [("a", 3, ["57"]), ("b", 2, ["50"]), ("c", 1, ["0"])]
    assert label_and_prediction(stored, tmp_path, "clip-2") == ("a", "b")
    assert label_and_prediction(stored, tmp_path, "another") is None


def test_windows_vote_and_tags_have_a_precision(tmp_path):
    voted = record("multiclass")
    predictions_path(voted, tmp_path).parent.mkdir(parents=True)
    windows = [[prediction, prediction, 2] for prediction in PREDICTIONS]
    write_predictions(predictions_path(voted, tmp_path), clips(tmp_path), TRUTHS, [windows], [1])
    assert class_results(build_leaderboard([voted]), tmp_path)[0]["rows"][0] == ("a", 3, ["57"])

    tagged = record("multilabel")
    truths = [np.array([1, 0, 1]), *[np.array([0, 0, 1])] * 5]
    probabilities = [np.array([0.6, 0.2, 0.9]), np.array([0.9, 0.2, 0.9]), *[np.array([0.1, 0.2, 0.9])] * 4]
    write_predictions(predictions_path(tagged, tmp_path), clips(tmp_path), truths, [probabilities], [1])
    (result,) = class_results(build_leaderboard([tagged]), tmp_path)
    assert result["rows"] == [("a", 1, ["50"]), ("c", 6, ["–"])], "c is in every clip; b in none"
    assert label_and_prediction(tagged, tmp_path, "clip-0") == ("a, c", "a, c")


def test_average_precision_of_a_tag_is_the_mean_of_the_precisions_at_its_clips():
    truth_UK = np.array([[1], [0], [1], [0]])
    assert average_precision_by_tag(truth_UK, np.array([[0.9], [0.8], [0.7], [0.1]])) == pytest.approx((1 + 2 / 3) / 2)


def test_principal_components_are_those_of_the_correlation_matrix():
    features_UD = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([1, 5, 2, 1])
    features_UD[:, 3] += features_UD[:, 0]
    points_U2, shares = principal_components(features_UD)
    values = np.sort(np.linalg.eigvalsh(np.corrcoef(features_UD.T)))[::-1]
    np.testing.assert_allclose(shares, values[:2] / 4)
    np.testing.assert_allclose(points_U2.var(0), values[:2])
