"""Checkpoints of TensorFlow 1 read without it: an .index file that says where in a .data file each tensor lies.

The index is a table in LevelDB's format: blocks of sorted entries whose keys share their beginnings, each block
followed by a byte that says how it is compressed (not at all, here) and by a checksum. A last block points at the
others; the 48 bytes at the end of the file point at that one. The entry with an empty key says how many data files
there are; every other one is a tensor's name with its kind, shape, place, length and checksum as a protocol buffer. The
data are plain little-endian numbers. Checksums are CRC-32C, masked as LevelDB masks them; every one is verified.

Sources: LevelDB's doc/table_format.md, TensorFlow's tensor_bundle.proto, spec encoders.md 2.1.

Letters: N lanes of a checksum that are worked on at once, S bytes of a lane.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.protobuf import fields, varint
from carrara.formats.weights import wrap_errors

MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5
COMPRESSIONS = {1: "snappy", 2: "zstd"}
FLOAT32 = 1
POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
ONES = 0xFFFFFFFF
# A checksum of one byte after the other takes 0.1 µs a byte in Python; long data go in parallel lanes.
NUM_LANES, MIN_PARALLEL_BYTES = 4096, 2**16


class _TensorEntry(NamedTuple):
    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    slices: Any


def read_tensorflow_checkpoint(index: bytes, data: bytes, source: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return the wanted tensors of a checkpoint with one data file, float32, by name.

    Args:
        index: content of the .index file.
        data: content of the .data-00000-of-00001 file.
        source: what messages call the checkpoint, for example its path.
        wanted: whether the tensor of that name is to be read.

    Raises:
        WeightsError: it is no such checkpoint, damaged, cut short, compressed or in several data files, or a wanted
            tensor is not float32 or lies in slices.
    """
    with wrap_errors(f"{source}: its .index", "that of a TensorFlow checkpoint"):
        entries = dict(_table(index, source))
        header = fields(entries.pop(b""))
        if header.get(1, [1])[0] != 1 or header.get(2, [0])[0] != 0:
            raise WeightsError(f"{source}: lies in several data files or is big-endian; save it again as one file")
        places = {key.decode(): _parse_entry(entry) for key, entry in entries.items()}
    with wrap_errors(source, "a TensorFlow checkpoint"):
        return {name: _tensor(name, place, data, source) for name, place in places.items() if wanted(name)}


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    if len(data) < MIN_PARALLEL_BYTES:
        return functools.reduce(lambda register, byte: _step(register, byte, _TABLE), data, ONES) ^ ONES
    # A register that starts at zero does not notice zeros in front, so the first lane is filled up there; to start at
    # ones means to turn over the first four bytes.
    size = -(-len(data) // NUM_LANES)
    lanes_NS = np.zeros(NUM_LANES * size, np.uint8)
    mine = lanes_NS[len(lanes_NS) - len(data) :]
    mine[:] = np.frombuffer(data, np.uint8)
    mine[:4] ^= 0xFF
    registers_N = np.zeros(NUM_LANES, np.uint32)
    for bytes_N in np.ascontiguousarray(lanes_NS.reshape(NUM_LANES, size).T):
        registers_N = _step(registers_N, bytes_N, _TABLES)
    # Lanes are joined by what a register becomes over a lane of zeros, which is linear in its bits.
    over = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(size):
        over = _step(over, 0, _TABLES)
    bits = over.tolist()
    register = 0
    for lane in registers_N.tolist():
        register = functools.reduce(int.__xor__, (value for bit, value in enumerate(bits) if register >> bit & 1), lane)
    return register ^ ONES


def mask_checksum(checksum: int) -> int:
    """Return a checksum as LevelDB stores it: turned right by 15 bits, and a constant added."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & ONES


def _byte_table() -> list[int]:
    registers = list(range(256))
    for _ in range(8):
        registers = [register >> 1 ^ (POLYNOMIAL if register & 1 else 0) for register in registers]
    return registers


_TABLE = _byte_table()
_TABLES = np.array(_TABLE, np.uint32)


def _step(register: Any, byte: Any, table: Any) -> Any:
    return table[(register ^ byte) & 0xFF] ^ register >> 8


def _table(index: bytes, source: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield every key and value of a LevelDB table."""
    footer = index[-FOOTER:]
    if len(footer) < FOOTER or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise WeightsError(f"{source}: its .index is cut short or not that of a TensorFlow checkpoint; fetch it again")
    _, place = _varints(footer, 0, 2)  # of the block of statistics, which is not needed
    for _, handle in _entries(_block(index, footer[place:], source)):
        yield from _entries(_block(index, handle, source))


def _block(index: bytes, handle: bytes, source: str) -> bytes:
    """Return the content of the block that a handle (offset and size) points at."""
    (offset, size), _ = _varints(handle, 0, 2)
    block, trailer = index[offset : offset + size + 1], index[offset + size + 1 : offset + size + TRAILER]
    if mask_checksum(crc32c(block)) != struct.unpack("<I", trailer)[0]:
        raise WeightsError(f"{source}: its .index is damaged (checksum); fetch it again")
    if block[-1]:
        kind = COMPRESSIONS.get(block[-1], f"kind {block[-1]}")
        raise WeightsError(f"{source}: its .index is compressed ({kind}), which is not read here; save it uncompressed")
    return block[:-1]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each entry; after the entries stand restart points and their number, four bytes each."""
    end = len(block) - 4 * (struct.unpack("<I", block[-4:])[0] + 1)
    key, place = b"", 0
    while place < end:
        (shared, own, length), place = _varints(block, place, 3)
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + length]
        place += own + length


def _varints(data: bytes, place: int, count: int) -> tuple[list[int], int]:
    """Return that many numbers of 7 bits a byte, and the place after them.

    Raises:
        ValueError, IndexError: they are cut short, or one is negative, which could lead back to where one came from.
    """
    values = []
    for _ in range(count):
        value, place = varint(data, place)
        if value < 0:
            raise ValueError("a length or place below zero")
        values.append(value)
    return values, place


def _parse_entry(entry: bytes) -> _TensorEntry:
    found = fields(entry)
    shape = tuple(fields(size).get(1, [0])[0] for size in fields(found.get(2, [b""])[0]).get(2, []))
    kind, shard, offset, size = (found.get(number, [0])[0] for number in (1, 3, 4, 5))
    checksum = struct.unpack("<I", found.get(6, [bytes(4)])[0])[0]
    return _TensorEntry(kind, shape, shard, offset, size, checksum, found.get(7))


def _tensor(name: str, place: _TensorEntry, data: bytes, source: str) -> Tensor:
    if place.kind != FLOAT32 or place.slices or place.shard or place.size != 4 * math.prod(place.shape):
        raise WeightsError(f"{source}: {name!r} is not one whole float32 tensor, so it is not read here")
    content = data[place.offset : place.offset + place.size]
    if len(content) != place.size:
        raise WeightsError(f"{source}: its .data file is cut short (at {name!r}); fetch it again")
    if mask_checksum(crc32c(content)) != place.checksum:
        raise WeightsError(f"{source}: its .data file is damaged (checksum of {name!r}); fetch it again")
    return torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32).reshape(place.shape))
