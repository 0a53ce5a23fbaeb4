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

from carrara.formats.weights import stretched

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
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}


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


def inert(module: str, name: str) -> type[Inert]:
    """Return a kind of stand-ins, named as the pickle names it."""
    return type("Inert", (Inert,), {"kind": f"{module}.{name}"})


def number_kind(pid: Any) -> torch.dtype:
    """Return the kind of numbers in a storage.

    Raises:
        KeyError: it is of an unknown kind.
    """
    return KINDS[pid[1].kind]


class _Tensor:
    """Makes a tensor when called; keeps nothing that a pickle sets on it, and is no place to set anything."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
        """Return a view of a storage; `as_strided`, unlike torch's own way, never reaches beyond the storage's end."""
        flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        made = flat.as_strided(tuple(size), tuple(stride), offset)
        if stretched(made):
            raise ValueError(f"a tensor of {made.numel()} numbers, of which the file holds fewer")
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


class _Parameter(_Tensor):
    """Returns the tensor that a parameter is made from when called."""

    __slots__ = ()

    def __call__(self, tensor: Tensor, *rest: Any) -> Tensor:
        return tensor


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): _Tensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor(),
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
}


def _none(key: str) -> UntypedStorage:
    raise KeyError(f"no storage {key!r}")


class Unpickler(pickle.Unpickler):
    """Pickle's machine with a closed world of names.

    Args:
        file: the pickle.
        storages: gives a storage by its key; without it a pickle that asks for one is refused.
    """

    def __init__(self, file: Any, storages: Callable[[str], UntypedStorage] = _none) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return inert(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage; a module of the older kind, which comes with its source text, is left out."""
        if pid[0] != "storage":
            return Inert()
        dtype, storage = number_kind(pid), self.storages(pid[2])
        if pid[5:] and pid[5]:  # of torch before 0.4: a part of that storage
            _, first, count = pid[5]
            storage = storage[first * dtype.itemsize : (first + count) * dtype.itemsize]
        return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
