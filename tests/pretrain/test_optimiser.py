"""The learning rate at known steps of the published schedule."""

import math

import pytest
import torch
from torch import nn

from carrara.core.errors import UsageError
from carrara.pretrain.optimiser import adamw, linear_decay, tri_stage
from carrara.pretrain.recipes._base import AdamWSettings


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
