"""Which frames of each crop are masked for the student, drawn from (seed, epoch, item).

Spans of frames as in HuBERT [hsu2021] and MERT [notes/pretraining §3.2]. On request crops are trimmed to the same
number of masked frames, as in fairseq (docs/differences.md).

Letters: B batch, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.nn.transformer.masking import span_mask
from carrara.pretrain.recipes._base import MaskingSettings

TRIM_DRAW = 1  # distinguishes the draws of the trimming from the others of a crop


def draw_masks(draws_B: Sequence[tuple[int, int, int]], settings: MaskingSettings, num_frames: int) -> Tensor:
    """Return which frames of one rank's crops are masked, bool `[B, F]`.

    Args:
        draws_B: (seed, epoch, item) of each crop, in the batch's order, which determine its draws.
        settings: probabilities and lengths.
        num_frames: frames of each crop.
    """
    masked_BF = torch.zeros(len(draws_B), num_frames, dtype=torch.bool)
    for masked_F, draw in zip(masked_BF, draws_B):
        masked_F[:] = span_mask(num_frames, settings.mask_prob, settings.mask_length, settings.min_masks, *draw)
    if settings.same_masks:
        for start in range(0, len(draws_B), settings.pool):
            _trim(masked_BF[start : start + settings.pool], draws_B[start : start + settings.pool])
    return masked_BF


def _trim(masked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]]) -> None:
    """Unmask random frames of each crop until all have as many masked frames as the crop with the fewest."""
    fewest = int(masked_BF.sum(1).min())
    for masked_F, draw in zip(masked_BF, draws_B):
        masked = masked_F.nonzero()[:, 0].numpy()
        masked_F[np.random.default_rng([*draw, TRIM_DRAW]).permutation(masked)[fewest:]] = False
