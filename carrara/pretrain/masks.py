"""Which frames and channels of each crop are masked for the student, drawn from (seed, epoch, item).

Spans of frames as in HuBERT [hsu2021] and MERT [notes/pretraining §3.2]; optionally spans of channels of the projected
features are set to zero too, as in wav2vec 2.0 [baevski2020]. On request crops are trimmed to the same number of masked
frames, as in fairseq (docs/differences.md).

Letters: B batch, F frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.nn.transformer.masking import span_mask
from carrara.pretrain.recipes._base import MaskingSettings

# Added to the seed, so that the channels' draws differ from those of the frames.
CHANNEL_SEED_OFFSET = 1_000_003
TRIM_DRAW = 1  # distinguishes the draws of the trimming from the others of a crop


@dataclass(frozen=True)
class MaskPlan:
    """The masks of some crops.

    Attributes:
        masked_BF: frames that the mask vector replaces and that are predicted.
        channel_mask_BD: channels that are set to zero; None for no channel.
    """

    masked_BF: Tensor
    channel_mask_BD: Tensor | None = None

    def rows(self, rows_B: Tensor) -> MaskPlan:
        """Return the masks of some of the crops."""
        channel_mask_BD = None if self.channel_mask_BD is None else self.channel_mask_BD[rows_B]
        return MaskPlan(self.masked_BF[rows_B], channel_mask_BD)

    def to(self, device: torch.device) -> MaskPlan:
        """Return the same masks on a device."""
        channel_mask_BD = None if self.channel_mask_BD is None else self.channel_mask_BD.to(device)
        return MaskPlan(self.masked_BF.to(device), channel_mask_BD)

    def corrupt(self, x_BFD: Tensor) -> Tensor:
        """Return projected frames with the masked channels set to zero."""
        return x_BFD if self.channel_mask_BD is None else x_BFD.masked_fill(self.channel_mask_BD[:, None], 0)


def plan_masks(
    draws_B: Sequence[tuple[int, int, int]], settings: MaskingSettings, num_frames: int, dim: int
) -> MaskPlan:
    """Return the masks of one rank's crops, in the batch's order.

    Args:
        draws_B: (seed, epoch, item) of each crop, which determine its draws.
        settings: probabilities and lengths.
        num_frames: frames of each crop.
        dim: channels of the projected features.
    """
    masked_BF = torch.zeros(len(draws_B), num_frames, dtype=torch.bool)
    for masked_F, draw in zip(masked_BF, draws_B):
        masked_F[:] = span_mask(num_frames, settings.mask_prob, settings.mask_length, settings.min_masks, *draw)
    if settings.same_masks:
        for start in range(0, len(draws_B), settings.pool):
            _trim(masked_BF[start : start + settings.pool], draws_B[start : start + settings.pool])
    if not settings.mask_channel_prob:
        return MaskPlan(masked_BF)
    channel_mask_BD = torch.zeros(len(draws_B), dim, dtype=torch.bool)
    for mask_D, (seed, epoch, item) in zip(channel_mask_BD, draws_B):
        mask_D[:] = span_mask(
            dim, settings.mask_channel_prob, settings.mask_channel_length, 0, seed + CHANNEL_SEED_OFFSET, epoch, item
        )
    return MaskPlan(masked_BF, channel_mask_BD)


def _trim(masked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]]) -> None:
    """Unmask random frames of each crop until all have as many masked frames as the crop with the fewest."""
    fewest = int(masked_BF.sum(1).min())
    for masked_F, draw in zip(masked_BF, draws_B):
        masked = masked_F.nonzero()[:, 0].numpy()
        masked_F[np.random.default_rng([*draw, TRIM_DRAW]).permutation(masked)[fewest:]] = False
