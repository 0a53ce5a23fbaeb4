"""The learning rate at known steps of the published schedule."""

import math

import pytest

from carrara.pretrain.optimiser import linear_decay, tri_stage


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
