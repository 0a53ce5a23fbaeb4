"""A step means the same however it is divided, recomputed or what else shares its memory."""

import copy

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.pretrain.dist import Ranks
from carrara.pretrain.gradient import gradient
from carrara.pretrain.run import _divisible, _made
from carrara.pretrain.targets._base import Target

CALM = {"network.dropout": 0.0, "optimiser.max_grad_norm": 0.0, "masking.mask_prob": 0.4}


@pytest.fixture(scope="module")
def run(micro, corpus, tmp_path_factory):
    return _made(replace(micro, CALM), [corpus], tmp_path_factory.mktemp("runs") / "x", False, Ranks())


def taken(run, step=3, **changes):
    """Return loss, norm and gradients of a step with some settings changed."""
    run = copy.copy(run)
    run.recipe = replace(run.recipe, changes)
    run.model = copy.deepcopy(run.model)
    run.model.encoder.encoder.recompute = run.recipe.recompute
    run.optimiser = torch.optim.SGD(run.model.parameters())
    found = gradient(run, run.stream.at(step))
    return found, {name: parameter.grad for name, parameter in run.model.named_parameters()}


@pytest.mark.parametrize("unmasked", [0.0, 1.0])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_gives_loss_and_gradient_of_the_whole(run, parts, unmasked):
    weight = {"objective.unmasked_weight": unmasked, "objective.feature_penalty": 10.0}
    whole, expected = taken(run, **weight)
    found, gradients = taken(run, parts=parts, **weight)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)
    assert found.norm == pytest.approx(whole.norm, rel=1e-5)
    for name, one in expected.items():
        if one is None:
            assert gradients[name] is None
            continue
        torch.testing.assert_close(gradients[name], one, rtol=1e-4, atol=1e-6 * whole.norm)


def test_parts_of_different_counts_of_masked_frames_are_what_is_tested(run):
    batch = run.stream.at(3)
    counts = [int(part.sum()) for part in taken_masks(run, batch).split(1)]
    assert len(set(counts)) > 1


def taken_masks(run, batch):
    from carrara.pretrain.masks import view

    draws = [(run.recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.items)]
    return view(draws, run.recipe.masking, run.frames, 1).asked_BF


def test_recomputed_activations_change_nothing_with_dropout_and_all(run):
    torch.use_deterministic_algorithms(True)
    try:
        plain, expected = taken(run, **{"network.dropout": 0.1})
        again, gradients = taken(run, recompute=True, **{"network.dropout": 0.1})
    finally:
        torch.use_deterministic_algorithms(False)
    assert again.loss == plain.loss
    for name, one in expected.items():
        assert one is None or torch.equal(gradients[name], one)


def test_recomputing_runs_each_layer_twice(run):
    calls = []
    copied = copy.deepcopy(run.model)
    for layer in copied.encoder.encoder.layers:
        layer.register_forward_pre_hook(lambda module, given: calls.append(1))
    another = copy.copy(run)
    another.model, another.optimiser = copied, torch.optim.SGD(copied.parameters())
    for recompute, expected in ((False, 2), (True, 4)):
        calls.clear()
        copied.encoder.encoder.recompute = recompute
        gradient(another, run.stream.at(0))
        assert len(calls) == expected


def test_targets_hear_the_clean_crops_and_the_student_the_mixed_ones(run, monkeypatch):
    heard, taught = [], []
    labels = {name: target.labels for name, target in run.targets.items()}
    for name, target in run.targets.items():
        monkeypatch.setattr(
            target,
            "labels",
            lambda samples, frames, name=name: (taught.append(samples), labels[name](samples, frames))[1],
        )
    model = copy.deepcopy(run.model)
    front = model.encoder.front
    monkeypatch.setattr(model.encoder, "front", lambda samples: (heard.append(samples), front(samples))[1])
    another = copy.copy(run)
    another.model, another.optimiser = model, torch.optim.SGD(model.parameters())
    another.recipe = replace(
        run.recipe, {"mixup.probability": 1.0, "mixup.pool": 4, "mixup.shortest": 0.1, "mixup.longest": 0.2}
    )
    batch = run.stream.at(0)
    before = batch.samples_BT.clone()
    gradient(another, batch)
    assert all(torch.equal(one, before) for one in taught) and len(taught) == 3
    assert bool((heard[0] != before).any(dim=1).all())
    assert torch.equal(batch.samples_BT, before)


class Books(Target):
    books = (4, 4, 4)

    def labels(self, samples_BT, frames):
        return torch.arange(frames).remainder(4).expand(len(samples_BT), 3, -1).transpose(1, 2)


@pytest.mark.parametrize("use", ["all", "random", 2])
def test_one_book_is_asked_for_where_a_target_wants_so(run, use):
    from carrara.pretrain.masks import View
    from carrara.pretrain.objective import MaskedPrediction

    target = Books(next(iter(run.targets.values())).settings, next(iter(run.targets.values())).grid)
    target.use = use
    model = MaskedPrediction(run.model.encoder, {"codes": target}, run.recipe.objective, 0)
    samples, mask = torch.randn(1, run.stream.crop), torch.ones(1, run.frames, dtype=torch.bool)
    mask[:, 0] = False
    labels, asked = {"codes": target.labels(samples, run.frames)}, []
    for step in range(30):
        found = sorted(model(samples, View(mask, mask), labels, step).predicted) if step < 3 else None
        books = [f"codes.{book}" for book in model.books("codes", step)]
        assert found in (None, books)
        asked.append(tuple(books))
    assert [tuple(f"codes.{book}" for book in model.books("codes", step)) for step in range(30)] == asked
    wanted = {
        "all": {("codes.0", "codes.1", "codes.2")},
        "random": {("codes.0",), ("codes.1",), ("codes.2",)},
        2: {("codes.2",)},
    }
    assert set(asked) == wanted[use]


def test_mixup_pools_that_ranks_would_cut_are_refused(micro):
    mixing = replace(micro, {"mixup.probability": 0.5, "mixup.pool": 2})
    _divisible(mixing, Ranks(size=2))
    with pytest.raises(UsageError, match="mixup.pool 2 does not fit the 4 crops of a step on 4 ranks"):
        _divisible(mixing, Ranks(size=4))
    with pytest.raises(UsageError, match="batch 4 is less than one crop for each of 5 ranks"):
        _divisible(micro, Ranks(size=5))


def test_sharding_needs_several_ranks(micro, corpus, tmp_path):
    with pytest.raises(UsageError, match="shard=true needs several ranks: torchrun"):
        _made(replace(micro, {"fsdp": True}), [corpus], tmp_path / "x", False, Ranks())
