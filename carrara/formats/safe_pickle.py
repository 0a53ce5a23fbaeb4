"""Training checkpoints read without the programs that wrote them, and without running anything that they hold.

A training program pickles its own objects beside the weights (argparse's Namespace, omegaconf's settings, fairseq's
dictionaries), so torch's `weights_only=True` refuses the file and plain unpickling would import, and run, whatever the
file names. Here nothing is imported: tensors, plain containers and torch's own number kinds are rebuilt, and every
other class or function becomes an inert stand-in that keeps what it was given (`carrara.formats.pickle_objects`).

Both of torch's file kinds are read: zip, and the older one (before torch 1.6: pickles, then the storages one after
another). Torch's own reader sees neither: given another unpickler than its own, it does for the older kind what the
file says, down to writing a file. Storages are pieces of the mapped file. Of the older kind the pickle is read twice:
once to learn where each storage lies, once to make tensors.

Refused: TorchScript archives, whose readers do more than unpickle, and torch's tar files of before 2016.
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

from torch import UntypedStorage

from carrara.core.errors import WeightsError
from carrara.core.progress import progress
from carrara.formats.pickle_objects import UnknownObject, SafeUnpickler, unknown_class, storage_dtype
from carrara.formats.weights import format_bytes, is_pickle, read_magic, wrap_errors

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch's older files open with
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a record in a zip: mark, length of its name and of what follows that
BLOCK_BYTES = 2**20
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def read_torch_checkpoint(path: Path) -> Any:
    """Return what a torch file holds, with every object of an unknown kind replaced by an `Inert`.

    Tensors of a zip file stay on the disk until they are used, so an optimizer's state costs nothing. Nothing is
    compared with the zip's checksums; `see_whole` does that.

    Raises:
        WeightsError: it is not a torch file, not whole, a TorchScript archive or one of the old tar files.
    """
    path = Path(path)
    if is_zip(path):
        with wrap_errors(path, "a torch file"):
            return _read_zip(path)
    # Copies, because storages of the older kind may lie at odd addresses.
    return read_legacy(path, UntypedStorage.clone)


def is_zip(path: Path) -> bool:
    """Return whether a torch file is of the zip kind, not of the older one.

    Raises:
        WeightsError: it is no torch file of either kind.
    """
    head = read_magic(path)
    if not is_pickle(head):
        raise WeightsError(f"{path}: is no torch checkpoint")
    return head[:2] == b"PK"


def verify_crc(path: Path) -> None:
    """Compare every record of a zip checkpoint with its checksum (CRC-32); other kinds have none and pass.

    Raises:
        WeightsError: it cannot be read, is cut short, or a record is damaged; the message names the record.
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


def read_legacy(path: Path, placed: Callable[[UntypedStorage], UntypedStorage]) -> Any:
    """Return what a torch file of the older kind holds.

    Args:
        path: the file.
        placed: what becomes of a storage that is a piece of the mapped file, for example a copy.

    Raises:
        WeightsError: it is not of this kind, or not whole.
    """
    with wrap_errors(path, "a torch file"), open(path, "rb") as file:
        if _scan_pickle(file)[0] != LEGACY_MAGIC:
            raise WeightsError(f"{path}: is a pickle, but no torch file")
        for _ in ("version", "machine"):
            _scan_pickle(file)
        begin = file.tell()
        _, sizes = _scan_pickle(file)
        keys, _ = _scan_pickle(file)
        pieces = _legacy_storages(file, path, {str(key): sizes[key] for key in keys})
        storages = {key: placed(piece) for key, piece in pieces.items()}
        file.seek(begin)
        return SafeUnpickler(file, storages.__getitem__).load()


class _StorageScan(pickle.Unpickler):
    """Pickle's machine that makes nothing, and notes how many bytes each number of a storage has."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else unknown_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "storage":
            # The first kind that a storage is seen as is the one that it was written as.
            self.sizes.setdefault(pid[2], storage_dtype(pid).itemsize)
        return UnknownObject()


def _scan_pickle(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """Return what the next pickle holds, without tensors, and the bytes of a number by the key of a storage."""
    begin = file.tell()
    _refuse_large_memo(file)
    file.seek(begin)
    survey = _StorageScan(file)
    return survey.load(), survey.sizes


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
            place = _record_slice(file, records[folder + name])
            file.seek(place.start)
            return file.read(place.stop - place.start)

        @functools.cache
        def storage(key: str) -> UntypedStorage:
            return mapped[_record_slice(file, records[f"{folder}data/{key}"])]

        if folder + "byteorder" in records and content("byteorder") != b"little":
            raise WeightsError(f"{path}: was written on a big-endian machine; save it again on this kind")
        pickled = io.BytesIO(content("data.pkl"))
        _refuse_large_memo(pickled)
        pickled.seek(0)
        return SafeUnpickler(pickled, storage).load()


def _refuse_large_memo(file: BinaryIO) -> None:
    """Refuse a pickle that keeps something under a number that no writer has come to, and go on to its end.

    Python makes a list as long as the largest number: 7 bytes would ask for 64 GB.

    Raises:
        ValueError: it does so, or is no pickle.
    """
    for count, (opcode, number, _) in enumerate(pickletools.genops(file)):
        if opcode.name in PUTS and (number or 0) > count:
            raise ValueError(f"keeps something under number {number}")


def _record_slice(file: BinaryIO, record: zipfile.ZipInfo) -> slice:
    """Return where the content of a record lies in the file."""
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{record.filename!r} is compressed, which torch's own files never are")
    file.seek(record.header_offset)
    mark, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    begin = record.header_offset + LOCAL_HEADER.size + name + extra
    if mark != b"PK\3\4" or begin + record.file_size > file.seek(0, io.SEEK_END):
        raise ValueError(f"{record.filename!r} is not where it should be")
    return slice(begin, begin + record.file_size)


def _legacy_storages(file: BinaryIO, path: Path, sizes: dict[str, int]) -> dict[str, UntypedStorage]:
    """Return the storages in the order of the file: eight bytes that count its numbers, then the numbers."""
    whole = path.stat().st_size
    mapped = UntypedStorage.from_file(str(path), False, whole)
    pieces, place = {}, file.tell()
    for key, size in sizes.items():
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        place, begin = place + 8 + count * size, place + 8
        if count < 0 or place > whole:
            raise WeightsError(f"{path}: is cut short, {format_bytes(whole)}; fetch it again")
        pieces[key] = mapped[begin:place]
    return pieces
