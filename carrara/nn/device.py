"""The choice of the device to compute on."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from carrara.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import torch

# PyTorch's types of devices that compute.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia")


def check_device(name: str) -> None:
    """Check a device's name as far as it can be without importing torch, which takes seconds.

    Raises:
        UsageError: the name is no device, or this PyTorch is built without CUDA.
    """
    if name.lower() in ("gpu", "nvidia"):
        raise UsageError(f"--device {name}: write cuda for an NVIDIA GPU (mps on a Mac), or auto")
    device_type, colon, index = name.partition(":")
    if name != "auto" and (device_type not in DEVICE_TYPES or bool(colon) != index.isdecimal()):
        hint = did_you_mean(name, ("auto", *DEVICE_TYPES))
        raise UsageError(f"--device {name}: is no device.{hint} Write auto, cpu, cuda, cuda:1 or mps.")
    if device_type == "cuda" and is_cpu_build():
        raise UsageError(
            f"--device {name}: this PyTorch ({version('torch')}) is built without CUDA; auto picks a device that is "
            "available"
        )


def is_cpu_build() -> bool:
    """Return whether the installed PyTorch states that it computes on CPUs only; it is not imported."""
    return version("torch").endswith("+cpu")


def pick_device(device: str | torch.device = "auto") -> str:
    """Return `cuda`, `mps` or `cpu`, the first that is available, for `auto`; return any other name after a check.

    Raises:
        UsageError: the name is no device, or this machine does not have it.
    """
    name = str(device)
    check_device(name)
    import torch  # seconds, which a wrong word need not cost

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).splitlines()[0]
        raise UsageError(f"--device {name}: {reason}; auto picks a device that is available") from None
    return name


def limit_threads(threads: int | None) -> None:
    """Cap the threads of torch, OpenMP, BLAS and pyarrow, each; None leaves them as they are."""
    if threads is not None:
        import pyarrow
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(threads)
        threadpool_limits(threads)
        pyarrow.set_cpu_count(threads)
        pyarrow.set_io_thread_count(threads)
