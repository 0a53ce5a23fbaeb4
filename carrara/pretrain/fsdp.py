"""Weights, gradients and moments sharded over the ranks (FSDP), for networks that do not fit one GPU.

PyTorch's `fully_shard` [zhao2023]: each Transformer layer is gathered for its own computation and freed again; all
other parameters are one more unit. Every rank takes part in every forward and backward pass, so LayerDrop, which each
rank draws for itself, and an EMA teacher cannot be combined with it. Checkpoints hold whole tensors and fit any number
of ranks, sharded or not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from carrara.core.errors import UsageError
from carrara.pretrain.dist import Dist
from carrara.pretrain.objective import MaskedPrediction


def apply_fsdp(model: MaskedPrediction, dist: Dist, has_ema_target: bool) -> None:
    """Shard the model's weights over the ranks.

    Raises:
        UsageError: there is only one rank, or the model cannot be sharded.
    """
    if dist.world_size == 1:
        raise UsageError("fsdp=true needs several ranks: torchrun --nproc-per-node 2 -m carrara pretrain …")
    if model.encoder.settings.layerdrop:
        raise UsageError("fsdp=true needs network.layerdrop=0: every rank must compute every layer")
    if has_ema_target:
        raise UsageError("fsdp=true does not go with a teacher that averages the student's weights; leave fsdp out")
    mesh = init_device_mesh(dist.device.type, (dist.world_size,))
    for layer in model.encoder.encoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "all_layers")


def set_gradient_sync(model: MaskedPrediction, is_last: bool) -> None:
    """Sum gradients over the ranks after the next backward pass only where it is the step's last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor whole; where it is sharded, all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def shard_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return a whole tensor on the device of another one, sharded as that is."""
    tensor = tensor.to(reference.device)
    if not isinstance(reference, DTensor):
        return tensor
    return distribute_tensor(tensor, reference.device_mesh, reference.placements)
