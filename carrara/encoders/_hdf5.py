"""Arrays in HDF5, the container of Keras weights, by their path in the file; nothing in it is run.

Keras 1 writes one group a layer and in it the arrays, Keras 3 puts such a file into a zip. HDF5 is read by h5py, which
is an extra: only those who bring such a file need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError, WeightsError


def read_hdf5(file: Path | IO[bytes], source: str) -> dict[str, Tensor]:
    """Return the floating-point arrays in an HDF5 file, by their path in it, in single precision.

    Args:
        file: where it is, or the opened file.
        source: what messages call it, for example its path.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: the file is no HDF5 or not whole.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{source}: HDF5 files are read by h5py; pip install 'carrara[keras]'") from None
    found: dict[str, Tensor] = {}

    def keep(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            found[path] = torch.from_numpy(np.array(item[()], dtype=np.float32))

    try:
        with h5py.File(file, "r") as opened:
            opened.visititems(keep)
    except (OSError, RuntimeError, KeyError, ValueError) as problem:
        line = str(problem).partition("\n")[0]
        raise WeightsError(f"{source}: not whole or not an HDF5 file ({line}); fetch it again") from None
    return found
