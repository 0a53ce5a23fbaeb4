"""Networks are put together without memory, on torch's meta device, and get their first weights in one place: here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def draw_weights(network: nn.Module, initialise: Callable[[torch.Generator], None], seed: int) -> None:
    """Give a network memory on the default device, and weights from a generator of that seed, the same on any device.

    Nothing happens where the default device is meta: then the weights are to be loaded.

    Args:
        network: on the meta device.
        initialise: fills every parameter and buffer of the network from a generator; it finds it on the CPU.
        seed: of that generator.
    """
    place = torch.get_default_device()
    if place.type == "meta":
        return
    network.to_empty(device="cpu")
    initialise(torch.Generator().manual_seed(seed))
    network.to(place)
