"""TensorFlow 1 checkpoints read without TensorFlow: an .index file that locates the tensors in a .data file.

The index is a LevelDB table: blocks of sorted entries whose keys share prefixes, each block followed by a byte that
names its compression (none is supported here) and by a checksum. A last block points at the others; the 48 bytes at the
end of the file point at that one. The entry with an empty key counts the data files; each other entry is a tensor's
name with its dtype, shape, offset, length and checksum as a protocol buffer. The data are plain little-endian numbers.
Checksums are CRC-32C, masked as LevelDB masks them; every one is verified.

Sources: LevelDB's doc/table_format.md, TensorFlow's tensor_bundle.proto, "Encoding" in the documentation of Protocol
Buffers [notes/encoders §2.1].

Letters: N lanes of a checksum that are computed at once, S bytes of a lane.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.formats.magic import wrap_errors

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES, TRAILER_BYTES = 48, 5
COMPRESSIONS = {1: "snappy", 2: "zstd"}
FLOAT32 = 1
POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
ONES = 0xFFFFFFFF
# Byte by byte, a checksum takes 0.1 µs a byte in Python; long data are split into parallel lanes.
NUM_LANES, MIN_PARALLEL_BYTES = 4096, 2**16
VARINT, LENGTH_DELIMITED, FIXED_BYTES = 0, 2, {1: 8, 5: 4}  # wire types of protocol buffers


def read_tensorflow_checkpoint(
    index: bytes, data: bytes, source: str, selected: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Return the selected tensors of a checkpoint with one data file, float32, by name.

    Args:
        index: Content of the .index file.
        data: Content of the .data-00000-of-00001 file.
        source: Name of the checkpoint in messages, for example its path.
        selected: Returns whether to read the tensor of a name.

    Raises:
        WeightsError: The checkpoint is damaged, cut short, compressed, in several data files or of another format, or
            a selected tensor is not float32 or stored in slices.
    """
    with wrap_errors(f"{source}: its .index", "that of a TensorFlow checkpoint"):
        entries = dict(_read_table(index, source))
        header = _parse_message(entries.pop(b""))
        if header.get(1, [1])[0] != 1 or header.get(2, [0])[0] != 0:
            raise WeightsError(f"{source}: is split over several data files or big-endian; save it again as one file")
        messages = {key.decode(): _parse_message(entry) for key, entry in entries.items()}
    with wrap_errors(source, "a TensorFlow checkpoint"):
        return {name: _read_tensor(name, message, data, source) for name, message in messages.items() if selected(name)}


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes."""
    if len(data) < MIN_PARALLEL_BYTES:
        return functools.reduce(lambda register, byte: _step(register, byte, _TABLE), data, ONES) ^ ONES
    # A register that starts at zero ignores leading zeros, so the first lane is padded in front. To start at ones
    # instead means to invert the first four bytes.
    size = -(-len(data) // NUM_LANES)
    lanes_NS = np.zeros(NUM_LANES * size, np.uint8)
    padded = lanes_NS[len(lanes_NS) - len(data) :]
    padded[:] = np.frombuffer(data, np.uint8)
    padded[:4] ^= 0xFF
    registers_N = np.zeros(NUM_LANES, np.uint32)
    for bytes_N in np.ascontiguousarray(lanes_NS.reshape(NUM_LANES, size).T):
        registers_N = _step(registers_N, bytes_N, _TABLES)
    # Lanes are combined through what a register becomes over a lane of zeros, which is linear in its bits.
    over_zeros = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(size):
        over_zeros = _step(over_zeros, 0, _TABLES)
    bits = over_zeros.tolist()
    register = 0
    for lane in registers_N.tolist():
        register = functools.reduce(int.__xor__, (value for bit, value in enumerate(bits) if register >> bit & 1), lane)
    return register ^ ONES


def mask_checksum(checksum: int) -> int:
    """Return a checksum as LevelDB stores it: rotated right by 15 bits, plus a constant."""
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


def _read_table(index: bytes, source: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield every key and value of a LevelDB table."""
    footer = index[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise WeightsError(f"{source}: its .index is cut short or not that of a TensorFlow checkpoint; fetch it again")
    _, end = _varints(footer, 0, 2)  # the handle of the block of statistics, which is not needed
    for _, handle in _block_entries(index, footer[end:], source):
        yield from _block_entries(index, handle, source)


def _block_entries(index: bytes, handle: bytes, source: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each entry in the block that a handle (offset and size) points at."""
    (offset, size), _ = _varints(handle, 0, 2)
    block, trailer = index[offset : offset + size + 1], index[offset + size + 1 : offset + size + TRAILER_BYTES]
    if mask_checksum(crc32c(block)) != struct.unpack("<I", trailer)[0]:
        raise WeightsError(f"{source}: its .index is damaged (checksum); fetch it again")
    if block[-1]:
        compression = COMPRESSIONS.get(block[-1], f"kind {block[-1]}")
        raise WeightsError(f"{source}: its .index is compressed ({compression}), which is not supported; save it plain")
    block = block[:-1]
    # The entries are followed by restart points and their number, four bytes each.
    end = len(block) - 4 * (struct.unpack("<I", block[-4:])[0] + 1)
    key, position = b"", 0
    while position < end:
        (shared, own, length), position = _varints(block, position, 3)
        key = key[:shared] + block[position : position + own]
        yield key, block[position + own : position + own + length]
        position += own + length


def _read_tensor(name: str, message: dict[int, list[Any]], data: bytes, source: str) -> Tensor:
    dims = _parse_message(message.get(2, [b""])[0]).get(2, [])
    shape = tuple(_parse_message(dim).get(1, [0])[0] for dim in dims)
    dtype, shard, offset, size = (message.get(number, [0])[0] for number in (1, 3, 4, 5))
    checksum, slices = struct.unpack("<I", message.get(6, [bytes(4)])[0])[0], message.get(7)
    if dtype != FLOAT32 or slices or shard or size != 4 * math.prod(shape):
        raise WeightsError(f"{source}: {name!r} is not one whole float32 tensor, so it is not read here")
    content = data[offset : offset + size]
    if len(content) != size:
        raise WeightsError(f"{source}: its .data file is cut short (at {name!r}); fetch it again")
    if mask_checksum(crc32c(content)) != checksum:
        raise WeightsError(f"{source}: its .data file is damaged (checksum of {name!r}); fetch it again")
    return torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32).reshape(shape))


def _parse_message(message: bytes) -> dict[int, list[Any]]:
    """Return the values of a protocol buffer by field number: varints as numbers, all else as bytes.

    Raises:
        ValueError, IndexError: The message is cut short, or no protocol buffer.
    """
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        value: Any
        if wire_type == VARINT:
            value, position = _varint(message, position)
        else:
            size = FIXED_BYTES.get(wire_type)
            if size is None:
                size, position = _varint(message, position)
            if wire_type not in (*FIXED_BYTES, LENGTH_DELIMITED) or not 0 <= size <= len(message) - position:
                raise ValueError("cut short, or no protocol buffer")
            value, position = message[position : position + size], position + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a varint (7 bits a byte, lowest first) as a signed number of 64 bits, and the position after it.

    Raises:
        ValueError, IndexError: It does not end.
    """
    value = shift = 0
    while shift < 64:
        byte, position = data[position], position + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value - 2**64 if value >= 2**63 else value, position
    raise ValueError("a number that does not end")


def _varints(data: bytes, position: int, count: int) -> tuple[list[int], int]:
    """Return that many varints, and the position after them.

    Raises:
        ValueError, IndexError: They are cut short, or one is negative, which could point back at itself.
    """
    values = []
    for _ in range(count):
        value, position = _varint(data, position)
        if value < 0:
            raise ValueError("a length or offset below zero")
        values.append(value)
    return values, position
