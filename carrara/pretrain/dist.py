"""Training on several processes: sums over all ranks, work that rank 0 alone does, and sharded weights (FSDP).

`torchrun --nproc-per-node N -m carrara pretrain …` tells each process its rank through the environment; without it
there is one process and nothing here costs anything. Gradients are summed, not averaged: the loss of a rank is already
divided by the counts of all ranks together, so a step is the same on any number of ranks. DistributedDataParallel's
mean over ranks would weigh a crop with few masked frames more [notes/pretraining §3.3].

A rank that dies is noticed at the next collective: gloo sees the closed connection, NCCL waits for `timeout_seconds`.
Work of rank 0 (fitting targets, writing) may take hours, so the others wait for it on a slow group of their own.

For networks that do not fit one GPU, PyTorch's `fully_shard` [zhao2023] shards weights, gradients and moments over the
ranks: each Transformer layer is gathered for its own computation and freed again; all other parameters are one more
unit. Every rank takes part in every forward and backward pass, so LayerDrop, which each rank draws for itself, and an
EMA teacher cannot be combined with it. Checkpoints hold whole tensors and fit any number of ranks, sharded or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from carrara.core.errors import CarraraError, UsageError
from carrara.pretrain.objective import MaskedPrediction

SLOW_TIMEOUT = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True)
class Dist:
    """The rank of this process and the collectives over all ranks.

    Every collective raises CarraraError where another rank is gone.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: device of this rank's model.
        slow_group: process group with a long timeout; None on one process.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    slow_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and messages."""
        return self.rank == 0

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Return each number summed over the ranks."""
        if self.world_size == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        with self._report_lost_rank():
            distributed.all_reduce(sums)
        return sums.tolist()

    def all_reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks; a gradient that a rank lacks counts as zeros there."""
        if self.world_size == 1:
            return
        has_gradient = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).int()
        with self._report_lost_rank():
            distributed.all_reduce(has_gradient)
            pending = []
            for parameter, ranks in zip(parameters, has_gradient.tolist()):
                if ranks:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    pending.append(distributed.all_reduce(parameter.grad, async_op=True))
            for work in pending:
                work.wait()

    def all_gather(self, value: Any) -> list[Any]:
        """Return the value of every rank, in their order; it must not hold tensors of a GPU."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self._report_lost_rank():
            distributed.all_gather_object(values, value, self.slow_group)
        return values

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Run a function on rank 0 while the others wait, and return its result on all ranks.

        Raises:
            CarraraError: on rank 0, where the function raises it.
            SystemExit: on the other ranks then, so that the message appears once.
        """
        if self.world_size == 1:
            return work()
        message: list[Any] = [None, 0]
        problem: CarraraError | None = None
        if self.is_main:
            try:
                message[0] = work()
            except CarraraError as failure:
                problem, message[1] = failure, failure.exit_code
        with self._report_lost_rank():
            distributed.broadcast_object_list(message, 0, self.slow_group)
        if problem:
            raise problem
        if message[1]:
            raise SystemExit(message[1])
        result: T = message[0]
        return result

    @contextmanager
    def report_once(self) -> Iterator[None]:
        """Let rank 0 alone report an error that occurs on every rank; the others raise SystemExit."""
        try:
            yield
        except CarraraError as problem:
            if self.is_main:
                raise
            raise SystemExit(problem.exit_code) from None

    @contextmanager
    def _report_lost_rank(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            raise CarraraError(
                f"rank {self.rank}: another rank is gone ({_one_line(problem)}); start all of them again with --resume"
            ) from None


@contextmanager
def init_dist(device: torch.device, timeout_seconds: float) -> Iterator[Dist]:
    """Join the processes that torchrun started, and leave the process group at the end.

    Raises:
        UsageError: there are more ranks on this machine than GPUs, or they cannot find one another.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Dist(device=device)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun: rank {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds)
        )
        slow_group = distributed.new_group(backend="gloo", timeout=SLOW_TIMEOUT)
    except (RuntimeError, ValueError) as problem:
        raise UsageError(f"torchrun: the {world_size} ranks cannot find one another ({_one_line(problem)})") from None
    try:
        yield Dist(rank, world_size, device, slow_group)
    finally:
        distributed.destroy_process_group()


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


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]
