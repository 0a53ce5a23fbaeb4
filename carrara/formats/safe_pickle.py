"""Training checkpoints read without the programs that wrote them and without running anything in them.

A training program pickles its own objects beside the weights (argparse's Namespace, omegaconf's settings, fairseq's
dictionaries). torch's `weights_only=True` refuses such a file, and plain unpickling would import and run whatever the
file names. Here nothing is imported: tensors, plain containers and torch's dtypes are rebuilt, and every other class or
function becomes an `UnknownObject` that keeps its arguments.

Both of torch's formats are read: zip, and the legacy one (before torch 1.6: pickles, then the storages one after
another). torch's own reader is not used for either: given another unpickler, it runs instructions of a legacy file, up
to writing a file. Storages are slices of the memory-mapped file. The pickle of a legacy file is read twice: once to
locate the storages, once to build tensors.

TorchScript archives, whose readers do more than unpickle, and torch's tar files from before 2016 are refused.
"""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, UntypedStorage
from torch.storage import TypedStorage

from carrara.core.errors import WeightsError
from carrara.core.progress import progress
from carrara.formats.magic import format_bytes, is_pickle, read_magic, wrap_errors
from carrara.formats.weights import is_expanded

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a record in a zip: signature, lengths of its name and extra field
BLOCK_BYTES = 2**20
PUT_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")
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
    """Stand-in for an object of an unknown class; it has no behaviour.

    Attributes:
        kind: Module and name of the class, as the pickle has them.
        arguments: What the object was constructed from.
        state: Its pickled state.
        items: Its items, where it was a list, set or dictionary of its own class.
    """

    kind = ""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = {}
        self.items: list[Any] = []

    def __new__(cls, *arguments: Any, **keywords: Any) -> UnknownObject:
        """Return an object with all attributes, also where pickle does not call `__init__`."""
        unknown = super().__new__(cls)
        UnknownObject.__init__(unknown, *arguments)
        return unknown

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an entry of a dictionary."""
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an item of a list."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """Keep items of a list."""
        self.items.extend(values)

    add = append


def read_torch_checkpoint(path: Path, memory_map: bool = False) -> Any:
    """Return the content of a torch file, with every object of an unknown class replaced by an `UnknownObject`.

    Tensors of a zip file stay on disk until they are used, so an optimizer's state costs no memory. The zip's checksums
    are not compared; `verify_crc` does that.

    Args:
        path: The file.
        memory_map: Whether tensors of a legacy file stay on disk, too. They may lie at unaligned offsets, so copy a
            tensor before computing with it. None of the file need then fit into memory.

    Raises:
        WeightsError: The file is not a torch file, damaged, a TorchScript archive or one of the old tar files.
    """
    path = Path(path)
    head = read_magic(path)
    if not is_pickle(head):
        raise WeightsError(f"{path}: is no torch checkpoint")
    with wrap_errors(path, "a torch file"):
        return _read_zip(path) if head[:2] == b"PK" else _read_legacy(path, memory_map)


def verify_crc(path: Path) -> None:
    """Compare every record of a zip checkpoint with its CRC-32. Files of other formats have none and pass.

    Raises:
        WeightsError: The file cannot be read, is cut short, or a record is damaged; the message names the record.
    """
    path = Path(path)
    if not is_pickle(head := read_magic(path)) or head[:2] != b"PK":
        return
    with wrap_errors(path, "a zip"), zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        with progress(f"checking {path.name}", sum(record.file_size for record in records)) as advance:
            for record in records:
                source = f"{path}: its record {record.filename!r}"
                with wrap_errors(source, "as it was written"), archive.open(record) as file:
                    while block := file.read(BLOCK_BYTES):
                        advance(len(block))


class _RebuildTensor:
    """Builds a tensor when called. It has no attributes, so a pickle cannot set any on it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
        # Unlike torch's own way, `as_strided` never reaches beyond the end of the storage.
        flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        tensor = flat.as_strided(tuple(size), tuple(stride), offset)
        if is_expanded(tensor):
            raise ValueError(f"a tensor of {tensor.numel()} numbers, of which the file holds fewer")
        return tensor

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _RebuildParameter(_RebuildTensor):
    __slots__ = ()

    def __call__(self, tensor: Tensor, *rest: Any) -> Tensor:
        return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


