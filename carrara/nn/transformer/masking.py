"""Masks of frames: spans or blocks drawn anew for every clip and epoch, the same on any machine.

As in wav2vec 2.0 and HuBERT, by fairseq's definition ([notes/pretraining §3.2]): a clip of n frames gets floor(p·n/span
+ u) spans, u uniform in [0, 1), at least `minimum`; their starts are drawn without replacement from [0, n − span);
spans may overlap. So p is not the masked fraction: about 1 − (1 − p/span)^span of the frames are masked, .58 for MERT's
p = .8 and span 5. The published code seeds nothing, so its masks cannot be reproduced; here the generator depends on
(seed, epoch, item).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def span_mask(frames: int, probability: float, span: int, minimum: int, seed: int, epoch: int, item: int) -> Tensor:
    """Return which frames are masked, bool `[frames]`; at least one frame is not.

    Args:
        frames: valid frames of the clip; a clip no longer than a span gets a shorter one.
        probability: p of the definition above.
        span: frames of a span.
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


def block_mask(frames: int, probability: float, length: int, minimum: int, seed: int, epoch: int, item: int) -> Tensor:
    """Return which frames are masked, bool `[frames]`: whole blocks, each with a probability, as in MusicFM [won2024].

    At least `minimum` blocks are masked and at least one is not, where there are so many; frames after the last whole
    block never are.

    Args:
        frames: valid frames of the clip.
        probability: of masking a block.
        length: frames of a block.
        minimum: fewest masked blocks.
        seed, epoch, item: what the draw depends on, as for `span_mask`.
    """
    count = frames // length
    drawn_N = np.random.default_rng([seed, epoch, item]).random(count)
    masked = np.clip(np.sum(drawn_N < probability), minimum, max(count - 1, 0))
    mask_F = np.zeros(frames, dtype=bool)
    mask_F[: count * length] = np.repeat(drawn_N.argsort().argsort() < masked, length)
    return torch.from_numpy(mask_F)
