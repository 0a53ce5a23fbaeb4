"""Checkpoints larger than the memory: opened so that a tensor costs memory only once it is copied.

Torch's zip files can be mapped by torch itself. Its older kind (before torch 1.6: pickles, then the storages one after
another) torch reads whole. Here the pickle is read twice: once to learn where each storage lies, once to make tensors
that are views of the mapped file. As in `carrara.nn.unpickle`, nothing that the file names is imported or run.

The views lie where the file put them, perhaps at odd addresses; copy a tensor before computing with it.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import UntypedStorage
from torch.storage import TypedStorage

from carrara.core.errors import WeightsError
from carrara.nn.unpickle import Inert, Unpickler, read_checkpoint
from carrara.nn.weights import is_pickle, opening

MAGIC = 0x1950A86A20F9469CFC6C  # what torch's older files open with
KINDS = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ShortStorage": torch.int16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.BoolStorage": torch.bool,
}


def mapped_checkpoint(path: Path) -> Any:
    """Return what a torch file of either kind holds, its tensors still on the disk.

    Raises:
        WeightsError: it is not a torch file, not whole, or one that `carrara.nn.unpickle` refuses.
    """
    path = Path(path)
    if not is_pickle(opening(path)):
        raise WeightsError(f"{path}: is no torch checkpoint")
    if zipfile.is_zipfile(path):
        return read_checkpoint(path)
    try:
        with open(path, "rb") as file:
            return _older(file, path)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, struct.error) as problem:
        raise WeightsError(_broken(path, str(problem) or type(problem).__name__)) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as problem:
        raise WeightsError(_broken(path, str(problem))) from None


class _Survey(pickle.Unpickler):
    """Pickle's machine that makes nothing, and notes how many bytes each number of a storage has."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type("Inert", (Inert,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            self.sizes[pid[2]] = _dtype(pid).itemsize
        return Inert()


class _Mapper(Unpickler):
    """Pickle's machine with a closed world of names, whose storages are pieces of a mapped file."""

    def __init__(self, file: BinaryIO, storages: dict[str, UntypedStorage]) -> None:
        super().__init__(file)
        self.storages = storages

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] != "storage":
            return Inert()
        return TypedStorage(wrap_storage=self.storages[pid[2]], dtype=_dtype(pid), _internal=True)


def _dtype(pid: Any) -> torch.dtype:
    return KINDS[pid[1].kind]


def _older(file: BinaryIO, path: Path) -> Any:
    if _Survey(file).load() != MAGIC:
        raise WeightsError(f"{path}: is a pickle, but no torch file")
    for _ in ("version", "machine"):
        _Survey(file).load()
    begin = file.tell()
    survey = _Survey(file)
    survey.load()
    keys = _Survey(file).load()
    storages = _storages(file, path, {str(key): survey.sizes[key] for key in keys})
    file.seek(begin)
    return _Mapper(file, storages).load()


def _storages(file: BinaryIO, path: Path, sizes: dict[str, int]) -> dict[str, UntypedStorage]:
    """Return the storages in the order of the file: eight bytes that count its numbers, then the numbers."""
    whole = path.stat().st_size
    mapped = UntypedStorage.from_file(str(path), False, whole)
    storages, place = {}, file.tell()
    for key, size in sizes.items():
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        place, begin = place + 8 + count * size, place + 8
        if count < 0 or place > whole:
            raise WeightsError(f"{path}: is cut short, {whole / 1e6:.1f} MB; fetch it again")
        storages[key] = mapped[begin:place]
    return storages


def _broken(path: Path, reason: str) -> str:
    return f"{path}: not whole or not a torch file ({reason.strip().partition(chr(10))[0]}); fetch it again"
