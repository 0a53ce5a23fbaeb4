"""Span masks: how much is masked, the same draw for the same clip and epoch, other draws for others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from carrara.nn.transformer.masking import span_mask


@pytest.mark.parametrize(
    ("probability", "span", "frames", "measured"),
    [(0.8, 5, 374, 0.583), (0.8, 10, 374, 0.567), (0.8, 10, 249, 0.568), (0.65, 10, 1499, 0.490)],
)
def test_coverage_is_the_closed_form_and_what_fairseq_was_measured_to_give(probability, span, frames, measured):
    covered = torch.stack([span_mask(frames, probability, span, 2, 0, 0, item) for item in range(400)]).float().mean()
    assert covered == pytest.approx(1 - (1 - probability / span) ** span, abs=0.02)
    assert covered == pytest.approx(measured, abs=0.01)


def test_a_mask_depends_on_seed_epoch_and_item_only():
    draw = lambda *key: span_mask(374, 0.8, 5, 2, *key)  # noqa: E731
    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    assert len({tuple(draw(*key).tolist()) for key in [(1, 2, 3), (0, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)]}) == 5


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(1, 20), st.integers(0, 3), st.integers(0, 5))
def test_some_frames_stay_unmasked_and_masked_runs_have_at_least_the_mask_length(
    frames, probability, span, minimum, item
):
    mask = span_mask(frames, probability, span, minimum, 0, 0, item)
    assert mask.shape == (frames,) and mask.dtype == torch.bool
    assert not mask.all()
    runs = [len(run) for run in "".join("x" if masked else " " for masked in mask).split()]
    assert all(run >= min(span, frames - 1) for run in runs)
    if minimum and frames > 1:
        assert mask.any()
