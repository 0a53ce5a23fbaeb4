"""The linear probe against a plain loop in PyTorch and against scikit-learn's logistic and least-squares fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from carrara.bench.probes.rng import initial_generator, order
from carrara.bench.protocols import constrained
from carrara.bench.protocols.linear import PROTOCOL
from carrara.core.errors import UsageError


@pytest.fixture(autouse=True)
def few_rates(monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 3e-2))


def stacked(side, layer):
    return np.stack([side.layers[layer][rows[0]] for rows in side.rows_U]).astype(np.float32)


def test_it_is_one_linear_layer_trained_by_a_plain_loop(clouds):
    made = clouds(spread=1.0, max_epochs=6)
    outcome = PROTOCOL.run(made.inputs())
    train, valid = made.side("train"), made.side("valid")
    x, target = torch.from_numpy(stacked(train, "1")), torch.tensor(train.truths)
    for point in outcome.grid:
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
            for picks in np.split(order(1234, epoch, 60), [64]):
                if len(picks):
                    adam.zero_grad()
                    F.cross_entropy(layer(x[picks]), target[picks]).backward()
                    adam.step()
            guess = layer(torch.from_numpy(stacked(valid, "1"))).argmax(1)
            scores.append(float((guess == torch.tensor(valid.truths)).float().mean()))
        assert point.valid == pytest.approx(max(scores)) and point.epoch == int(np.argmax(scores))


def test_it_chooses_the_layer_that_can_be_read_and_answers_as_logistic_regression_does(clouds):
    made = clouds(spread=0.5, max_epochs=60)
    outcome = PROTOCOL.run(made.inputs(seeds=(1, 2)))
    assert [chosen["layer"] for chosen in outcome.chosen] == ["1", "1"]
    assert outcome.tried == 12 and {point.layer for point in outcome.grid} == {"0", "1", "weighted-sum"}
    train, test = made.side("train"), made.side("test")
    reference = LogisticRegression().fit(stacked(train, "1"), train.truths).predict(stacked(test, "1"))
    for given in outcome.answers:
        assert np.mean(np.asarray(given) == reference) > 0.9
    assert outcome.read(test) == [list(given) for given in outcome.answers]


def test_no_hidden_layer_means_that_only_straight_borders_are_found(clouds):
    made = clouds(labels=("a", "b"), max_epochs=60)
    for name, features in made.features.items():
        draw = np.random.default_rng(len(name))
        x = draw.choice([-1.0, 1.0], (len(made.truths[name]), 1, 6)) * draw.uniform(0.5, 1, (1, 1, 6))
        made.truths[name] = (x[:, 0, 0] * x[:, 0, 1] > 0).astype(int).tolist()
        features.update({"0": list(x), "1": list(2 * x)})
    linear = PROTOCOL.run(made.inputs())
    one_hidden_layer = constrained.PROTOCOL.run(made.inputs())
    right = [np.mean(np.asarray(outcome.answers[0]) == outcome.truths) for outcome in (linear, one_hidden_layer)]
    assert right[0] < 0.75 and right[1] > 0.95, "exclusive or has no straight border"


def test_numbers_come_near_the_least_squares_fit(clouds, row, monkeypatch):
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-2, 1e-1))
    made = clouds(spread=1.0)
    made.task = row("regression", labels=("x",), metrics=("r2_x",), monitor="r2", max_epochs=200, stop_patience=60)
    slope = np.arange(1.0, 7.0)
    for name, features in made.features.items():
        noise = np.random.default_rng(9).standard_normal(len(features["1"]))
        made.truths[name] = [clip[0] @ slope[:, None] + 0.3 * one for clip, one in zip(features["1"], noise)]
    outcome = PROTOCOL.run(made.inputs())
    train, test = made.side("train"), made.side("test")
    reference = Ridge(1e-3).fit(stacked(train, "1"), np.asarray(train.truths)).predict(stacked(test, "1"))
    error = np.asarray(outcome.answers[0]).ravel() - reference.ravel()
    assert np.sqrt((error**2).mean()) < 0.05 * np.std(reference)


def test_the_test_side_is_opened_after_all_scores_that_choose(clouds, watched_answers):
    made = clouds(max_epochs=3)
    order_of_events = watched_answers(made)
    PROTOCOL.run(made.inputs())
    assert order_of_events[-1] == "test" and set(order_of_events[:-1]) == {"train", "valid", "scored 30"}


def test_stems_are_refused_with_the_protocol_that_can(clouds):
    inputs = clouds().inputs()
    with pytest.raises(UsageError, match="--protocol constrained"):
        PROTOCOL.run(replace(inputs, answer=replace(inputs.answer, run=lambda inputs: None)))
