"""What the names in a pickle become: tensors, plain containers, number kinds, and inert stand-ins for all others.

Nothing that a pickle names is imported, and nothing that it finds here can be changed by it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.storage import TypedStorage

from carrara.formats.weights import is_expanded

STORAGE_DTYPES = {
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
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}


class UnknownObject:
    """Stands in for an object of an unknown kind: its `kind`, what it was made from, its state; it does nothing."""

    kind = ""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = {}
        self.items: list[Any] = []

    def __new__(cls, *arguments: Any, **named: Any) -> UnknownObject:
        """Return one whose attributes are there even where pickle makes it without `__init__`."""
        made = super().__new__(cls)
        UnknownObject.__init__(made, *arguments)
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


def unknown_class(module: str, name: str) -> type[UnknownObject]:
    """Return a kind of stand-ins, named as the pickle names it."""
    return type("Inert", (UnknownObject,), {"kind": f"{module}.{name}"})


def storage_dtype(pid: Any) -> torch.dtype:
    """Return the kind of numbers in a storage.

    Raises:
        KeyError: it is of an unknown kind.
    """
    return STORAGE_DTYPES[pid[1].kind]


class _RebuildTensor:
    """Makes a tensor when called; keeps nothing that a pickle sets on it, and is no place to set anything."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
        """Return a view of a storage; `as_strided`, unlike torch's own way, never reaches beyond the storage's end."""
        flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        made = flat.as_strided(tuple(size), tuple(stride), offset)
        if is_expanded(made):
            raise ValueError(f"a tensor of {made.numel()} numbers, of which the file holds fewer")
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


class _RebuildParameter(_RebuildTensor):
    """Returns the tensor that a parameter is made from when called."""

    __slots__ = ()

    def __call__(self, tensor: Tensor, *rest: Any) -> Tensor:
        return tensor


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


def _no_storage(key: str) -> UntypedStorage:
    raise KeyError(f"no storage {key!r}")


class SafeUnpickler(pickle.Unpickler):
    """Pickle's machine with a closed world of names.

    Args:
        file: the pickle.
        storages: gives a storage by its key; without it a pickle that asks for one is refused.
    """

    def __init__(self, file: Any, storages: Callable[[str], UntypedStorage] = _no_storage) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return unknown_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage; a module of the older kind, which comes with its source text, is left out."""
        if pid[0] != "storage":
            return UnknownObject()
        dtype, storage = storage_dtype(pid), self.storages(pid[2])
        if pid[5:] and pid[5]:  # of torch before 0.4: a part of that storage
            _, first, count = pid[5]
            storage = storage[first * dtype.itemsize : (first + count) * dtype.itemsize]
        return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
