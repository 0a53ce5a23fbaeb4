"""Which frames of each crop are masked for the student, drawn from (seed, epoch, item).

Spans of frames as in HuBERT [hsu2021] and MERT [notes/pretraining §3.2]. On request crops are trimmed to the same
number of masked frames, as in fairseq (docs/differences.md). MusicFM and MuQ mask blocks instead, by noise in the place
of the samples [won2024] [zhu2025].

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.transformer.masking import block_mask, span_mask
from carrara.pretrain.recipes._base import MaskingSettings

TRIM_DRAW, NOISE_DRAW = 1, 2  # distinguish the draws of trimming and noise from the others of a crop


def draw_masks(draws_B: Sequence[tuple[int, int, int]], settings: MaskingSettings, num_frames: int) -> Tensor:
    """Return which frames of one rank's crops are masked, bool `[B, F]`.

    Args:
        draws_B: (seed, epoch, item) of each crop, in the batch's order, which determine its draws.
        settings: probabilities and lengths.
        num_frames: frames of each crop.
    """
    masked_BF = torch.zeros(len(draws_B), num_frames, dtype=torch.bool)
    for masked_F, draw in zip(masked_BF, draws_B):
        draw_mask = block_mask if settings.blocks else span_mask
        masked_F[:] = draw_mask(num_frames, settings.mask_prob, settings.mask_length, settings.min_masks, *draw)
    if settings.same_masks:
        for start in range(0, len(draws_B), settings.pool):
            _trim(masked_BF[start : start + settings.pool], draws_B[start : start + settings.pool])
    return masked_BF


def replace_by_noise(
    samples_BT: Tensor, masked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]], grid: FrameGrid, std: float
) -> Tensor:
    """Return crops where Gaussian noise of that standard deviation replaces the samples of each masked frame.

    Those are the `hop` samples around the frame's centre; frame 0 has the first ones where they would begin before it.
    """
    noisy_BT, first = samples_BT.clone(), max(grid.centre - grid.hop // 2, 0)
    for noisy_T, masked_F, draw in zip(noisy_BT, masked_BF, draws_B):
        masked_T = first + masked_F.repeat_interleave(grid.hop)[: len(noisy_T) - first].nonzero()[:, 0]
        generator = np.random.default_rng([*draw, NOISE_DRAW])
        noisy_T[masked_T] = torch.from_numpy(generator.standard_normal(len(masked_T), dtype=np.float32)) * std
    return noisy_BT


def _trim(masked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]]) -> None:
    """Unmask random frames of each crop until all have as many masked frames as the crop with the fewest."""
    fewest = int(masked_BF.sum(1).min())
    for masked_F, draw in zip(masked_BF, draws_B):
        masked = masked_F.nonzero()[:, 0].numpy()
        masked_F[np.random.default_rng([*draw, TRIM_DRAW]).permutation(masked)[fewest:]] = False
