"""The learning rate at known steps of the published schedule."""

import math

import pytest
import torch
from torch import nn

from carrara.core.errors import UsageError
from carrara.pretrain import checkpoint
from carrara.pretrain.optimiser import adamw, build_optimiser, linear_decay, tri_stage
from carrara.pretrain.recipes._base import AdamWSettings, resolve


def test_mert_rises_for_32_thousand_steps_and_falls_straight_to_nothing():
    at = {step: linear_decay(step, 400_000, 5e-4, 0.08) for step in (0, 15_999, 31_999, 32_000, 216_000, 399_999)}
    assert at[0] == pytest.approx(5e-4 / 32_000)
    assert at[15_999] == pytest.approx(2.5e-4)
    assert at[31_999] == pytest.approx(5e-4)
    assert at[32_000] == pytest.approx(5e-4)
    assert at[216_000] == pytest.approx(2.5e-4)
    assert at[399_999] == pytest.approx(5e-4 / 368_000)


def test_without_a_warm_up_it_starts_at_the_top():
    assert linear_decay(0, 100, 1.0, 0.0) == 1.0
    assert linear_decay(50, 100, 1.0, 0.0) == pytest.approx(0.5)


def test_three_stages_follow_fairseqs_formulae():
    """data2vec's: 3 % up from a hundredth, 90 % at the peak, 7 % down to a hundredth, here of 1000 steps."""
    rate = [tri_stage(step, 1000, 5e-4, 0.03, 0.9) for step in range(1001)]
    assert rate[0] == pytest.approx(5e-6)
    assert rate[15] == pytest.approx(5e-6 + (5e-4 - 5e-6) / 30 * 15)
    assert rate[30:931] == pytest.approx([5e-4] * 901)
    decay = -math.log(0.01) / 70
    assert rate[965] == pytest.approx(5e-4 * math.exp(-decay * 35))
    assert rate[1000] == pytest.approx(5e-6)
    assert tri_stage(999, 1000, 1.0, 0.1, 0.9) == 1.0


def test_the_front_end_has_its_own_rate():
    """After one step of AdamW from zero moments a weight has moved by the rate, whatever its gradient."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"feature_extractor": nn.Linear(3, 3), "layers": nn.Linear(3, 2)})
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimiser = adamw(network, AdamWSettings(front_end_factor=0.1, weight_decay=0, epsilon=1e-12))
    for group in optimiser.param_groups:
        group["lr"] = 0.01 * group["rate_factor"]
    network["layers"](network["feature_extractor"](torch.randn(5, 3))).square().sum().backward()
    optimiser.step()
    for name, parameter in network.named_parameters():
        moved = (parameter - before[name]).abs().detach()
        torch.testing.assert_close(
            moved, torch.full_like(moved, 0.001 if "feature" in name else 0.01), rtol=1e-3, atol=0
        )


def test_a_network_without_a_front_end_has_no_factor_for_it():
    with pytest.raises(UsageError, match="front_end_factor.*leave it at 1"):
        adamw(nn.Linear(2, 2), AdamWSettings(front_end_factor=0.1))
    assert len(adamw(nn.Linear(2, 2), AdamWSettings()).param_groups) == 1


def layers_and_head():
    torch.manual_seed(0)
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 6)]), "head": nn.Linear(6, 5)})


def step(network, optimiser, inputs):
    first, second = network["layers"]
    network["head"](second(first(inputs).tanh())).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def test_muon_moves_matrices_of_layers_by_an_orthogonal_matrix_as_far_as_adamw_would():
    """Muon's polynomial leaves singular values of about .7 to 1.2 of the gradient's own directions (U V^T),
    which here are divided by 5 and multiplied by the root of the longer side, 6 [liu2025]."""
    network = layers_and_head()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    settings = AdamWSettings(name="muon", learning_rate=0.01, weight_decay=0.1)
    optimiser = build_optimiser(network, settings)
    inputs = torch.randn(7, 6)
    first, second = network["layers"]
    network["head"](second(first(inputs).tanh())).square().sum().backward()
    gradients = {name: value.grad.clone() for name, value in network.named_parameters()}
    optimiser.step()
    for name, parameter in network.named_parameters():
        moved = (before[name] * (1 - 0.01 * 0.1) - parameter.detach()) / 0.01
        if "layers" in name and parameter.ndim == 2:
            left, _, right = torch.linalg.svd(gradients[name], full_matrices=False)
            rotated = left.T @ (moved / (0.2 * math.sqrt(6))) @ right.T
            assert ((rotated.diag() > 0.6) & (rotated.diag() < 1.25)).all()
            assert (rotated - torch.diag(rotated.diag())).abs().max() < 0.05
        else:
            torch.testing.assert_close(moved, gradients[name].sign(), rtol=1e-3, atol=1e-3)


def test_a_run_with_muon_goes_on_as_the_one_that_was_saved(tmp_path):
    inputs, settings = torch.randn(7, 6), AdamWSettings(name="muon", learning_rate=0.01)
    whole, other = layers_and_head(), layers_and_head()
    first, second = build_optimiser(whole, settings), build_optimiser(other, settings)
    step(whole, first, inputs)
    checkpoint.write_checkpoint(tmp_path, checkpoint.collect_tensors(whole, first), {"step": 1})
    step(other, second, -inputs)
    checkpoint.restore_checkpoint(checkpoint.load_checkpoint(tmp_path), other, second)
    for network, optimiser in ((whole, first), (other, second)):
        step(network, optimiser, inputs)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), other.parameters()))


def test_a_saved_run_may_go_on_with_the_other_optimiser(tmp_path):
    """Moments of the optimiser that is no longer used are left out, and the new one starts with none."""
    inputs, network = torch.randn(7, 6), layers_and_head()
    for former, name in (("adamw", "muon"), ("muon", "adamw")):
        saved = build_optimiser(network, AdamWSettings(name=former))
        step(network, saved, inputs)
        checkpoint.write_checkpoint(tmp_path, checkpoint.collect_tensors(network, saved), {"step": 1})
        other = build_optimiser(network, AdamWSettings(name=name))
        checkpoint.restore_checkpoint(checkpoint.load_checkpoint(tmp_path), network, other)
        step(network, other, inputs)


def test_muon_is_refused_where_it_cannot_work():
    with pytest.raises(UsageError, match="give --set optimiser.name=adamw"):
        build_optimiser(nn.Linear(2, 2), AdamWSettings(name="muon"))
    with pytest.raises(UsageError, match="give --set fsdp=false"):
        resolve("mert-v0", "tiny", {"optimiser.name": "muon", "fsdp": True})
