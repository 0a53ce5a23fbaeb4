"""Operations, activations and seconds of an objective's forward and backward pass on crops of noise.

Letters: B batch, T samples.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from carrara.features.plan import ratio_error
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.optimiser import build_optimiser
from carrara.pretrain.recipes._base import TrainingSettings

USABLE = 0.9  # fraction of the memory that a run may fill
MICRO_BATCHES, SLOW_SECONDS = 3, 4.0


def measure_cost(objective: Any, recipe: TrainingSettings) -> dict[str, Any]:
    """Return operations, activations and seconds of a crop, seconds of the optimiser, and how they were measured.

    `seconds_error` is the relative standard error of a crop's seconds.
    """
    device, module = objective.dist.device, objective.module.train()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimiser = build_optimiser(module, recipe.optimiser)
    optimiser.step()
    optimiser_seconds = _timed(optimiser.step, device)
    counter, peak = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION), PeakMemory()
    with peak, counter:
        seconds = _timed(partial(_run_micro_batch, objective, 1), device)
    if hasattr(objective, "compute_labels"):
        objective.compute_labels()
    crops, times = 1, [seconds]
    if seconds < SLOW_SECONDS:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else device_memory(device) / 2
        limits = [math.ceil(recipe.batch / recipe.num_micro_batches(1)), USABLE * free / max(peak.bytes, 1)]
        if device.type != "cuda":
            limits.append(SLOW_SECONDS / seconds)
        crops = max(int(min(limits)), 1)
        while True:
            try:
                _run_micro_batch(objective, crops)
                work = partial(_run_micro_batch, objective, crops)
                times = [_timed(work, device) for _ in range(MICRO_BATCHES)]
                break
            except torch.OutOfMemoryError:
                if crops == 1:
                    raise
                crops //= 2
    return {
        "flops_per_crop": counter.get_total_flops(),
        "activations": peak.bytes,
        "seconds_per_crop": sum(times) / len(times) / crops,
        "seconds_error": ratio_error(times, [1.0] * len(times)),
        "optimiser_seconds": optimiser_seconds,
        "crops": crops,
        "micro_batches": len(times),
    }


def _run_micro_batch(objective: Any, crops: int) -> None:
    samples_BT = 0.1 * torch.randn(crops, objective.stream.crop_samples)
    batch = CropBatch(0, samples_BT, (0,) * crops, (0,) * crops, ())
    (micro_batch,) = objective.micro_batches(batch)
    objective.losses(objective.module, micro_batch, 0).loss(micro_batch.divisors).backward()


def _timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def _forward_flops(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _backward_flops(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# PyTorch counts the fused attention of GPUs only.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
}


class FlopCounter(TorchDispatchMode):
    """Counts the operations inside, by PyTorch's own formulas.

    Attributes:
        flops: their number.
    """

    def __init__(self, is_forward: bool) -> None:
        """Begin at 0; a target's labels do not count, nor activations that the backward pass computes again."""
        super().__init__()
        self.flops, self._is_forward = 0, is_forward

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and add its number of operations."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._is_forward != torch.is_grad_enabled():
            return result
        packet = getattr(func, "overloadpacket", None)
        if packet in flop_registry:
            count: Any = flop_registry[packet]
            self.flops += count(*args, **kwargs, out_val=result)
        elif packet in _CPU_ATTENTION:
            count = _CPU_ATTENTION[packet]
            self.flops += count(*(each.shape if isinstance(each, Tensor) else each for each in args))
        return result


class PeakMemory(TorchDispatchMode):
    """Measures the largest sum of the storages that are created inside and still alive.

    Attributes:
        bytes: that sum.
    """

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()
        self.bytes = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results that were not there before."""
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._add(tensor, 0)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor, tensor.untyped_storage().nbytes())
        return result

    def _add(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._live += size
        self.bytes = max(self.bytes, self._live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
