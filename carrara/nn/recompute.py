"""Activation checkpointing [chen2016] that leaves batch norms' running statistics as one forward pass does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def forward_and_recompute(module: nn.Module, *inputs: Any, forward: Callable[..., Any] | None = None) -> Any:
    """Return `module(*inputs)`; its activations are recomputed in the backward pass instead of being kept.

    Args:
        module: whose batch norms count the inputs once.
        inputs: of the module.
        forward: called in the place of the module, for one whose own `forward` is replaced by this function.
    """
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    if not norms or torch.compiler.is_compiling():
        return checkpoint(forward or module, *inputs, use_reentrant=False)
    return checkpoint(
        forward or module,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _keep_running_statistics(norms)),
    )


@contextmanager
def _keep_running_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    # A momentum of 0 leaves the statistics, and unlike `track_running_stats` it keeps the saved tensors' number.
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
