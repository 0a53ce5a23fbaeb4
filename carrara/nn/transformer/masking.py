"""Which frames a student does not see: spans drawn anew for every clip and epoch, the same on any machine.

As in wav2vec 2.0 and HuBERT (fairseq's definition): a clip of n frames gets floor(p·n/span + u) spans, u uniform in
[0, 1), at least `minimum`; their starts are drawn without replacement from [0, n − span); they may overlap. So p is
not the masked fraction: about 1 − (1 − p/span)^span of the frames are masked, .58 for MERT's p = .8 and span 5.

The published code seeds nothing, so its masks never come again; here the generator is made from (seed, epoch, item).
Its trimming of every clip to the smallest count in the batch, which punches holes in spans, is `same_masks`.

Letters: B batch, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def span_mask(frames: int, probability: float, span: int, minimum: int, seed: int, epoch: int, item: int) -> Tensor:
    """Return which frames are masked, bool `[frames]`; at least one frame is never masked.

    Args:
        frames: valid frames of the clip; a clip no longer than a span gets a shorter one.
        probability: p of the head note.
        span: frames a span.
        minimum: fewest spans (2 for HuBERT and MERT, 1 for data2vec).
        seed, epoch, item: what the draw depends on, non-negative; item is the clip's index in the corpus.
    """
    generator = np.random.default_rng([seed, epoch, item])
    mask_F = np.zeros(frames, dtype=bool)
    length = min(span, frames - 1)
    if length < 1:
        return torch.from_numpy(mask_F)
    starts = frames - length
    count = min(max(minimum, int(probability * frames / span + generator.random())), starts)
    for start in generator.choice(starts, count, replace=False):
        mask_F[start : start + length] = True
    return torch.from_numpy(mask_F)


def span_masks(
    frames_B: Sequence[int],
    probability: float,
    span: int,
    minimum: int,
    place: tuple[int, int],
    items_B: Sequence[int],
    same_masks: bool = False,
) -> Tensor:
    """Return the masks of a batch, bool `[batch, most frames]`, false after each clip's own frames.

    Args:
        frames_B: valid frames of each clip.
        probability, span, minimum: as in `span_mask`.
        place: (seed, epoch).
        items_B: each clip's index in the corpus.
        same_masks: trim every clip to the smallest count in the batch, as published; then a clip's mask depends on its
            batch.
    """
    mask_BF = torch.zeros(len(frames_B), max(frames_B), dtype=torch.bool)
    for mask_F, frames, item in zip(mask_BF, frames_B, items_B):
        mask_F[:frames] = span_mask(frames, probability, span, minimum, *place, item)
    if same_masks:
        fewest = int(mask_BF.sum(1).min())
        for mask_F, item in zip(mask_BF, items_B):
            masked = mask_F.nonzero()[:, 0].numpy()
            generator = np.random.default_rng([*place, item, 1])
            mask_F[torch.from_numpy(generator.permutation(masked)[fewest:])] = False
    return mask_BF
