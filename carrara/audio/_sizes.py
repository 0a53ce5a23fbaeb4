"""Read the sizes that a file declares of itself: of sound that was cut off, of a WAV or AU that was never finished.

libsndfile and FFmpeg take what the file holds for the whole and say nothing. A program that writes to a pipe cannot
know the size, and leaves 0 or the largest number there is.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from carrara.audio._scan import map_bytes

UNSET_SIZE = 0x7FFF_0000  # sizes of 32 bits from here on stand for an unknown size
UNSET_LONG_SIZE = 2**62
MAX_CHUNKS = 10_000  # before the sound; a file of zeros would be a chunk each eight bytes
_W64_MAGIC = b"riff\x2e\x91\xcf\x11"
_ASF_MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


class SoundBytes(NamedTuple):
    """How many bytes of sound a file declares, and how many of them it holds."""

    declared: int
    present: int


def find_sound_bytes(path: Path) -> SoundBytes | None:
    """Return how many bytes of sound a file declares and holds; None if it does not say.

    WAV, RF64, W64, AVI, AIFF, 8SVX, CAF, AU, VOC and NIST declare it.
    """
    with map_bytes(path) as data:
        magic = data[:4]
        if magic in {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"}:
            extent = _find_riff_sound(data)
        elif data[:8] == _W64_MAGIC:
            extent = _find_w64_sound(data)
        elif magic == b"caff":
            extent = _find_caf_sound(data)
        elif magic == b".snd" and len(data) >= 12:
            begin, size = struct.unpack_from(">II", data, 4)
            extent = (begin, 0 if size >= UNSET_SIZE else size)
        elif data[:19] == b"Creative Voice File":
            extent = _find_voc_sound(data)
        elif data[:7] == b"NIST_1A":
            extent = _find_nist_sound(data[:1024])
        else:
            extent = None
        if extent is None or not 0 < extent[1] < UNSET_LONG_SIZE:
            return None
        return SoundBytes(extent[1], max(min(extent[1], len(data) - extent[0]), 0))


def _iter_riff_chunks(data: mmap.mmap | bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, where its content begins, and its declared size."""
    number, offset = ">I" if data[:4] in {b"RIFX", b"FORM"} else "<I", 12
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data):
            return
        size = struct.unpack_from(number, data, offset + 4)[0]
        yield data[offset : offset + 4], offset + 8, size
        offset += 8 + size + size % 2


def _find_riff_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    is_avi, is_long, long_size = data[8:12] == b"AVI ", data[:4] in {b"RF64", b"BW64"}, 0
    for name, begin, size in _iter_riff_chunks(data):
        if name == b"ds64" and begin + 16 <= len(data):
            long_size = struct.unpack_from("<Q", data, begin + 8)[0]
        if name in {b"data", b"SSND", b"BODY"} or (is_avi and name == b"LIST" and data[begin : begin + 4] == b"movi"):
            if is_long and size == 0xFFFF_FFFF:
                return begin, long_size
            return begin, 0 if size >= UNSET_SIZE else size
    return None


def _find_w64_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    offset = 40  # a GUID, the size and another GUID
    for _ in range(MAX_CHUNKS):
        if offset + 24 > len(data):
            return None
        size = struct.unpack_from("<Q", data, offset + 16)[0]  # its own head is part of it
        if data[offset : offset + 4] == b"data":
            return offset + 24, size - 24
        offset += (max(size, 24) + 7) // 8 * 8
    return None


def _find_caf_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    offset = 8
    for _ in range(MAX_CHUNKS):
        if offset + 12 > len(data):
            return None
        size = struct.unpack_from(">q", data, offset + 4)[0]  # -1 is unknown
        if data[offset : offset + 4] == b"data" or size < 0:
            return offset + 12, size
        offset += 12 + size
    return None


def _find_voc_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    """Return where the first of the blocks begins and the last one ends; each has three bytes for its size."""
    begin = offset = int.from_bytes(data[20:22], "little")
    for _ in range(MAX_CHUNKS):
        if offset + 4 > len(data) or data[offset] == 0:
            break
        offset += 4 + int.from_bytes(data[offset + 1 : offset + 4], "little")
    return begin, offset - begin


def _find_nist_sound(head: bytes) -> tuple[int, int] | None:
    values = {name: int(value) for name, value in re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,12})\s*$", head, re.MULTILINE)}
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", head, re.MULTILINE)
    if coding and coding[1] not in {b"pcm", b"ulaw", b"mu-law", b"alaw"}:
        return None  # compressed
    size = values.get(b"sample_count", 0) * values.get(b"channel_count", 1) * values.get(b"sample_n_bytes", 0)
    begin = head[8:16].strip()
    return (int(begin), size) if begin.isdigit() else None


def has_unfinished_size(path: Path) -> bool:
    """Return whether a WAV or AU states no size of its sound, or that it holds none although bytes follow.

    An AU states the largest number for an unknown size, which libsndfile knows of 32 bits only.
    """
    with map_bytes(path) as data:
        if data[:4] == b".snd" and len(data) >= 12:
            begin, size = struct.unpack_from(">II", data, 4)
            return begin < len(data) and (size == 0 or UNSET_SIZE <= size < 0xFFFF_FFFF)
        if data[:4] not in {b"RIFF", b"RF64", b"BW64"} or data[8:12] != b"WAVE":
            return False
        long_size = 0
        for name, begin, size in _iter_riff_chunks(data):
            if name == b"ds64" and begin + 16 <= len(data):
                long_size = struct.unpack_from("<Q", data, begin + 8)[0]
            if name == b"data":
                if size == 0xFFFFFFFF and data[:4] != b"RIFF":
                    size = long_size
                return size == 0 and not _are_chunks(data, begin)
    return False


def is_asf_broadcast(path: Path) -> bool:
    """Return whether a WMA was written as a broadcast, whose header states no valid length."""
    with map_bytes(path) as data:
        if data[:16] != _ASF_MAGIC:
            return False
        begin = data.find(_ASF_FILE_PROPERTIES, 0, 65_536)
        return begin >= 0 and begin + 92 <= len(data) and bool(data[begin + 88] & 1)


def _are_chunks(data: mmap.mmap | bytes, offset: int) -> bool:
    """Return whether the rest of a file is empty or RIFF chunks of printable names that end where it ends."""
    while offset + 8 <= len(data):
        if not all(32 <= byte < 127 for byte in data[offset : offset + 4]):
            return False
        size = struct.unpack_from("<I", data, offset + 4)[0]
        offset += 8 + size + size % 2
    return len(data) - 1 <= offset <= len(data) + 1
