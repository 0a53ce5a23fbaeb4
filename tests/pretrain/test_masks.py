"""Masks of a batch: frames as span_mask draws them."""

import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.nn.transformer.masking import span_mask
from carrara.pretrain.masks import draw_masks
from carrara.pretrain.recipes._base import MaskingSettings

SETTINGS = MaskingSettings(mask_prob=0.8, mask_length=5)
DRAWS = [(7, 2, item) for item in range(200)]


def test_frames_are_masked_as_span_mask_draws_them():
    expected = torch.stack([span_mask(100, 0.8, 5, 2, 7, 2, item) for item in range(3)])
    assert torch.equal(draw_masks(DRAWS[:3], SETTINGS, 100), expected)


@pytest.mark.parametrize("values", [{"mask_prob": 1.5}, {"mask_length": 0}, {"min_masks": 0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(UsageError, match="masking: m"):
        parse_settings(MaskingSettings, values, "masking")
