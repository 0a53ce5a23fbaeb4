"""Masks of a batch: frames as span_mask draws them."""

import numpy as np
import pytest
import torch

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.transformer.masking import block_mask, span_mask
from carrara.pretrain.masks import draw_masks, replace_by_noise
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


def test_blocks_are_masked_whole_and_independently():
    settings = MaskingSettings(blocks=True, mask_prob=0.6, mask_length=10, min_masks=1)
    drawn = draw_masks(DRAWS, settings, 752)
    blocks = drawn[:, :750].unflatten(1, (75, 10)).numpy()
    assert (blocks.all(2) == blocks.any(2)).all() and not drawn[:, 750:].any()
    masked = blocks[..., 0]
    assert masked.mean() == pytest.approx(0.6, abs=0.015)
    # Neighbours are masked together as often as by chance: a standard error is .004.
    assert (masked[:, 1:] & masked[:, :-1]).mean() == pytest.approx(0.36, abs=0.02)
    # The number of masked blocks of a crop is binomial.
    assert masked.sum(1).var() == pytest.approx(75 * 0.6 * 0.4, rel=0.3)


@pytest.mark.parametrize(("frames", "expected"), [(9, {0}), (10, {0}), (20, {10}), (39, {10, 20})])
def test_short_crops_have_a_masked_block_and_one_that_is_not(frames, expected):
    counts = {int(block_mask(frames, 0.5, 10, 1, *draw).sum()) for draw in DRAWS}
    assert counts == expected
    with_more = {int(block_mask(39, 0.01, 10, 2, *draw).sum()) for draw in DRAWS}
    assert with_more == {20}


@pytest.mark.parametrize(("centre", "first"), [(60, 0), (80, 0), (120, 40)])
def test_noise_replaces_the_samples_around_the_centres_of_masked_frames_alone(centre, first):
    settings = MaskingSettings(blocks=True, mask_prob=0.6, mask_length=10, min_masks=1)
    hop, samples = 160, torch.full((3, 16_000), 0.5)
    grid = FrameGrid(16_000, hop, centre)
    drawn = draw_masks(DRAWS[:3], settings, 99)
    noisy = replace_by_noise(samples, drawn, DRAWS[:3], grid, 0.1)
    masked = np.zeros((3, 16_000), dtype=bool)
    for crop, frame in zip(*np.nonzero(drawn.numpy())):
        masked[crop, first + frame * hop : first + (frame + 1) * hop] = True
    assert (noisy.numpy()[~masked] == 0.5).all() and (samples == 0.5).all()
    noise = noisy.numpy()[masked]
    assert abs(noise.mean()) < 0.003 and noise.std() == pytest.approx(0.1, rel=0.02)
    # A crop gets the same noise whatever its batch; two crops do not.
    alone = replace_by_noise(samples[:1], drawn[1:2], DRAWS[1:2], grid, 0.1)
    assert torch.equal(alone[0], noisy[1]) and len(np.unique(noise)) > 0.99 * len(noise)
