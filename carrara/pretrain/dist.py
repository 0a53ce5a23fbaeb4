"""Several processes that train one network: who am I, sums over all, and what only the first one does.

Started by `torchrun --nproc-per-node N -m carrara pretrain …`, which tells each process its number through the
environment; without it there is one process and nothing here costs anything. Gradients are summed, not averaged: the
loss of a rank is already divided by what all ranks ask for together, so that a step means the same on any number of
them (DistributedDataParallel's mean over ranks weighs a crop with few masked frames more; pretraining.md, section 3.3).

A rank that dies is noticed at the next sum: gloo sees the closed connection, NCCL waits for `timeout_seconds`. What
the first rank does alone (fitting targets, writing) may take hours, so it is waited for on a patient group of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from carrara.core.errors import CarraraError, UsageError

BUCKET_NUMBERS = 2**25
PATIENCE = timedelta(days=7)

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: where its part of the network is.
        patient: the group that waits for the first rank; none where it is alone.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return each number summed over the ranks.

        Raises:
            CarraraError: another rank is gone.
        """
        if self.size == 1:
            return [float(number) for number in numbers]
        sums = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        with _lost(self.rank):
            distributed.all_reduce(sums)
        return sums.tolist()

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks; one that some rank has not counts as zeros there.

        Raises:
            CarraraError: another rank is gone.
        """
        if self.size == 1:
            return
        held = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).int()
        with _lost(self.rank):
            distributed.all_reduce(held)
            present = [parameter for parameter, ranks in zip(parameters, held.tolist()) if ranks]
            for bucket in _buckets(present):
                gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                distributed.all_reduce(flat)
                for parameter, summed in zip(bucket, flat.split([each.numel() for each in bucket])):
                    parameter.grad = summed.view_as(parameter)

    def gather(self, thing: Any) -> list[Any]:
        """Return what each rank gives, in their order; it must not hold tensors of a GPU.

        Raises:
            CarraraError: another rank is gone.
        """
        if self.size == 1:
            return [thing]
        given: list[Any] = [None] * self.size
        with _lost(self.rank):
            distributed.all_gather_object(given, thing, self.patient)
        return given

    def lead(self, work: Callable[[], T]) -> T:
        """Let the first rank do something while the others wait, and return what came of it on all of them.

        Raises:
            CarraraError: it failed, or another rank is gone.
            SystemExit: on the other ranks where it failed: one line is enough.
        """
        if self.size == 1:
            return work()
        said: list[Any] = [None, 0]
        problem: CarraraError | None = None
        if self.first:
            try:
                said[0] = work()
            except CarraraError as failure:
                problem, said[1] = failure, failure.exit_code
        with _lost(self.rank):
            distributed.broadcast_object_list(said, 0, self.patient)
        if problem:
            raise problem
        if said[1]:
            raise SystemExit(said[1])
        done: T = said[0]
        return done

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Let only the first rank tell of what fails on all of them.

        Raises:
            SystemExit: on the other ranks, where it failed.
        """
        try:
            yield
        except CarraraError as problem:
            if self.first:
                raise
            raise SystemExit(problem.exit_code) from None


@contextmanager
def joined(device: torch.device, timeout_seconds: float) -> Iterator[Ranks]:
    """Give this process's place among those that torchrun started, and part from them at the end.

    Raises:
        UsageError: there are more ranks on this machine than GPUs, or they cannot find one another.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(device=device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun: rank {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds)
        )
        patient = distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as problem:
        raise UsageError(f"torchrun: the {size} ranks cannot find one another ({_line(problem)})") from None
    try:
        yield Ranks(rank, size, device, patient)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _lost(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:
        raise CarraraError(
            f"rank {rank}: another rank is gone ({_line(problem)}); start all of them again with --resume"
        ) from None


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(each.numel() for each in bucket) + parameter.numel() > BUCKET_NUMBERS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
