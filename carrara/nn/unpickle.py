"""Training checkpoints read without the programs that wrote them, and without running anything that they hold.

A training program pickles its own objects beside the weights (argparse's Namespace, omegaconf's settings, fairseq's
dictionaries), so torch's `weights_only=True` refuses the file and plain unpickling would import, and run, whatever the
file names. Here nothing is imported: tensors, plain containers and torch's own number kinds are rebuilt, and every
other class or function becomes an inert stand-in that keeps what it was given. Both of torch's file kinds are read, zip
and the older one; torch finds the storages, this file decides what a name in the pickle means.

Refused: TorchScript archives and torch's tar files of before 2016, whose readers do more than unpickle.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.nn.weights import is_pickle, opening


class Inert:
    """Stands in for an object of an unknown kind: its `kind`, what it was made from, its state; it does nothing."""

    kind = ""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = {}
        self.items: list[Any] = []

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        """Return one whose attributes are there even where pickle makes it without `__init__`."""
        made = super().__new__(cls)
        Inert.__init__(made, *arguments)
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it was pickled."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an entry of what was a dictionary of its own kind."""
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an item of what was a list of its own kind."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """Keep items of what was a list of its own kind."""
        self.items.extend(values)

    add = append


def read_checkpoint(path: Path) -> Any:
    """Return what a torch file holds, with every object of an unknown kind replaced by an `Inert`.

    Tensors of a zip file stay on the disk until they are used, so an optimizer's state costs nothing.

    Raises:
        WeightsError: it is not a torch file, not whole, a TorchScript archive or one of the old tar files.
    """
    path = Path(path)
    if not is_pickle(opening(path)):
        raise WeightsError(f"{path}: is no torch checkpoint")
    zipped = zipfile.is_zipfile(path)
    if zipped and any(name.endswith("constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise WeightsError(f"{path}: is a TorchScript program, not a checkpoint; it was not opened")
    if not zipped and tarfile.is_tarfile(path):
        raise WeightsError(f"{path}: is of torch's first file kind; save it again with a newer torch")
    kind = SimpleNamespace(__name__="carrara.nn.unpickle", Unpickler=Unpickler, load=_load)
    try:
        # Not weights_only: that names torch's own unpickler, which refuses what ours replaces.
        return torch.load(path, map_location="cpu", pickle_module=kind, weights_only=False, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, AssertionError, MemoryError) as problem:
        raise WeightsError(_broken(path, problem)) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as problem:
        raise WeightsError(_broken(path, problem)) from None


class Unpickler(pickle.Unpickler):
    """Pickle's machine with a closed world of names; torch adds its storages."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PLAIN:
            return PLAIN[module, name]
        if rebuild := REBUILT.get((module, name)):
            return lambda *arguments: rebuild(*arguments)  # a new one each time: a pickle may set attributes on it
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type("Inert", (Inert,), {"kind": f"{module}.{name}"})


def _load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Return a view of a storage; `as_strided`, unlike torch's own way, never reaches beyond the storage's end."""
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    return flat.as_strided(tuple(size), tuple(stride), offset)


def _parameter(tensor: Tensor, *rest: Any) -> Tensor:
    return tensor


REBUILT: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
PLAIN: dict[tuple[str, str], type] = {("collections", "OrderedDict"): OrderedDict, ("torch", "Size"): torch.Size}


def _broken(path: Path, problem: Exception) -> str:
    line = str(problem).strip().partition("\n")[0]
    return f"{path}: not whole or not a torch file ({line or type(problem).__name__}); fetch it again"
