"""Plain averages of weights over epochs, beside the training and without any effect on it (encoders.md, section 1.5).

From epoch 50 on the network of every fifth epoch is counted in with the same weight; the learning rate goes its way.
(The published code of today averages every epoch and replaces the schedule by a constant: that is not what the paper
measured.)
"""

from __future__ import annotations

import torch
from torch import nn

from carrara.pretrain.tagging.settings import AveragingSettings


def due(epochs: int, settings: AveragingSettings) -> bool:
    """Return whether the network is counted in after so many whole epochs."""
    return bool(settings.every) and epochs >= settings.first and (epochs - settings.first) % settings.every == 0


@torch.no_grad()
def count_in(average: nn.Module, network: nn.Module, before: int) -> None:
    """Make the average of `before` networks that of one more; counters and the like are taken over."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 / (before + 1))
        else:
            mean.copy_(value)
