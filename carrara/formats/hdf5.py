"""Arrays in HDF5, the container of Keras weights, by their path in the file; nothing in it is run.

Keras 1 writes one group a layer and in it the arrays, Keras 3 puts such a file into a zip. HDF5 is read by h5py, which
is an extra: only those who bring such a file need it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.formats.weights import wrap_errors


def read_hdf5(file: Path | io.BytesIO, source: str) -> dict[str, Tensor]:
    """Return the floating-point arrays in an HDF5 file, by their path in it, in single precision.

    Args:
        file: where it is, or its content.
        source: what messages call it, for example its path.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: the file is no HDF5, not whole, or has arrays that are larger than what it holds of them, which is
            how compressed ones look, too.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{source}: HDF5 files are read by h5py; pip install 'carrara[keras]'") from None
    found: dict[str, Tensor] = {}
    # A file of 2 kB may declare an array of 4 TB that was never written.
    left = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())

    def keep(path: str, item: Any) -> None:
        nonlocal left
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        left -= item.nbytes
        if item.nbytes > item.id.get_storage_size() or left < 0:
            raise ValueError(f"{path}: more numbers than the file holds")
        found[path] = torch.from_numpy(np.array(item[()], dtype=np.float32))

    with wrap_errors(source, "an HDF5 file"), h5py.File(file, "r") as opened:
        opened.visititems(keep)
    return found
