"""Training on several processes: sums over all ranks, work that rank 0 alone does, replicated or sharded weights.

`torchrun --nproc-per-node N -m carrara pretrain …` tells each process its rank through the environment; without it
there is one process and nothing here costs anything. Gradients are averaged over the ranks by PyTorch's
DistributedDataParallel during the backward pass, or by FSDP. The loss of a rank is divided by the counts of all ranks
together and multiplied by their number, so the average is the gradient of the whole batch on any number of ranks.

A rank that dies is noticed at the next collective: gloo sees the closed connection, NCCL waits for `timeout_seconds`.
Work of rank 0 (fitting targets, writing) may take hours, so the others wait for it on a slow group of their own.

For networks that do not fit one GPU, PyTorch's `fully_shard` [zhao2023] shards weights, gradients and moments over the
ranks: each Transformer layer is gathered for its own computation and freed again; all other parameters are one more
unit. Every rank takes part in every forward and backward pass, so LayerDrop, which each rank draws for itself, and an
EMA teacher cannot be combined with it. Checkpoints hold whole tensors and fit any number of ranks, sharded or not.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from carrara.core.errors import CarraraError, UsageError

SLOW_TIMEOUT = timedelta(days=7)
# What the backends say when a rank is gone; PyTorch has no class of error for it that both raise.
LOST_RANK = re.compile(r"gloo|nccl|connection|socket|peer|timed out|process group", re.IGNORECASE)

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
        with self.report_lost_rank():
            distributed.all_reduce(sums)
        return sums.tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the ranks, and return it."""
        if self.world_size > 1:
            with self.report_lost_rank():
                distributed.all_reduce(tensor)
        return tensor

    def gather_counts(self, count: int) -> list[int]:
        """Return the number of every rank, in their order."""
        own = [count if rank == self.rank else 0 for rank in range(self.world_size)]
        return [int(each) for each in self.all_reduce_sum(own)]

    def gather_rows(self, tensor: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the tensors of all ranks, one after another; `rows` are their lengths, by rank."""
        if self.world_size == 1:
            return tensor
        padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        gathered = [torch.empty_like(padded) for _ in rows]
        with self.report_lost_rank():
            distributed.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, rows)])

    def all_gather(self, value: Any) -> list[Any]:
        """Return the value of every rank, in their order; it must not hold tensors of a GPU."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.report_lost_rank():
            distributed.all_gather_object(values, value, self.slow_group)
        return values

    def on_all_ranks(self, work: Callable[[], T]) -> list[T]:
        """Run a function on every rank, and return the results of all, in their order.

        Raises:
            CarraraError: on rank 0, where the function raises it on any rank.
            SystemExit: on the other ranks then.
        """
        problem: CarraraError | None = None
        result: Any = None
        try:
            result = work()
        except CarraraError as failure:
            problem = failure
        results = self.all_gather((result, problem))
        problem = next((each for _, each in results if each), None)
        if problem and self.is_main:
            raise problem
        if problem:
            raise SystemExit(problem.exit_code)
        return [each for each, _ in results]

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
        with self.report_lost_rank():
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
    def report_lost_rank(self) -> Iterator[None]:
        """Turn the failure of a collective into one line; other errors of the block stay as they are."""
        try:
            yield
        except RuntimeError as problem:
            if self.world_size == 1 or not LOST_RANK.search(str(problem)):
                raise
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


def wrap_ddp(module: nn.Module, dist: Dist, has_unused_parameters: bool) -> nn.Module:
    """Return the module such that its gradients are averaged over the ranks during the backward pass."""
    if dist.world_size == 1:
        return module
    # Buffers are the same on all ranks, or as those of batch norms of no effect on the training.
    with warnings.catch_warnings():
        # Its successor, `forward_sync_buffers` of torch 2.13, would copy the buffers at the start.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=has_unused_parameters)


def apply_fsdp(module: nn.Module, layers: Sequence[nn.Module], dist: Dist) -> None:
    """Shard the module's weights over the ranks; each of the layers is gathered by itself.

    Raises:
        UsageError: there is only one rank.
    """
    if dist.world_size == 1:
        raise UsageError(
            "fsdp=true needs several ranks: `torchrun --nproc-per-node 2 -m carrara pretrain …`, or --set fsdp=false"
        )
    mesh = init_device_mesh(dist.device.type, (dist.world_size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    if hasattr(module, "all_layers"):
        register_fsdp_forward_method(module, "all_layers")


@contextmanager
def gradient_sync(network: nn.Module, is_last: bool) -> Iterator[None]:
    """Average gradients over the ranks in the backward pass of this block only where it is the step's last."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_last)
    with network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last else nullcontext():
        yield


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
