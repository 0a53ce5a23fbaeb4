"""Masks of a batch: frames as span_mask draws them, channels set to zero on request."""

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.nn.transformer.masking import span_mask
from carrara.pretrain.masks import plan_masks
from carrara.pretrain.recipes._base import MaskingSettings

SETTINGS = MaskingSettings(mask_prob=0.8, mask_length=5)
DRAWS = [(7, 2, item) for item in range(200)]


def test_frames_are_masked_as_span_mask_draws_them():
    plan = plan_masks(DRAWS[:3], SETTINGS, 100, 16)
    expected = torch.stack([span_mask(100, 0.8, 5, 2, 7, 2, item) for item in range(3)])
    assert torch.equal(plan.masked_BF, expected)
    x = torch.randn(3, 102, 16)
    assert plan.corrupt(x) is x


def test_masked_channels_are_zero_in_every_frame():
    settings = SETTINGS.model_copy(update={"mask_channel_prob": 0.3, "mask_channel_length": 4})
    plan = plan_masks(DRAWS, settings, 30, 16)
    assert torch.equal(plan.masked_BF, plan_masks(DRAWS, SETTINGS, 30, 16).masked_BF)
    x = torch.randn(200, 31, 16, generator=torch.Generator().manual_seed(0))
    corrupted = plan.corrupt(x)
    for clip in range(200):
        masked = plan.channel_mask_BD[clip]
        assert not corrupted[clip][:, masked].any()
        assert torch.equal(corrupted[clip][:, ~masked], x[clip][:, ~masked])
    # Spans of 4 of 16 channels: 1.2 spans a clip, at most 8 channels, never all.
    counts = plan.channel_mask_BD.sum(1)
    assert counts.min() + 4 >= 4 and counts.max() <= 8
    assert counts.float().mean().item() == pytest.approx(4.5, abs=0.6)


@pytest.mark.parametrize("values", [{"mask_prob": 1.5}, {"mask_length": 0}, {"mask_channel_prob": -0.1}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(UsageError, match="masking: mask_"):
        parse_settings(MaskingSettings, values, "masking")
