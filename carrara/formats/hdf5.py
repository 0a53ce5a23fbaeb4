"""HDF5 files, the container of Keras weights: arrays by their path in the file. Nothing in a file is run.

Keras 1 writes one group per layer with its arrays; Keras 3 puts such a file into a zip. HDF5 is read by h5py, an extra
that only these files need.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.formats.magic import wrap_errors


def read_hdf5(file: Path | io.BytesIO, source: str) -> dict[str, Tensor]:
    """Return the floating-point arrays of an HDF5 file by their path in it, as float32.

    Args:
        file: Its path, or its content.
        source: Name of the file in messages, for example its path.

    Raises:
        UsageError: h5py is not installed.
        WeightsError: The file is not HDF5, damaged, or has an array larger than what the file stores of it (compressed
            arrays are refused for the same reason).
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{source}: HDF5 files are read by h5py; pip install 'carrara[keras]'") from None
    arrays: dict[str, Tensor] = {}
    # A file of 2 kB may declare an array of 4 TB that was never written.
    remaining_bytes = file.stat().st_size if isinstance(file, Path) else len(file.getbuffer())

    def visit(path: str, item: Any) -> None:
        nonlocal remaining_bytes
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
            return
        remaining_bytes -= item.nbytes
        if item.nbytes > item.id.get_storage_size() or remaining_bytes < 0:
            raise ValueError(f"{path}: more numbers than the file holds")
        arrays[path] = torch.from_numpy(np.array(item[()], dtype=np.float32))

    with wrap_errors(source, "an HDF5 file"), h5py.File(file, "r") as hdf5:
        hdf5.visititems(visit)
    return arrays
