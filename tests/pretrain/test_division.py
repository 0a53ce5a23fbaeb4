"""A step means the same however it is divided into micro-batches or ranks, with activation checkpointing or without."""

import copy

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import replace
from carrara.pretrain.distributed import Dist
from carrara.pretrain.masks import draw_masks
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.objectives.masked_prediction import check_batch_division
from carrara.pretrain.run import build_run
from carrara.pretrain.targets._base import Target
from carrara.pretrain.train import compute_gradient

NO_DROPOUT = {"network.dropout": 0.0, "optimiser.max_grad_norm": 0.0, "masking.mask_prob": 0.4}


@pytest.fixture(scope="module")
def run(micro, corpus, tmp_path_factory):
    return build_run(replace(micro, NO_DROPOUT), [corpus], tmp_path_factory.mktemp("runs") / "x", False, Dist())


def copied(run, **changes):
    """Return a copy of the run with its own network and some settings changed."""
    run = copy.copy(run)
    run.objective = copy.copy(run.objective)
    run.recipe = run.objective.recipe = replace(run.recipe, changes)
    run.network = run.objective.module = copy.deepcopy(run.objective.module)
    run.network.settings = run.recipe.objective
    run.objective.encoder = run.network.encoder
    run.optimiser = torch.optim.SGD(run.network.parameters())
    return run


def gradients_of(run, step=3, **changes):
    """Return the result and the gradients of a step with some settings changed."""
    run = copied(run, **changes)
    run.network.encoder.encoder.activation_checkpointing = run.recipe.activation_checkpointing
    result = compute_gradient(run, run.objective.stream.read_batch(step))
    return result, {name: parameter.grad for name, parameter in run.network.named_parameters()}


@pytest.mark.parametrize("unmasked", [0.0, 1.0])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_micro_batches_give_loss_and_gradient_of_the_whole_batch(run, count, unmasked):
    weight = {"objective.unmasked_weight": unmasked, "objective.feature_penalty": 10.0}
    whole, expected = gradients_of(run, **weight)
    result, gradients = gradients_of(run, accumulation_steps=count, **weight)
    assert result.loss == pytest.approx(whole.loss, rel=1e-6)
    assert result.norm == pytest.approx(whole.norm, rel=1e-5)
    for name, gradient in expected.items():
        if gradient is None:
            assert gradients[name] is None
            continue
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6 * whole.norm)


def test_the_micro_batches_tested_have_different_counts_of_masked_frames(run):
    batch = run.objective.stream.read_batch(3)
    draws = [(run.recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.item_indices)]
    counts = draw_masks(draws, run.recipe.masking, run.objective.num_frames).sum(1)
    assert len(set(counts.tolist())) > 1


def test_activation_checkpointing_changes_nothing_even_with_dropout(run):
    torch.use_deterministic_algorithms(True)
    try:
        plain, expected = gradients_of(run, **{"network.dropout": 0.1})
        again, gradients = gradients_of(run, activation_checkpointing=True, **{"network.dropout": 0.1})
    finally:
        torch.use_deterministic_algorithms(False)
    assert again.loss == plain.loss
    for name, gradient in expected.items():
        assert gradient is None or torch.equal(gradients[name], gradient)


def test_activation_checkpointing_runs_each_layer_twice(run):
    calls = []
    another = copied(run)
    transformer = another.network.encoder.encoder
    for layer in transformer.layers:
        layer.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    for checkpointing, expected in ((False, 2), (True, 4)):
        calls.clear()
        transformer.activation_checkpointing = checkpointing
        compute_gradient(another, run.objective.stream.read_batch(0))
        assert len(calls) == expected


def test_targets_get_the_clean_crops_and_the_student_the_mixed_ones(run, monkeypatch):
    student_inputs, target_inputs = [], []
    labels = {name: target.labels for name, target in run.objective.targets.items()}
    for name, target in run.objective.targets.items():
        monkeypatch.setattr(
            target,
            "labels",
            lambda samples, frames, name=name: (target_inputs.append(samples), labels[name](samples, frames))[1],
        )
    mixup = {"mixup.probability": 1.0, "mixup.pool": 4, "mixup.shortest": 0.1, "mixup.longest": 0.2}
    another = copied(run, **mixup)
    encoder = another.objective.encoder
    conv_features = encoder.conv_features
    monkeypatch.setattr(
        encoder, "conv_features", lambda samples: (student_inputs.append(samples), conv_features(samples))[1]
    )
    batch = run.objective.stream.read_batch(0)
    before = batch.samples_BT.clone()
    compute_gradient(another, batch)
    assert all(torch.equal(samples, before) for samples in target_inputs) and len(target_inputs) == 3
    assert bool((student_inputs[0] != before).any(dim=1).all())
    assert torch.equal(batch.samples_BT, before)


class ThreeCodebooks(Target):
    num_classes = (4, 4, 4)

    def labels(self, samples_BT, frames):
        return torch.arange(frames).remainder(4).expand(len(samples_BT), 3, -1).transpose(1, 2)


@pytest.mark.parametrize("use", ["all", "random", 2])
def test_a_step_predicts_the_codebooks_that_the_target_wants(run, use):
    some_target = next(iter(run.objective.targets.values()))
    target = ThreeCodebooks(some_target.settings, some_target.grid)
    target.use = use
    model = MaskedPrediction(run.objective.encoder, {"codes": target}, run.recipe.objective, 0)
    samples = torch.randn(1, run.objective.stream.crop_samples)
    mask = torch.ones(1, run.objective.num_frames, dtype=torch.bool)
    mask[:, 0] = False
    labels = {"codes": target.labels(samples, run.objective.num_frames)}
    active = [tuple(model.active_codebooks("codes", step)) for step in range(30)]
    for step in range(3):
        sums = model(samples, mask, labels, step).sums
        predicted = sorted(name for name in sums if name.startswith("predicted/"))
        assert predicted == [f"predicted/codes.{codebook}" for codebook in active[step]]
    assert [tuple(model.active_codebooks("codes", step)) for step in range(30)] == active
    assert set(active) == {"all": {(0, 1, 2)}, "random": {(0,), (1,), (2,)}, 2: {(2,)}}[use]


def test_mixup_pools_that_ranks_would_divide_are_refused(micro):
    mixing = replace(micro, {"mixup.probability": 0.5, "mixup.pool": 2})
    check_batch_division(mixing, 2)
    with pytest.raises(UsageError, match="mixup.pool 2 does not fit the 4 crops of a step on 4 ranks"):
        check_batch_division(mixing, 4)
    with pytest.raises(UsageError, match="batch 4 is less than one crop for each of 5 ranks"):
        check_batch_division(micro, 5)


def test_fsdp_needs_several_ranks(micro, corpus, tmp_path):
    with pytest.raises(UsageError, match="fsdp=true needs several ranks: `torchrun"):
        build_run(replace(micro, {"fsdp": True}), [corpus], tmp_path / "x", False, Dist())
