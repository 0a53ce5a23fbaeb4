"""JukeMIR's grid and MAEST's probe against plain PyTorch loops, their published numbers, and what they refuse."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from carrara.bench.protocols import jukemir, maest
from carrara.core.errors import UsageError

SMALL = {"learning_rates": (1e-3, 1e-2), "dropouts": (0.25, 0.5), "l2": (0.0, 1e-3), "patience": 6, "check_every": 4}


def cross_entropy(logits_PBK, targets_B):
    return torch.stack([F.cross_entropy(logits_BK, targets_B) for logits_BK in logits_PBK])


def accuracies(truth_R):
    return lambda logits_PRK: [
        (float((logits_RK.argmax(1) == truth_R).float().mean() - 0.01 * F.cross_entropy(logits_RK, truth_R)), "mean")
        for logits_RK in logits_PRK
    ]


def random_problem(dim=5):
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((3, dim))
    truth = {name: draw.integers(0, 3, count) for name, count in (("train", 40), ("valid", 20))}
    x = {
        name: torch.tensor(centres[own] + draw.standard_normal((len(own), dim)), dtype=torch.float32)
        for name, own in truth.items()
    }
    valid = torch.tensor(truth["valid"])
    return jukemir.StackProblem(x["train"], torch.tensor(truth["train"]), x["valid"], cross_entropy, accuracies(valid))


def train_alone(problem, stack, point, settings):
    """Return one probe of the grid by a plain loop of torch's own layers and Adam, with the stack's random draws."""
    rate, dropout, l2 = point
    torch.manual_seed(stack.seed)
    sizes = [problem.train_RD.shape[1], *([stack.hidden] if stack.hidden else []), 3]
    layers = [nn.Linear(size, following) for size, following in pairwise(sizes)]
    adam = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=rate, weight_decay=l2)
    batches, masks = torch.Generator().manual_seed(stack.seed), torch.Generator().manual_seed(stack.seed + 1)

    def forward(x, training):
        for index, layer in enumerate(layers):
            if training:
                x = x * (torch.rand(x.shape, generator=masks) >= dropout) / (1 - dropout)
            x = layer(x)
            x = x.relu() if index + 1 < len(layers) else x
        return x

    best, boredom, step, kept = (-math.inf, 0), 0, 0, None
    while True:
        if step % settings.check_every == 0:
            with torch.no_grad():
                score = problem.score(forward(problem.valid_RD, False)[None])[0][0]
            if score > best[0]:
                best, boredom, kept = (score, step), 0, copy.deepcopy([layer.weight.detach() for layer in layers])
            else:
                boredom += 1
            if boredom >= settings.patience:
                return *best, step, kept
        rows = torch.randperm(len(problem.train_RD), generator=batches)[: stack.batch_size]
        adam.zero_grad()
        F.cross_entropy(forward(problem.train_RD[rows], True), problem.targets_R[rows]).backward()
        adam.step()
        step += 1


@pytest.mark.parametrize("hidden", [0, 6])
def test_each_probe_of_a_stack_is_the_one_that_plain_pytorch_trains(hidden):
    settings = jukemir.JukemirSettings(**SMALL, hidden=(hidden,), batch_sizes=(16,), standardise=(False,))
    problem, (stack,) = random_problem(), jukemir.grid_stacks(settings, 3)
    probes = jukemir.train_stack(stack, problem, 3, settings)
    assert len(probes) == 8
    # Those that stop first leave the stack, and the others go on with draws of the same stream.
    for probe, point in zip(probes, stack.points):
        score, step, steps, weights = train_alone(problem, stack, point, settings)
        assert probe.score == pytest.approx(score, abs=1e-5), point
        assert (probe.step, probe.steps) == (step, steps), point
        for own, expected in zip(probe.weights[::2], weights):
            torch.testing.assert_close(own, expected.T, rtol=1e-3, atol=1e-5)


def test_the_default_grid_is_the_papers():
    stacks = jukemir.grid_stacks(jukemir.JukemirSettings(), 0)
    points = {(stack.standardise, stack.hidden, stack.batch_size, *point) for stack in stacks for point in stack.points}
    assert len(points) == 216
    axes = [{point[axis] for point in points} for axis in range(6)]
    assert axes == [
        {True, False},
        {0, 512},
        {64, 256},
        {1e-5, 1e-4, 1e-3},
        {0.25, 0.5, 0.75},
        {0.0, 1e-4, 1e-3},
    ]
    assert (jukemir.JukemirSettings().check_every, jukemir.JukemirSettings().patience) == (8, 256)


def test_the_grid_separates_classes_and_records_every_point(clouds):
    data = clouds()
    settings = jukemir.JukemirSettings(layer="1", **SMALL | {"patience": 20}, hidden=(0, 8), batch_sizes=(16,))
    result = data.run(jukemir.PROTOCOL, seeds=(1, 2), settings=settings)
    assert result.tried == 2 * 2 * 2 * 8 == len(result.grid)
    assert {point.layer for point in result.grid} == {"1"}
    for seed, choice, own in zip((1, 2), result.chosen, result.predictor.predict(data.test())):
        points = [point for point in result.grid if point.seed == seed]
        best = max(points, key=lambda point: point.valid)
        assert best.settings == {name: choice[name] for name in best.settings}
        assert best.learning_rate == choice["learning_rate"]
        assert np.mean(np.asarray(own) == np.asarray(data.truths["test"])) > 0.9


def test_standardised_features_are_those_of_scikit_learn(clouds):
    data = clouds()
    for clips in (own["1"] for own in data.features.values()):
        clips[:] = [1000 + 100 * clip for clip in clips]
        for clip in clips:
            clip[:, 2] = 7
    settings = jukemir.JukemirSettings(
        layer="1", standardise=(True,), hidden=(0,), batch_sizes=(16,), learning_rates=(1e-2,), dropouts=(0.25,),
        l2=(0.0,), patience=8,
    )  # fmt: skip
    result = data.run(jukemir.PROTOCOL, settings=settings)
    rows = {name: np.concatenate(own["1"]).astype(np.float16).astype(np.float64) for name, own in data.features.items()}
    expected = StandardScaler().fit(rows["train"]).transform(rows["test"])
    probe = result.predictor.probes[0]
    logits = expected @ probe.weights[0].double().numpy() + probe.weights[1].double().numpy()
    assert result.predictor.predict(data.test())[0] == logits.argmax(1).tolist()


def test_a_limit_of_steps_stops_every_probe(clouds):
    settings = jukemir.JukemirSettings(
        layer="1", **SMALL | {"patience": 10**6}, hidden=(0,), batch_sizes=(16,), standardise=(False,), max_steps=12
    )
    result = clouds().run(jukemir.PROTOCOL, settings=settings)
    assert result.tried == 8 and all(probe.epochs <= 16 * 16 // 60 for probe in result.grid)


def test_the_middle_layer_is_jukemirs_36_of_jukeboxs_72():
    from carrara.bench.protocols._rows import find_layer

    assert find_layer([str(layer) for layer in range(73)], "middle") == "36"
    assert find_layer([*map(str, range(13)), "cnn"], "middle") == "6"
    assert find_layer(["0"], "middle") == "0" and find_layer(["0", "cnn"], "cnn") == "cnn"
    with pytest.raises(UsageError, match="middle, 0, 1"):
        find_layer(["0", "1"], "9")


@pytest.mark.parametrize("protocol", [jukemir.PROTOCOL, maest.PROTOCOL])
def test_frames_and_missing_layers_are_refused(clouds, protocol):
    beats = clouds(
        task_type="beat_tracking", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms", name="d/beats"
    )
    with pytest.raises(UsageError, match="not frames.*constrained"):
        beats.run(protocol)
    with pytest.raises(UsageError, match="no such layer"):
        clouds().run(protocol, settings=protocol.settings(layer="9"))


def test_the_learning_rate_rises_exponentially_and_falls_to_nothing():
    settings = maest.MaestProbeSettings()
    factors = [maest.rate_factor(epoch, settings) for epoch in range(61)]
    assert factors[0] == pytest.approx(math.exp(-5 * (1 - 0.05) ** 2))
    assert factors[5] == pytest.approx(math.exp(-1.25)) and factors[10] == 1
    assert factors[35] == pytest.approx(0.5) and factors[60] == pytest.approx(1e-7)
    assert np.all(np.diff(factors[:11]) > 0) and np.all(np.diff(factors[10:]) < 0)


def test_maests_probe_is_the_one_of_a_plain_loop(clouds):
    data = clouds(spread=1.0)
    settings = maest.MaestProbeSettings(
        layer="1", dropout=0.0, hidden=16, batch_size=25, epochs=8, warmup_epochs=3, learning_rate=0.03, average_from=4
    )
    result = data.run(maest.PROTOCOL, seeds=(5,), settings=settings)
    rows = {
        name: torch.tensor(np.concatenate(own["1"]).astype(np.float16).astype(np.float32))
        for name, own in data.features.items()
    }
    truth = {name: torch.tensor(own) for name, own in data.truths.items()}
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))
    adam = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    scores, states = [], []
    for epoch in range(8):
        factor = math.exp(-5 * (1 - max(epoch, 0.5) / 3) ** 2) if epoch < 3 else 1 - (epoch - 3) / 5 * (1 - 1e-7)
        for group in adam.param_groups:
            group["lr"] = 0.03 * factor
        for low in range(0, 60, 25):
            adam.zero_grad()
            F.cross_entropy(network(rows["train"][low : low + 25]), truth["train"][low : low + 25]).backward()
            adam.step()
        states.append(copy.deepcopy(network.state_dict()))
        scores.append(float((network(rows["valid"]).argmax(1) == truth["valid"]).float().mean()))
    mean = {name: torch.stack([state[name] for state in states[4:]]).mean(0) for name in states[0]}
    network.load_state_dict(mean)
    scores.append(float((network(rows["valid"]).argmax(1) == truth["valid"]).float().mean()))
    points = {point.settings["average"]: point.valid for point in result.grid}
    assert points[False] == pytest.approx(max(scores[:-1])) and points[True] == pytest.approx(scores[-1])
    best = max(scores[:-1])
    network.load_state_dict(mean if scores[-1] > best else states[scores.index(best)])
    assert result.chosen[0]["average"] == (scores[-1] > best)
    assert result.predictor.predict(data.test())[0] == network(rows["test"]).argmax(1).tolist()


def test_maests_settings_are_the_published_ones(clouds):
    settings = maest.MaestProbeSettings()
    assert (settings.hidden, settings.dropout, settings.batch_size, settings.epochs) == (512, 0.5, 128, 60)
    assert (settings.learning_rate, settings.weight_decay, settings.warmup_epochs) == (1e-4, 1e-3, 10)
    fast = maest.MaestProbeSettings(layer="1", epochs=3, average_from=0)
    result = clouds().run(maest.PROTOCOL, settings=fast)
    assert [point.settings for point in result.grid] == [{"average": False}]
