"""Nearest centroids against scikit-learn's, against SciPy's distances, and against what k clips a class must mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import accuracy_score
from sklearn.neighbors import NearestCentroid

from carrara.bench.probes.window_ensemble import RULES
from carrara.bench.protocols import few_shot
from carrara.bench.protocols.few_shot import PROTOCOL, FewShotSettings, centroids, drawn, similarities
from carrara.core.errors import DataError, UsageError

EUCLIDEAN = FewShotSettings(metric="euclidean")


def rows(side, layer):
    return np.stack([side.layers[layer][own].astype(np.float32).mean(0) for own in side.rows_U])


def test_all_clips_by_euclidean_distance_are_scikit_learns_nearest_centroid(clouds):
    made = clouds(spread=1.0)
    outcome = PROTOCOL.run(made.inputs(settings=FewShotSettings(shots=60, metric="euclidean")))
    train, valid, test = (made.side(name) for name in ("train", "valid", "test"))
    references = {layer: NearestCentroid().fit(rows(train, layer), train.truths) for layer in ("0", "1")}
    for point in outcome.grid:
        expected = accuracy_score(valid.truths, references[point.layer].predict(rows(valid, point.layer)))
        assert point.valid == pytest.approx(expected)
    assert outcome.chosen == ({"layer": "1"},) and outcome.tried == 2
    np.testing.assert_array_equal(outcome.answers[0], references["1"].predict(rows(test, "1")))
    assert 0.5 < accuracy_score(outcome.truths, outcome.answers[0]) < 1, "no clip is doubtful; the test shows little"
    assert outcome.read(test) == [list(given) for given in outcome.answers]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_k_clips_of_each_class_make_the_centroids(clouds, metric):
    made = clouds(spread=1.0)
    inputs, train, test = made.inputs(), made.side("train"), made.side("test")
    picks = drawn(inputs, train.truths, 4, seed=7)
    assert [sorted({train.truths[clip] for clip in own}) for (own,) in picks] == [[0], [1], [2]]
    assert [len(set(own.tolist())) for (own,) in picks] == [4, 4, 4]
    found = similarities(centroids(train, "1", picks, metric), test, "1").numpy()
    x, reference = rows(train, "1"), rows(test, "1")
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([x[own].mean(0) for (own,) in picks])
    distance = cdist(reference, means, metric)
    np.testing.assert_allclose(found, 1 - distance if metric == "cosine" else -distance, atol=1e-5)


def test_draws_differ_by_seed_and_nest_so_that_more_shots_keep_the_fewer(clouds):
    inputs, truths = clouds().inputs(), clouds().truths["train"]
    few, more, other = (drawn(inputs, truths, shots, seed) for shots, seed in ((2, 1), (8, 1), (2, 2)))
    for (small,), (large,) in zip(few, more):
        np.testing.assert_array_equal(small, large[:2])
    assert any(set(one.tolist()) != set(two.tolist()) for (one,), (two,) in zip(few, other))
    outcome = PROTOCOL.run(clouds(spread=1.5).inputs(seeds=(1, 2, 3), settings=FewShotSettings(shots=1)))
    assert len(outcome.answers) == len(outcome.chosen) == 3 and outcome.tried == 6
    assert len({tuple(given) for given in outcome.answers}) > 1


def test_more_shots_come_nearer_to_the_truth(clouds):
    made = clouds(spread=1.2)
    right = []
    for shots in (1, 16):
        outcome = PROTOCOL.run(made.inputs(seeds=tuple(range(12)), settings=FewShotSettings(shots=shots)))
        right.append(np.mean([accuracy_score(outcome.truths, given) for given in outcome.answers]))
    assert right[1] > right[0] + 0.05


def test_a_class_without_clips_is_never_answered_and_one_with_few_gives_them_all(clouds):
    made = clouds(spread=2.0)
    made.truths["train"] = [0] * 2 + [1] * 58
    picks = drawn(made.inputs(), made.truths["train"], 5, seed=1)
    assert [len(own) for (own,) in picks] == [2, 5, 0] and set(picks[0][0].tolist()) == {0, 1}
    outcome = PROTOCOL.run(made.inputs(settings=EUCLIDEAN))
    assert set(outcome.answers[0]) == {0, 1}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_tags_have_a_centroid_on_either_side(clouds, row, metric):
    made = clouds(spread=0.8)
    made.task = row("multilabel", labels=("a", "b", "c", "never"), metrics=("roc_auc",), monitor="roc_auc")
    for name, truths in made.truths.items():
        made.truths[name] = [np.array([truth == 0, truth < 2, truth > 0, 0], dtype=np.float32) for truth in truths]
    inputs, train, test = made.inputs(), made.side("train"), made.side("test")
    picks = drawn(inputs, train.truths, 6, seed=3)
    for tag, groups in enumerate(picks[:3]):
        assert [sorted({train.truths[clip][tag] for clip in group}) for group in groups] == [[1], [0]]
        assert [len(group) for group in groups] == [6, 6]
    found = similarities(centroids(train, "1", picks, metric), test, "1").numpy()
    np.testing.assert_array_equal(found[:, 3], 0)
    x = rows(train, "1")
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    for tag, (positive, negative) in enumerate(picks[:3]):
        near, far = cdist(rows(test, "1"), np.stack([x[positive].mean(0), x[negative].mean(0)]), metric).T
        np.testing.assert_allclose(found[:, tag], far - near, atol=1e-5)
    with pytest.warns(UserWarning, match="never"):
        outcome = PROTOCOL.run(made.inputs(settings=FewShotSettings(shots=10, metric=metric)))
    assert outcome.chosen[0]["layer"] == "1" and outcome.grid[1].valid > 0.9


def test_clips_of_several_windows_count_once_and_their_windows_are_joined(clouds):
    for aggregate in ("logit", "ensemble", "window"):
        watch = "accuracy_windows" if aggregate == "window" else "accuracy"
        made = clouds(spread=0.2, window_seconds=1.0, aggregate=aggregate, scores=(watch,), watch=watch)
        for name, features in made.features.items():
            counts = np.random.default_rng(1).integers(1, 5, len(made.truths[name]))
            features.update({layer: [clip.repeat(n, 0) for clip, n in zip(clips, counts)]
                             for layer, clips in features.items()})  # fmt: skip
        train, picks = made.side("train"), [[np.array([0, 4])]]
        by_clip = centroids(train, "1", picks, "euclidean").with_KD[0]
        np.testing.assert_allclose(by_clip, rows(train, "1")[[0, 4]].mean(0), atol=1e-6)
        outcome = PROTOCOL.run(made.inputs())
        given = outcome.answers[0]
        if aggregate == "window":
            assert [len(own) for own in given] == [len(own) for own in made.side("test").rows_U]
            given = [own[0] for own in given]
        assert accuracy_score(outcome.truths, given) > 0.9
        assert ("windows" in outcome.chosen[0]) == (aggregate == "ensemble")
        assert outcome.chosen[0].get("windows", "vote") in RULES


def test_rows_are_compared_block_by_block(clouds, monkeypatch):
    made = clouds()
    found = centroids(made.side("train"), "1", [[np.arange(9)]], "cosine")
    at_once = similarities(found, made.side("test"), "1")
    monkeypatch.setattr(few_shot, "BLOCK_ROWS", 7)
    np.testing.assert_allclose(similarities(found, made.side("test"), "1"), at_once, atol=1e-6)


def test_the_test_side_is_opened_after_all_scores_that_choose(clouds, watched_answers):
    made = clouds()
    order_of_events = watched_answers(made)
    PROTOCOL.run(made.inputs(seeds=(1, 2)))
    assert order_of_events == ["train", "valid", *["scored 30"] * 4, "test"]


def test_what_has_no_centroid_is_refused_and_a_score_that_is_none_is_told(clouds, row):
    made = clouds()
    made.task = row("regression", labels=("x",), metrics=("r2",), monitor="r2")
    with pytest.raises(
        UsageError, match=r"numbers have no centroids.*multiclass and multilabel.*--protocol constrained"
    ):
        PROTOCOL.run(made.inputs())
    made.task = row("multilabel", labels=("a",), metrics=("roc_auc",), monitor="roc_auc")
    made.truths = {name: [np.ones(1, dtype=np.float32)] * len(truths) for name, truths in made.truths.items()}
    with (
        pytest.warns(UserWarning, match="no positive or no negative"),
        pytest.raises(DataError, match="no layer reached a finite roc_auc"),
    ):
        PROTOCOL.run(made.inputs())
