"""The choice of the device to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrara.core.errors import UsageError

if TYPE_CHECKING:
    import torch


def pick_device(device: str | torch.device = "auto") -> str:
    """Return `cuda`, `mps` or `cpu`, the first that is available, for `auto`; return any other name after a check.

    Raises:
        UsageError: the name is no device, or this machine does not have it.
    """
    name = str(device)
    if name.lower() in ("gpu", "nvidia"):
        raise UsageError(f"--device {name}: write cuda for an NVIDIA GPU (mps on a Mac), or auto")
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
