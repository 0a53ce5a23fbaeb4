"""Weights, gradients and moments divided among the ranks (FSDP), for networks that one GPU cannot train.

torch's `fully_shard` (Zhao et al. 2023, arXiv 2304.11277): each Transformer layer is gathered when it is needed and let
go again; what is outside the layers is one more unit. Every rank must take part in every forward and backward pass, so
LayerDrop, which each part draws for itself, cannot be had with it, nor a teacher that averages the student's weights.
Checkpoints hold whole tensors: they fit any number of ranks, sharded or not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from carrara.core.errors import UsageError
from carrara.pretrain.dist import Ranks
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.recipes._base import Recipe


def divide(model: MaskedPrediction, recipe: Recipe, ranks: Ranks, moving: bool) -> None:
    """Divide the model's weights among the ranks, where the recipe asks for it.

    Raises:
        UsageError: there is one rank only, or the recipe has what cannot be divided.
    """
    if not recipe.fsdp:
        return
    if ranks.size == 1:
        raise UsageError("shard=true needs several ranks: torchrun --nproc-per-node 2 -m carrara pretrain …")
    if model.encoder.settings.layerdrop:
        raise UsageError("shard=true needs network.layerdrop=0: every rank must compute every layer")
    if moving:
        raise UsageError("shard=true does not go with a teacher that averages the student; leave shard out")
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for layer in model.encoder.encoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "features")


def last_part(model: MaskedPrediction, shard: bool, last: bool) -> None:
    """Say whether the next backward pass is the step's last, after which gradients are summed over the ranks."""
    if shard and isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def norm_of(norm: Tensor) -> float:
    """Return a gradient's norm, the same on all ranks."""
    return float(whole(norm))


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be divided as a whole one; all ranks must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of another, and divided as that is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)
