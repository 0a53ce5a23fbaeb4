"""What a student does not see of each crop: spans of frames, and the variants that published code offers.

Spans are those of carrara/nn/transformer/masking.py. Variants (MERT's training code, all off in the published configurations;
pretraining.md, section 3.2): a masked frame may keep its own content or take that of another frame of its clip, as in
BERT, and is asked for all the same; p and span may change from some share of the steps on; whole channels of the
projected features may be silenced; `same_masks` trims every clip to the smallest count among those computed together.

Letters: B batch, F frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.nn.transformer.masking import span_mask
from carrara.pretrain.recipes._base import MaskingSettings

# Channels are drawn apart from frames.
CHANNELS = 1_000_003


@dataclass(frozen=True)
class View:
    """What is asked for and what is hidden, of some crops.

    Attributes:
        asked_BF: frames that count as masked.
        hidden_BF: those of them that are replaced by the mask vector.
        sources_BF: from which frame of its clip each frame's content comes; none: its own.
        silent_BD: channels that are zero; none: no channel.
    """

    asked_BF: Tensor
    hidden_BF: Tensor
    sources_BF: Tensor | None = None
    silent_BD: Tensor | None = None

    def to(self, device: torch.device) -> View:
        """Return the same on a device."""
        sources_BF, silent_BD = (
            each if each is None else each.to(device) for each in (self.sources_BF, self.silent_BD)
        )
        return View(self.asked_BF.to(device), self.hidden_BF.to(device), sources_BF, silent_BD)

    def spoil(self, x_BFD: Tensor) -> Tensor:
        """Return projected frames with contents exchanged and channels silenced; frames after the view's end stay."""
        if self.sources_BF is not None:
            end = self.sources_BF.shape[1]
            taken_BFD = x_BFD[:, :end].gather(1, self.sources_BF[..., None].expand(-1, -1, x_BFD.shape[-1]))
            x_BFD = torch.cat([taken_BFD, x_BFD[:, end:]], dim=1)
        if self.silent_BD is not None:
            x_BFD = x_BFD.masked_fill(self.silent_BD[:, None], 0)
        return x_BFD


def at(settings: MaskingSettings, share: float) -> MaskingSettings:
    """Return the settings that hold when such a share of the steps is done."""
    for since, probability, span in settings.schedule:
        if share >= since:
            settings = settings.model_copy(update={"probability": probability, "span": span})
    return settings


def view(draws_B: Sequence[tuple[int, int, int]], settings: MaskingSettings, frames: int, width: int) -> View:
    """Return what the student sees of some crops.

    Args:
        draws_B: seed, epoch and item of each crop, which its draws depend on.
        settings: see `MaskingSettings`.
        frames: of each crop.
        width: channels of the projected features.
    """
    asked_BF = torch.zeros(len(draws_B), frames, dtype=torch.bool)
    for asked_F, draw in zip(asked_BF, draws_B):
        asked_F[:] = span_mask(frames, settings.mask_prob, settings.mask_length, settings.min_masks, *draw)
    if settings.same_masks and len(draws_B):
        _trim(asked_BF, draws_B)
    hidden_BF, sources_BF = _exchange(asked_BF, draws_B, settings)
    if not settings.channels:
        return View(asked_BF, hidden_BF, sources_BF)
    silent_BD = torch.zeros(len(draws_B), width, dtype=torch.bool)
    for silent_D, (seed, epoch, item) in zip(silent_BD, draws_B):
        silent_D[:] = span_mask(width, settings.channels, settings.channel_span, 0, seed + CHANNELS, epoch, item)
    return View(asked_BF, hidden_BF, sources_BF, silent_BD)


def _exchange(
    asked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]], settings: MaskingSettings
) -> tuple[Tensor, Tensor | None]:
    """Return which frames the mask vector hides, and where each frame's content comes from."""
    if not settings.keep + settings.other:
        return asked_BF, None
    frames = asked_BF.shape[1]
    hidden_BF, sources_BF = asked_BF.clone(), torch.arange(frames).repeat(len(draws_B), 1)
    for asked_F, hidden_F, sources_F, draw in zip(asked_BF, hidden_BF, sources_BF, draws_B):
        generator = np.random.default_rng([*draw, 2])
        lot_F = torch.from_numpy(generator.random(frames))
        elsewhere_F = torch.from_numpy(generator.integers(frames, size=frames))
        other_F = asked_F & (lot_F >= settings.keep) & (lot_F < settings.keep + settings.other)
        sources_F[other_F] = elsewhere_F[other_F]
        hidden_F &= lot_F >= settings.keep + settings.other
    return hidden_BF, sources_BF


def _trim(asked_BF: Tensor, draws_B: Sequence[tuple[int, int, int]]) -> None:
    fewest = int(asked_BF.sum(1).min())
    for asked_F, draw in zip(asked_BF, draws_B):
        masked = asked_F.nonzero()[:, 0].numpy()
        asked_F[torch.from_numpy(np.random.default_rng([*draw, 1]).permutation(masked)[fewest:])] = False
