"""MERT's noise mixup: a change to the student's crops, never to the targets'.

In noise mixup [li2024 §3.3] [notes/pretraining §3.5] a crop gets one to three excerpts of half a second to one and a
half, cut from the other crops of its pool in a row and added at random positions. The published code mixes where u > p,
so with probability 1 - p, in validation too, and silently never in a batch of one; here `probability` is the
probability, only the training step calls this, and a pool of one stays as it is. Excerpts come from the crops before
any mixing. A pool is a run of `pool` crops of the whole batch, so mixing does not depend on the number of ranks.

Letters: B batch, T samples, P samples of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes._base import MixupSettings

MIXUP_DRAW = 3  # distinguishes these draws from the others of a crop


def mix_crops(
    samples_BT: Tensor, draws_B: Sequence[Sequence[int]], settings: MixupSettings, sample_rate: int
) -> Tensor:
    """Return copies of the crops with excerpts of one another added.

    Args:
        samples_BT: crops of one rank, in the batch's order.
        draws_B: (seed, epoch, item) of each crop, which determine its draws.
        settings: how often, how long, how loud.
        sample_rate: in Hz.
    """
    if not settings.probability:
        return samples_BT
    mixed_BT = samples_BT.clone()
    crop_samples = samples_BT.shape[1]
    shortest, longest = (
        min(round(seconds * sample_rate), crop_samples) for seconds in (settings.shortest, settings.longest)
    )
    for index, mixed_T in enumerate(mixed_BT):
        pool_start = index - index % settings.pool
        others = [*samples_BT[pool_start:index], *samples_BT[index + 1 : pool_start + settings.pool]]
        generator = np.random.default_rng([*draws_B[index], MIXUP_DRAW])
        if not others or generator.random() >= settings.probability:
            continue
        others_P = torch.cat(others)
        for _ in range(generator.integers(1, settings.excerpts + 1)):
            length = int(generator.integers(shortest, longest + 1))
            start = int(generator.integers(len(others_P) - length + 1))
            position = int(generator.integers(crop_samples - length + 1))
            mixed_T[position : position + length] += settings.volume * others_P[start : start + length]
    return mixed_BT
