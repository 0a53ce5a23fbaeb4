"""In-batch noise mixup: other clips' excerpts laid over what the student hears, never over what it must predict.

MERT (Li et al. 2024, section 3.3; pretraining.md, section 3.5, has the published code's ways): a clip is mixed with
one to three excerpts of half a second to one and a half, cut from the other clips of its pool run together, at random
places, as loud as they are. The published code mixes where u > p, so with probability 1 - p, in validation too, and
from a batch of one silently not at all; here `probability` is the probability, only the training step calls this, and
a pool of one is left as it is. Excerpts come from the clips as they were before any mixing.

A pool is a run of `pool` crops of the whole batch, so that mixing is the same however a batch is shared by ranks.

Letters: B batch, T samples, P samples of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes._base import MixupSettings


def mixed(samples_BT: Tensor, draws_B: Sequence[Sequence[int]], settings: MixupSettings, sample_rate: int) -> Tensor:
    """Return the crops with noise of one another on them; what was given is not changed.

    Args:
        samples_BT: crops of one rank, in the batch's order.
        draws_B: what each crop's draw depends on, for example seed, epoch and item.
        settings: how often, how long, how loud.
        sample_rate: in Hz.
    """
    if not settings.probability:
        return samples_BT
    mixed_BT = samples_BT.clone()
    for first in range(0, len(samples_BT), settings.pool):
        clean_BT = samples_BT[first : first + settings.pool]
        for place in range(len(clean_BT)):
            generator = np.random.default_rng([*draws_B[first + place], 3])
            if len(clean_BT) > 1 and generator.random() < settings.probability:
                others_P = torch.cat([clean_BT[:place], clean_BT[place + 1 :]]).flatten()
                _lay(mixed_BT[first + place], others_P, settings, sample_rate, generator)
    return mixed_BT


def _lay(
    clip_T: Tensor, others_P: Tensor, settings: MixupSettings, sample_rate: int, generator: np.random.Generator
) -> None:
    shortest, longest = (
        min(round(seconds * sample_rate), len(clip_T)) for seconds in (settings.shortest, settings.longest)
    )
    for _ in range(generator.integers(1, settings.excerpts + 1)):
        length = int(generator.integers(shortest, longest + 1))
        start = int(generator.integers(len(others_P) - length + 1))
        place = int(generator.integers(len(clip_T) - length + 1))
        clip_T[place : place + length] += settings.volume * others_P[start : start + length]