def _no_storage(key: str) -> UntypedStorage:
    raise KeyError(f"no storage {key!r}")


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that resolves names from a fixed table only.

    Args:
        file: The pickle.
        storages: Returns a storage by its key. By default a pickle that refers to a storage is refused.
    """

    def __init__(self, file: Any, storages: Callable[[str], UntypedStorage] = _no_storage) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type("UnknownObject", (UnknownObject,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage. A module, which a legacy file has with its source text, is left out."""
        if pid[0] != "storage":
            return UnknownObject()
        dtype, storage = STORAGE_DTYPES[pid[1].kind], self.storages(pid[2])
        if pid[5:] and pid[5]:  # torch before 0.4: a part of that storage
            _, first, count = pid[5]
            storage = storage[first * dtype.itemsize : (first + count) * dtype.itemsize]
        return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


class _StorageScan(pickle.Unpickler):
    """An unpickler that builds no tensors and notes the bytes of an element of each storage."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.itemsizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type("UnknownObject", (UnknownObject,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            # The first dtype that a storage appears with is the one that it was written with.
            self.itemsizes.setdefault(pid[2], STORAGE_DTYPES[pid[1].kind].itemsize)
        return UnknownObject()


def _read_legacy(path: Path, memory_map: bool) -> Any:
    def scan() -> tuple[Any, dict[str, int]]:
        offset = file.tell()
        _refuse_large_memo(file)
        file.seek(offset)
        unpickler = _StorageScan(file)
        return unpickler.load(), unpickler.itemsizes

    with open(path, "rb") as file:
        if scan()[0] != LEGACY_MAGIC:
            raise WeightsError(f"{path}: is a pickle, but no torch file")
        scan()  # the format's version
        scan()  # the machine
        content_offset = file.tell()
        _, itemsizes = scan()
        keys, _ = scan()
        file_size = path.stat().st_size
        mapped = UntypedStorage.from_file(str(path), False, file_size)
        storages, offset = {}, file.tell()
        for key in keys:  # for each storage eight bytes that count its elements, then the elements
            file.seek(offset)
            (count,) = struct.unpack("<q", file.read(8))
            start, offset = offset + 8, offset + 8 + count * itemsizes[key]
            if count < 0 or offset > file_size:
                raise WeightsError(f"{path}: is cut short, {format_bytes(file_size)}; fetch it again")
            storages[str(key)] = mapped[start:offset] if memory_map else mapped[start:offset].clone()
        file.seek(content_offset)
        return SafeUnpickler(file, storages.__getitem__).load()


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        records = {record.filename: record for record in archive.infolist()}
        if any(name.endswith("constants.pkl") for name in records):
            raise WeightsError(f"{path}: is a TorchScript program, not a checkpoint; it was not opened")
        folder = next((name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")), None)
        if folder is None:
            raise WeightsError(f"{path}: is a zip of other files, no torch checkpoint")
        mapped = UntypedStorage.from_file(str(path), False, path.stat().st_size)

        def content(name: str) -> bytes:
            where = _record_slice(file, records[folder + name])
            file.seek(where.start)
            return file.read(where.stop - where.start)

        @functools.cache
        def storage(key: str) -> UntypedStorage:
            return mapped[_record_slice(file, records[f"{folder}data/{key}"])]

        if folder + "byteorder" in records and content("byteorder") != b"little":
            raise WeightsError(f"{path}: was written on a big-endian machine; save it again on a little-endian one")
        pickled = io.BytesIO(content("data.pkl"))
        _refuse_large_memo(pickled)
        pickled.seek(0)
        return SafeUnpickler(pickled, storage).load()


def _refuse_large_memo(file: BinaryIO) -> None:
    """Advance to the end of a pickle and refuse memo indices that no writer would have reached.

    Python allocates a list as long as the largest index: 7 bytes would ask for 64 GB.

    Raises:
        ValueError: The pickle has such an index, or is no pickle.
    """
    for count, (opcode, index, _) in enumerate(pickletools.genops(file)):
        if opcode.name in PUT_OPCODES and (index or 0) > count:
            raise ValueError(f"has a memo index of {index}")


def _record_slice(file: BinaryIO, record: zipfile.ZipInfo) -> slice:
    """Return the bytes of the file that hold the content of a record."""
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{record.filename!r} is compressed, which torch's own files never are")
    file.seek(record.header_offset)
    signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    start = record.header_offset + LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\3\4" or start + record.file_size > file.seek(0, io.SEEK_END):
        raise ValueError(f"{record.filename!r} does not lie at its offset")
    return slice(start, start + record.file_size)
