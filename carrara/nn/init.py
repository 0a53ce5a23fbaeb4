"""Initial weights of networks that were built on torch's meta device, which allocates no memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def init_weights(network: nn.Module, initialize: Callable[[torch.Generator], None], seed: int) -> None:
    """Allocate a network on the default device and draw its weights, the same for a seed on every device
    and with any number of threads.

    If the default device is meta, nothing happens: the weights will be loaded.

    Args:
        network: a network on the meta device.
        initialize: fills every parameter and buffer of the network from a generator on the CPU.
        seed: seed of that generator.
    """
    device = torch.get_default_device()
    if device.type == "meta":
        return
    # What to_empty does, whose empty_like of a meta tensor loads sympy, 40 MB of it.
    network._apply(lambda meta: torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device="cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last digits of a QR decomposition depend on them
    try:
        initialize(torch.Generator().manual_seed(seed))
    finally:
        torch.set_num_threads(threads)
    network.to(device)


def build_constants(build: Callable[[], Module]) -> Module:
    """Return a module of computed constants, on the default device, or on the CPU if that is meta.

    Such a module (a mel filter bank) must hold its values even before the weights of the network are loaded.
    """
    device = torch.get_default_device()
    with torch.device("cpu"):
        module = build()
    return module if device.type == "meta" else module.to(device)
