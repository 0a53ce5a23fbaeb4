"""Retrieval: metrics against brute force and scikit-learn, queries without a positive, the choice of a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from carrara.bench.interval import confidence_intervals
from carrara.bench.task_types import REGISTRY
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.metrics.retrieval import query_scores, score_queries

METRICS = ("map", "mrr", "hit_at_1", "hit_at_5", "hit_at_10", "r_precision", "with_positive")
TASK = Task(
    version=1, dataset="d", split_scheme="s", task_type="retrieval", label="song", labels=("similarity",),
    metrics=METRICS[:1], extra_metrics=METRICS[1:], monitor="map", category="high-level", name="d/covers",
)  # fmt: skip
RETRIEVAL = REGISTRY.get("retrieval")


def brute_force(embeddings, labels, query):
    """The metrics of one query, straight from their definitions; None without a positive."""
    unit = [e / np.linalg.norm(e) for e in embeddings]
    others = [i for i in range(len(labels)) if i != query]
    ranked = sorted(others, key=lambda i: -float(unit[i] @ unit[query]))
    relevant = [labels[i] == labels[query] and labels[query] is not None for i in ranked]
    count = sum(relevant)
    if not count:
        return None
    precisions = [sum(relevant[: k + 1]) / (k + 1) for k in range(len(ranked)) if relevant[k]]
    return {
        "map": sum(precisions) / count,
        "mrr": 1 / (relevant.index(True) + 1),
        **{f"hit_at_{k}": float(any(relevant[:k])) for k in (1, 5, 10)},
        "r_precision": sum(relevant[:count]) / count,
    }


def test_scores_equal_brute_force_on_a_thousand_queries():
    draw, queries = np.random.default_rng(0), 0
    while queries < 1000:
        count = int(draw.integers(3, 40))
        labels = [None if draw.random() < 0.1 else f"s{draw.integers(count // 2 + 1)}" for _ in range(count)]
        embeddings = draw.normal(size=(count, 6))
        for query, found in enumerate(score_queries(embeddings, labels)):
            expected = brute_force(embeddings, labels, query)
            assert found == (None if expected is None else pytest.approx(expected))
            queries += 1


def test_map_is_scikit_learns():
    draw = np.random.default_rng(1)
    labels, embeddings = [f"s{i % 7}" for i in range(40)], draw.normal(size=(40, 5))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = []
    for query in range(40):
        others = np.arange(40) != query
        relevant = np.array([label == labels[query] for label in labels])[others]
        expected.append(average_precision_score(relevant, (unit @ unit[query])[others]))
    assert RETRIEVAL.metrics(TASK, labels, list(embeddings))["map"] == pytest.approx(np.mean(expected))


def test_queries_without_a_positive_are_counted_apart():
    embeddings = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]]
    found = RETRIEVAL.metrics(TASK, ["a", "a", "b", None], embeddings)
    assert found["map"] == found["r_precision"] == 1.0
    assert found["with_positive"] == pytest.approx(2 / 3)
    assert np.isnan(RETRIEVAL.metrics(TASK, ["a", "b"], embeddings[:2])["map"])


def test_a_zero_embedding_and_equal_similarities_have_a_defined_order():
    assert score_queries(np.zeros((3, 2)), ["a", "b", "a"])[0] == query_scores(np.array([2]))


def test_intervals_resample_queries_and_leave_the_collection_whole():
    draw = np.random.default_rng(2)
    labels = [f"s{i // 3}" for i in range(60)]
    centres = draw.normal(size=(20, 8))
    embeddings = [centres[i // 3] + draw.normal(0, 1.2, 8) for i in range(60)]
    found = confidence_intervals(TASK, RETRIEVAL, labels, [embeddings], groups=labels, draws=400)
    value = RETRIEVAL.metrics(TASK, labels, embeddings)["map"]
    assert found["map"].method == "wilson" and found["map"].groups == 20
    assert found["map"].low < value < found["map"].high
    by_song = np.array([s["map"] for s in score_queries(np.array(embeddings), labels)]).reshape(20, 3).mean(1)
    assert found["map"].draw_G.std() == pytest.approx(by_song.std(ddof=1) / np.sqrt(20), rel=0.2)


def test_labels():
    clips = [Clip("a", Path("a.wav"), labels={"song": 7}), Clip("b", Path("b.wav"))]
    assert RETRIEVAL.truths(TASK, clips) == ["7", None]
    with pytest.raises(DataError, match="no clip has a label"):
        RETRIEVAL.truths(TASK, clips[1:])
    with pytest.raises(DataError, match="one label"):
        RETRIEVAL.truths(TASK, [Clip("a", Path("a.wav"), labels={"song": ["x"]})])
    with pytest.raises(UsageError, match="similarity"):
        RETRIEVAL.check(TASK.model_copy(update={"labels": ("song",)}))
    with pytest.raises(UsageError, match="aggregate"):
        RETRIEVAL.check(TASK.model_copy(update={"aggregate": "logit"}))


def test_a_layer_is_chosen_on_validation_and_nothing_is_trained(measure, task):
    covers = task(
        "retrieval",
        labels=("similarity",),
        metrics=("map",),
        extra_metrics=METRICS[1:],
        monitor="map",
        name="tones/same",
    )
    (record,) = measure(covers)
    assert record.scores["map"].value > 0.7 and record.scores["with_positive"].value == 1
    assert record.protocol.tried == 4 and len(record.grid) == 4
    best = max(record.grid, key=lambda point: point.valid)
    assert record.protocol.chosen["layer"] == best.layer and record.protocol.chosen["valid"] == best.valid
    with pytest.raises(UsageError, match="retrieval trains no probe; use --protocol constrained"):
        measure(covers, protocol="linear")
