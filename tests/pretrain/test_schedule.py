"""The learning rate at known steps of the published schedule."""

import pytest

from carrara.pretrain.schedule import learning_rate


def test_mert_rises_for_32_thousand_steps_and_falls_straight_to_nothing():
    at = {step: learning_rate(step, 400_000, 5e-4, 0.08) for step in (0, 15_999, 31_999, 32_000, 216_000, 399_999)}
    assert at[0] == pytest.approx(5e-4 / 32_000)
    assert at[15_999] == pytest.approx(2.5e-4)
    assert at[31_999] == pytest.approx(5e-4)
    assert at[32_000] == pytest.approx(5e-4)
    assert at[216_000] == pytest.approx(2.5e-4)
    assert at[399_999] == pytest.approx(5e-4 / 368_000)


def test_a_power_bends_the_decay_and_no_warm_up_starts_at_the_top():
    assert learning_rate(0, 100, 1.0, 0.0, 2.0) == 1.0
    assert learning_rate(50, 100, 1.0, 0.0, 2.0) == pytest.approx(0.25)
