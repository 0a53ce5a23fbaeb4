"""`accumulation_steps = auto`: as few micro-batches as the memory of the device holds.

Activations of one crop are measured in a forward and backward pass whose gradient is thrown away; with the memory that
is free, less what the optimiser will need, they give the crops of a micro-batch. On a GPU so many are then tried. The
number is written to run.json, so a resumed run divides its batches in the same way; the gradient is that of the whole
batch with any number.
"""

from __future__ import annotations

import math
import os
import re
import resource
from pathlib import Path

import torch

from carrara.core.errors import UsageError
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.objectives._base import Objective
from carrara.pretrain.step_cost import USABLE, PeakMemory

CGROUP = Path("/sys/fs/cgroup")
# On a CPU the libraries' own buffers and other processes need memory too, and running out of it kills.
USABLE_ON_CPU = 0.5


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on a device.

    On a CPU this is the smallest of the memory that the system has available, the limit of the control group, and the
    limit of the address space (`ulimit -v`).
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if available := re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M):
        limits.append(1024 * int(available[1]))
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        limits.append(int(limit) - int(used))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    mapped = re.search(r"^VmSize:\s+(\d+) kB", _read(Path("/proc/self/status")), re.M)
    if address_space != resource.RLIM_INFINITY and mapped:
        limits.append(address_space - 1024 * int(mapped[1]))
    return max(min(limits), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def choose_accumulation_steps(objective: Objective, available: int) -> int:
    """Return the smallest number of micro-batches that fits, the same on every rank; the objective stays as it was.

    Args:
        objective: prepared, with its module on the device.
        available: bytes that may still be allocated on the device.

    Raises:
        UsageError: weights are to be sharded, which cannot be probed.
    """
    recipe, dist, module = objective.recipe, objective.dist, objective.module
    if recipe.fsdp:
        raise UsageError(
            "accumulation_steps=auto cannot probe sharded weights; give a number with --set accumulation_steps=2 "
            "(`carrara pretrain RECIPE --dry-run --gpus N` proposes one)"
        )
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    trained = sum(each.numel() * each.element_size() for each in module.parameters() if each.requires_grad)
    share = math.ceil(recipe.batch / dist.world_size)
    batch = objective.stream.read_batch(0, dist.rank, dist.world_size)
    try:
        with torch.random.fork_rng():
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            activations = _measure_activations(objective, batch)
            # The optimiser has two moments, DistributedDataParallel buckets as large as the gradients.
            reserved = (2 + (dist.world_size > 1)) * trained
            usable = USABLE * available
            if dist.device.type == "cpu":
                usable = USABLE_ON_CPU * available / int(os.environ.get("LOCAL_WORLD_SIZE", dist.world_size))
            crops = int((usable - trained - reserved) // max(activations, 1))
            crops = min(max(crops, 1), share)
            while dist.device.type == "cuda" and crops > 1 and not _fits(objective, batch, crops):
                crops = math.ceil(crops / 2)
    finally:
        for parameter in module.parameters():
            parameter.grad = None
        module.load_state_dict(before)
    return max(dist.all_gather(math.ceil(share / crops) * dist.world_size))


def _measure_activations(objective: Objective, batch: CropBatch) -> int:
    """Return the most bytes alive at once in the forward and backward pass of one crop."""
    with PeakMemory() as peak:
        _run_crops(objective, batch, 1)
    return peak.bytes


def _fits(objective: Objective, batch: CropBatch, crops: int) -> bool:
    try:
        _run_crops(objective, batch, crops)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _run_crops(objective: Objective, batch: CropBatch, crops: int) -> None:
    """Compute the gradient of so many crops; ranks take part together, as the micro-batches of a step need them."""
    rows = [row % max(len(batch.item_indices), 1) for row in range(crops)] if batch.item_indices else []
    part = CropBatch(
        batch.step,
        batch.samples_BT[rows],
        tuple(batch.epochs[row] for row in rows),
        tuple(batch.item_indices[row] for row in rows),
        (),
    )
    objective.module.train()
    for micro_batch in objective.micro_batches(part):
        objective.losses(objective.module, micro_batch, batch.step).loss(micro_batch.divisors).backward()
