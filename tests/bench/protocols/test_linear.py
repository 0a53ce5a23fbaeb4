"""The linear probe against a plain loop in PyTorch and against scikit-learn's logistic and least-squares fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from carrara.bench.probes.rng import epoch_permutation, initial_generator
from carrara.bench.protocols import constrained
from carrara.bench.protocols.linear import PROTOCOL
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.errors import UsageError


@pytest.fixture(autouse=True)
def few_rates(monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 3e-2))


def stacked(split, layer):
    return np.stack([split.layers[layer][rows[0]] for rows in split.rows_U]).astype(np.float32)


def test_it_is_one_linear_layer_trained_by_a_plain_loop(clouds):
    data = clouds(spread=1.0, max_epochs=6)
    result = data.run(PROTOCOL)
    train, valid = data.split("train"), data.split("valid")
    x, target = torch.from_numpy(stacked(train, "1")), torch.tensor(train.truths)
    for point in result.grid:
        if point.layer != "1":
            continue
        generator = initial_generator(1234, "1", point.learning_rate)
        layer = torch.nn.Linear(6, 3)
        with torch.no_grad():
            layer.weight.uniform_(-(6**-0.5), 6**-0.5, generator=generator)
            layer.bias.uniform_(-(6**-0.5), 6**-0.5, generator=generator)
        adam = torch.optim.Adam(layer.parameters(), lr=point.learning_rate)
        scores = []
        for epoch in range(6):
            for picks in np.split(epoch_permutation(1234, epoch, 60), [64]):
                if len(picks):
                    adam.zero_grad()
                    F.cross_entropy(layer(x[picks]), target[picks]).backward()
                    adam.step()
            guess = layer(torch.from_numpy(stacked(valid, "1"))).argmax(1)
            scores.append(float((guess == torch.tensor(valid.truths)).float().mean()))
        assert point.valid == pytest.approx(max(scores)) and point.epoch == int(np.argmax(scores))


def test_it_chooses_the_readable_layer_and_predicts_as_logistic_regression_does(clouds):
    data = clouds(spread=0.5, max_epochs=60)
    result = data.run(PROTOCOL, seeds=(1, 2))
    assert [chosen["layer"] for chosen in result.chosen] == ["1", "1"]
    assert result.tried == 12 and {point.layer for point in result.grid} == {"0", "1", "weighted-sum"}
    train, test = data.split("train"), data.split("test")
    reference = LogisticRegression().fit(stacked(train, "1"), train.truths).predict(stacked(test, "1"))
    for predictions in result.predictor.predict(data.test()):
        assert np.mean(np.asarray(predictions) == reference) > 0.9


def test_without_a_hidden_layer_decision_boundaries_are_linear(clouds):
    data = clouds(labels=("a", "b"), max_epochs=60)
    for name, features in data.features.items():
        draw = np.random.default_rng(len(name))
        x = draw.choice([-1.0, 1.0], (len(data.truths[name]), 1, 6)) * draw.uniform(0.5, 1, (1, 1, 6))
        data.truths[name] = (x[:, 0, 0] * x[:, 0, 1] > 0).astype(int).tolist()
        features.update({"0": list(x), "1": list(2 * x)})
    linear, one_hidden_layer = (
        np.mean(np.asarray(data.run(protocol).predictor.predict(data.test())[0]) == data.truths["test"])
        for protocol in (PROTOCOL, constrained.PROTOCOL)
    )
    assert linear < 0.75 and one_hidden_layer > 0.95, "exclusive or has no straight border"


@pytest.mark.slow
def test_regression_comes_near_the_least_squares_fit(clouds, make_task, monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-2, 1e-1))
    data = clouds(spread=1.0)
    data.task = make_task(
        "regression", labels=("x",), metrics=("r2_x",), monitor="r2", max_epochs=200, stop_patience=60
    )
    slope = np.arange(1.0, 7.0)
    for name, features in data.features.items():
        noise = np.random.default_rng(9).standard_normal(len(features["1"]))
        data.truths[name] = [clip[0] @ slope[:, None] + 0.3 * error for clip, error in zip(features["1"], noise)]
    predictions = data.run(PROTOCOL).predictor.predict(data.test())[0]
    train, test = data.split("train"), data.split("test")
    reference = Ridge(1e-3).fit(stacked(train, "1"), np.asarray(train.truths)).predict(stacked(test, "1"))
    error = np.asarray(predictions).ravel() - reference.ravel()
    assert np.sqrt((error**2).mean()) < 0.05 * np.std(reference)


def test_the_convolutional_features_are_one_more_layer_but_no_part_of_the_sum(clouds):
    data = clouds(max_epochs=2)
    for features in data.features.values():
        features["cnn"] = [clip[:, :3] for clip in features["1"]]
    result = data.run(PROTOCOL, settings=constrained.SearchSettings(layers="transformer+cnn"))
    assert {point.layer for point in result.grid} == {"0", "1", "cnn", "weighted-sum"}
    spec = PROTOCOL.window_spec(
        data.task, data.task_type, data.inputs().encoder.card, constrained.SearchSettings(layers="transformer+cnn")
    )
    assert spec.cnn
    assert not PROTOCOL.window_spec(
        data.task, data.task_type, data.inputs().encoder.card, constrained.SearchSettings()
    ).cnn


@pytest.mark.parametrize("protocol", [PROTOCOL, constrained.PROTOCOL], ids=["linear", "constrained"])
def test_standardise_trains_and_predicts_as_on_features_that_scikit_learn_standardised(clouds, protocol):
    def skewed():
        data = clouds(spread=1.0, max_epochs=5)
        for features in data.features.values():
            features["1"] = [clip * [1e-3, 1, 30, 1, 1, 1] + [0, 5, 0, 0, 100, 0] for clip in features["1"]]
            for clip in features["0"]:
                clip[:, 2] = 7.0  # a constant is no reason to divide by 0
        return data

    data, prepared = skewed(), skewed()
    for layer in ("0", "1"):
        scaler = StandardScaler().fit(stacked(data.split("train"), layer).astype(np.float64))
        for name in prepared.features:
            prepared.features[name][layer] = list(scaler.transform(stacked(data.split(name), layer))[:, None])
    settings = constrained.SearchSettings(standardise=True)
    result, reference = data.run(protocol, settings=settings), prepared.run(protocol)
    assert [(point.layer, point.learning_rate) for point in result.grid] == [
        (point.layer, point.learning_rate) for point in reference.grid
    ]
    # The reference is rounded to half precision after the standardisation, the other one before it.
    assert np.allclose([p.valid for p in result.grid], [p.valid for p in reference.grid], atol=0.04)
    own, theirs = result.predictor.predict(data.test())[0], reference.predictor.predict(prepared.test())[0]
    assert result.chosen == reference.chosen and np.mean(np.asarray(own) == np.asarray(theirs)) > 0.97
    assert data.run(protocol).grid != result.grid


def test_mean_and_deviation_are_a_setting_of_the_windows(clouds, make_task, card_only):
    data, settings = clouds(), constrained.SearchSettings(pooling="mean-std")
    spec = PROTOCOL.window_spec(data.task, data.task_type, card_only().card, settings)
    assert spec.pool == "mean-std"
    assert spec.model_copy(update={"pool": "mean"}) == PROTOCOL.window_spec(
        data.task, data.task_type, card_only().card, constrained.SearchSettings()
    )
    beats, key = make_task("beat_tracking", labels=("beat",)), make_task("retrieval", metrics=("map",), monitor="map")
    with pytest.raises(UsageError, match="beat_tracking reads each frame alone; leave --set pooling out"):
        PROTOCOL.window_spec(beats, TASK_TYPES.get("beat_tracking"), card_only().card, settings)
    with pytest.raises(UsageError, match="it tries standardised features by itself; leave --set standardise out"):
        constrained.PROTOCOL.window_spec(
            key, TASK_TYPES.get("retrieval"), card_only().card, constrained.SearchSettings(standardise=True)
        )


def test_retrieval_is_refused_with_the_protocol_for_it(clouds, make_task):
    data = clouds()
    data.task = make_task("retrieval", metrics=("map",), monitor="map")
    with pytest.raises(UsageError, match=r"retrieval trains no probe; use --protocol constrained"):
        data.run(PROTOCOL)
