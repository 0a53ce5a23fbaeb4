"""Nearest centroids against scikit-learn's, against SciPy's distances, and against what k clips a class must mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import accuracy_score
from sklearn.neighbors import NearestCentroid

from carrara.bench.probes.window_ensemble import RULES
from carrara.bench.protocols import few_shot
from carrara.bench.protocols.few_shot import (
    PROTOCOL,
    FewShotSettings,
    centroid_scores,
    compute_centroids,
    draw_shots,
)
from carrara.core.errors import DataError, UsageError

EUCLIDEAN = FewShotSettings(metric="euclidean")


def clip_means(split, layer):
    return np.stack([split.layers[layer][own].astype(np.float32).mean(0) for own in split.rows_U])


def test_all_clips_by_euclidean_distance_are_scikit_learns_nearest_centroid(clouds):
    data = clouds(spread=1.0)
    result = data.run(PROTOCOL, settings=FewShotSettings(shots=60, metric="euclidean"))
    train, valid, test = (data.split(name) for name in ("train", "valid", "test"))
    references = {layer: NearestCentroid().fit(clip_means(train, layer), train.truths) for layer in ("0", "1")}
    for point in result.grid:
        expected = accuracy_score(valid.truths, references[point.layer].predict(clip_means(valid, point.layer)))
        assert point.valid == pytest.approx(expected)
    assert result.chosen == ({"layer": "1"},) and result.tried == 2
    predictions = result.predictor.predict(data.test())[0]
    np.testing.assert_array_equal(predictions, references["1"].predict(clip_means(test, "1")))
    assert 0.5 < accuracy_score(test.truths, predictions) < 1, "no clip is doubtful; the test shows little"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_k_clips_of_each_class_make_the_centroids(clouds, metric):
    data = clouds(spread=1.0)
    train, test = data.split("train"), data.split("test")
    draw = draw_shots(data.task, train.truths, 4, seed=7)
    assert [sorted({train.truths[clip] for clip in own}) for (own,) in draw] == [[0], [1], [2]]
    assert [len(set(own.tolist())) for (own,) in draw] == [4, 4, 4]
    scores = centroid_scores(compute_centroids(train, "1", draw, metric), test, "1").numpy()
    x, reference = clip_means(train, "1"), clip_means(test, "1")
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([x[own].mean(0) for (own,) in draw])
    distance = cdist(reference, means, metric)
    np.testing.assert_allclose(scores, 1 - distance if metric == "cosine" else -distance, atol=1e-5)


def test_draws_differ_by_seed_and_nest_so_that_more_shots_keep_the_fewer(clouds):
    data = clouds()
    truths = data.truths["train"]
    few, more, other = (draw_shots(data.task, truths, shots, seed) for shots, seed in ((2, 1), (8, 1), (2, 2)))
    for (small,), (large,) in zip(few, more):
        np.testing.assert_array_equal(small, large[:2])
    assert any(set(own.tolist()) != set(others.tolist()) for (own,), (others,) in zip(few, other))
    data = clouds(spread=1.5)
    result = data.run(PROTOCOL, seeds=(1, 2, 3), settings=FewShotSettings(shots=1))
    predictions = result.predictor.predict(data.test())
    assert len(predictions) == len(result.chosen) == 3 and result.tried == 6
    assert len({tuple(own) for own in predictions}) > 1


def test_more_shots_score_higher(clouds):
    data = clouds(spread=1.2)
    right = []
    for shots in (1, 16):
        result = data.run(PROTOCOL, seeds=tuple(range(12)), settings=FewShotSettings(shots=shots))
        predictions = result.predictor.predict(data.test())
        right.append(np.mean([accuracy_score(data.truths["test"], own) for own in predictions]))
    assert right[1] > right[0] + 0.05


def test_a_class_without_clips_is_never_predicted_and_one_with_few_gives_them_all(clouds):
    data = clouds(spread=2.0)
    data.truths["train"] = [0] * 2 + [1] * 58
    draw = draw_shots(data.task, data.truths["train"], 5, seed=1)
    assert [len(own) for (own,) in draw] == [2, 5, 0] and set(draw[0][0].tolist()) == {0, 1}
    result = data.run(PROTOCOL, settings=EUCLIDEAN)
    assert set(result.predictor.predict(data.test())[0]) == {0, 1}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_tags_have_a_centroid_with_and_one_without(clouds, make_task, metric):
    data = clouds(spread=0.8)
    data.task = make_task("multilabel", labels=("a", "b", "c", "never"), metrics=("roc_auc",), monitor="roc_auc")
    for name, truths in data.truths.items():
        data.truths[name] = [np.array([truth == 0, truth < 2, truth > 0, 0], dtype=np.float32) for truth in truths]
    train, test = data.split("train"), data.split("test")
    draw = draw_shots(data.task, train.truths, 6, seed=3)
    for tag, groups in enumerate(draw[:3]):
        assert [sorted({train.truths[clip][tag] for clip in group}) for group in groups] == [[1], [0]]
        assert [len(group) for group in groups] == [6, 6]
    scores = centroid_scores(compute_centroids(train, "1", draw, metric), test, "1").numpy()
    np.testing.assert_array_equal(scores[:, 3], 0)
    x = clip_means(train, "1")
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    for tag, (positive, negative) in enumerate(draw[:3]):
        near, far = cdist(clip_means(test, "1"), np.stack([x[positive].mean(0), x[negative].mean(0)]), metric).T
        np.testing.assert_allclose(scores[:, tag], far - near, atol=1e-5)
    with pytest.warns(UserWarning, match="never"):
        result = data.run(PROTOCOL, settings=FewShotSettings(shots=10, metric=metric))
    assert result.chosen[0]["layer"] == "1" and result.grid[1].valid > 0.9


def test_clips_of_several_windows_count_once_and_a_rule_combines_their_windows(clouds):
    for aggregate in ("logit", "ensemble", "window"):
        monitor = "accuracy_windows" if aggregate == "window" else "accuracy"
        data = clouds(spread=0.2, window_seconds=1.0, aggregate=aggregate, metrics=(monitor,), monitor=monitor)
        for name, features in data.features.items():
            counts = np.random.default_rng(1).integers(1, 5, len(data.truths[name]))
            features.update({layer: [clip.repeat(n, 0) for clip, n in zip(clips, counts)]
                             for layer, clips in features.items()})  # fmt: skip
        train, draw = data.split("train"), [[np.array([0, 4])]]
        by_clip = compute_centroids(train, "1", draw, "euclidean").with_KD[0]
        np.testing.assert_allclose(by_clip, clip_means(train, "1")[[0, 4]].mean(0), atol=1e-6)
        result = data.run(PROTOCOL)
        predictions = result.predictor.predict(data.test())[0]
        if aggregate == "window":
            assert [len(own) for own in predictions] == [len(own) for own in data.test().rows_U]
            predictions = [own[0] for own in predictions]
        assert accuracy_score(data.truths["test"], predictions) > 0.9
        assert ("windows" in result.chosen[0]) == (aggregate == "ensemble")
        assert result.chosen[0].get("windows", "vote") in RULES


def test_rows_are_compared_block_by_block(clouds, monkeypatch):
    data = clouds()
    centroids = compute_centroids(data.split("train"), "1", [[np.arange(9)]], "cosine")
    at_once = centroid_scores(centroids, data.test(), "1")
    monkeypatch.setattr(few_shot, "BLOCK_ROWS", 7)
    np.testing.assert_allclose(centroid_scores(centroids, data.test(), "1"), at_once, atol=1e-6)


def test_a_task_without_centroids_is_refused_and_one_without_a_finite_score_is_named(clouds, make_task):
    data = clouds()
    data.task = make_task("regression", labels=("x",), metrics=("r2",), monitor="r2")
    refusal = r"regression has no centroids.*multiclass or multilabel.*--protocol constrained"
    with pytest.raises(UsageError, match=refusal):
        data.run(PROTOCOL)
    data.task = make_task("multilabel", labels=("a",), metrics=("roc_auc",), monitor="roc_auc")
    data.truths = {name: [np.ones(1, dtype=np.float32)] * len(truths) for name, truths in data.truths.items()}
    with (
        pytest.warns(UserWarning, match="no positive or no negative"),
        pytest.raises(DataError, match="no layer reached a finite roc_auc"),
    ):
        data.run(PROTOCOL)
