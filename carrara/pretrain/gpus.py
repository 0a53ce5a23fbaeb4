"""GPUs by name: peak of dense bfloat16 products with single-precision sums, and memory; the makers' data sheets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from carrara.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import torch

GIB = 2**30
# For `--gpu`: FLOP/s and bytes.
GPUS = {
    "a100-40": (312e12, 40 * GIB),
    "a100-80": (312e12, 80 * GIB),
    "h100": (989e12, 80 * GIB),
    "h200": (989e12, 141 * 10**9),
    "rtx-3090": (71e12, 24 * GIB),
    "rtx-4090": (165e12, 24 * GIB),
}
# By PyTorch's name of a device; the first pattern that fits counts.
PEAKS = {
    r"\bA100\b": 312e12,
    r"\bH100 PCIe\b": 756e12,
    r"\bH100 NVL\b": 835e12,
    r"\bH100\b": 989e12,
    r"\bH200\b": 989e12,
    r"\bB200\b": 2250e12,
    r"\bL40S\b": 362e12,
    r"\bL4\b": 121e12,
    r"\bA10\b": 125e12,
    r"\bRTX A6000\b": 155e12,
    r"\bRTX 3090$": 71e12,
    r"\bRTX 4090$": 165e12,
}


def check_gpu(name: str) -> None:
    """Check that a GPU can be planned for.

    Raises:
        UsageError: its name is not known; the message lists the names.
    """
    if name not in GPUS:
        raise UsageError(f"--gpu {name}: is not known.{did_you_mean(name, GPUS)} There are: {', '.join(GPUS)}")


def peak_flops(name: str) -> float | None:
    """Return the peak FLOP/s in half precision of a GPU of that name, as PyTorch states it; None where unknown."""
    return next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name)), None)


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a device in a precision; None where it is unknown, as on CPUs and in float32."""
    if device.type != "cuda" or precision == "float32":
        return None
    import torch

    return peak_flops(torch.cuda.get_device_name(device))
