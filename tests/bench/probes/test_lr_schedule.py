"""The plateau schedule against torch's, and the early stop against its definition."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory

SCORES = st.lists(
    st.one_of(st.floats(-2, 2), st.sampled_from([0.5, 0.50004, 0.50006, -0.5, -0.50004, 0.0])), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=150)
@given(SCORES, st.integers(0, 4), st.sampled_from([1e-2, 5e-5, 3e-8]))
def test_rates_equal_torch(scores, patience, rate):
    adam = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, mode="max", factor=0.5, patience=patience)
    plateau = Plateau(rate, patience)
    for score in scores:
        reference.step(score)
        assert plateau.step(score) == adam.param_groups[0]["lr"]


@settings(deadline=None, max_examples=150)
@given(SCORES, st.integers(1, 5))
def test_history_stops_when_the_best_is_patience_epochs_old(scores, patience):
    history = ProbeHistory(Plateau(1e-3, 5), patience, max_epochs=40)
    for score in scores:
        if history.stopped:
            break
        history.update(1.0, score)
    scores = history.scores
    assert history.best == max(scores) and history.best_epoch == scores.index(max(scores))
    stale = len(scores) - 1 - scores.index(max(scores))
    assert history.stopped == (stale >= patience or len(scores) == 40)
    assert stale <= patience


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best_epoch():
    history = ProbeHistory(Plateau(1e-3, 5), 5, 10)
    assert history.update(1.0, 0.4)
    assert not history.update(math.nan, 0.9)
    assert history.diverged and history.stopped and history.best == 0.4 and history.best_epoch == 0
