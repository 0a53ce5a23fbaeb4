"""Read the sizes that a file declares of itself: of sound that was cut off, of a WAV or AU that was never finished.

libsndfile and FFmpeg take what the file holds for the whole and say nothing. A program that writes to a pipe cannot
know the size, and leaves 0 or the largest number there is.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from carrara.audio._scan import map_bytes, skip_id3_tag

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

    WAV, RF64, W64, AVI, AIFF, 8SVX, CAF, AU, VOC and NIST declare it, and the formats of `_FIXED_HEADS`.
    """
    with map_bytes(path) as data:
        magic = data[:4]
        find = next((find for start, find in _FIXED_HEADS.items() if data[: len(start)] == start), None)
        if find is not None:
            extent = find(data[:4096]) if len(data) >= 512 else None
        elif magic in {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"}:
            extent = _find_riff_sound(data)
        elif data[:8] == _W64_MAGIC:
            extent = _find_w64_sound(data)
        elif magic == b"caff":
            extent = _find_caf_sound(data)
        elif magic == b".snd" and len(data) >= 12:
            begin, size = struct.unpack_from(">II", data, 4)
            extent = (begin, 0 if size >= UNSET_SIZE else size)
        elif magic == b"MMMD":
            extent = _find_mmf_sound(data)
        elif data[:6] == b"MATLAB":
            extent = _find_mat5_sound(data)
        elif data[:19] == b"Creative Voice File":
            extent = _find_voc_sound(data)
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
    """Return where the first of the blocks begins, and the size up to where the last one ends."""
    begin = end = int.from_bytes(data[20:22], "little")
    for _, start, size in _iter_voc_blocks(data):
        end = start + size
    return begin, end - begin


def is_voc_of_many_blocks(path: Path) -> bool:
    """Return whether a VOC has several blocks with sound, of which libsndfile reads all but the first one's heads."""
    with map_bytes(path) as data:
        if data[:19] != b"Creative Voice File":
            return False
        kinds = [kind for kind, _, _ in _iter_voc_blocks(data)]
        return sum(kind in {1, 2, 9} for kind in kinds) > 1


def _iter_voc_blocks(data: mmap.mmap | bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, begin and declared size of each block; three bytes hold the size."""
    offset = int.from_bytes(data[20:22], "little")
    while offset + 4 <= len(data) and data[offset]:
        size = int.from_bytes(data[offset + 1 : offset + 4], "little")
        yield data[offset], offset + 4, size
        offset += 4 + size


def _find_mmf_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    """Return where the waves of a Yamaha SMAF begin, in the first track of them, and their size."""
    offset, is_inside = 8, False
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data):
            return None
        name, size = data[offset : offset + 3], struct.unpack_from(">I", data, offset + 4)[0]
        if name == b"Awa":
            return offset + 8, size
        if name == b"ATR" and not is_inside:
            offset, is_inside = offset + 14, True  # behind six bytes of format are chunks again
        else:
            offset += 8 + size
    return None


def _find_mat5_sound(data: mmap.mmap | bytes) -> tuple[int, int] | None:
    """Return where the last matrix of a MATLAB 5 file begins and its size: the sound stands behind its sample rate."""
    number = ">I" if data[126:128] == b"MI" else "<I"
    offset, extent = 128, None
    for _ in range(MAX_CHUNKS):
        if offset + 8 > len(data) or struct.unpack_from(number, data, offset)[0] != 14:  # a matrix
            break
        extent = offset + 8, struct.unpack_from(number, data, offset + 4)[0]
        offset += 8 + (extent[1] + 7) // 8 * 8
    return extent


def _find_mat4_sound(head: bytes) -> tuple[int, int] | None:
    """Return where the second matrix of a MATLAB 4 file begins, the sound behind its sample rate, and its size."""
    number, offset = (">" if head[7] else "<") + "5I", 0  # of the one row of the sample rate
    for index in range(2):
        kind, rows, columns, _, name = struct.unpack_from(number, head, offset)
        begin = offset + 20 + name
        size = rows * columns * {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}.get(kind % 100 // 10, 0)
        if index == 1:
            return begin, size
        if begin + size + 20 > len(head):
            break
        offset = begin + size
    return None


def _find_adx_sound(head: bytes) -> tuple[int, int] | None:
    begin, block, channels, samples = *struct.unpack_from(">H", head, 2), head[5], head[7], head[12:16]
    block_samples = (block - 2) * 2  # a scale of two bytes, then four bits a sample
    if block_samples <= 0 or head[4] != 3 or head[begin - 2 : begin + 4] != b"(c)CRI":
        return None
    return begin + 4, -(-int.from_bytes(samples, "big") // block_samples) * block * channels


def _find_sox_sound(head: bytes) -> tuple[int, int]:
    begin, samples = struct.unpack_from("<IQ" if head[0] == ord(".") else ">IQ", head, 4)
    return begin + 4, 4 * samples  # of all channels


def _find_avr_sound(head: bytes) -> tuple[int, int]:
    is_stereo, bits = struct.unpack_from(">HH", head, 12)
    return 128, struct.unpack_from(">I", head, 26)[0] * (2 if is_stereo else 1) * bits // 8


def _find_mpc2k_sound(head: bytes) -> tuple[int, int] | None:
    if not all(byte == 0 or 32 <= byte < 127 for byte in head[2:19]):  # its name
        return None
    return 42, struct.unpack_from("<I", head, 30)[0] * (4 if head[21] else 2)


def _find_xi_sound(head: bytes) -> tuple[int, int] | None:
    count, size = struct.unpack_from("<HI", head, 296)
    return (338, size) if count == 1 else None


def _find_nist_sound(head: bytes) -> tuple[int, int] | None:
    values = {name: int(value) for name, value in re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,12})\s*$", head, re.MULTILINE)}
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", head, re.MULTILINE)
    if coding and coding[1] not in {b"pcm", b"ulaw", b"mu-law", b"alaw"}:
        return None  # compressed
    size = values.get(b"sample_count", 0) * values.get(b"channel_count", 1) * values.get(b"sample_n_bytes", 0)
    begin = head[8:16].strip()
    return (int(begin), size) if begin.isdigit() else None


_FIXED_HEADS: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"NIST_1A": lambda head: _find_nist_sound(head[:1024]),
    b".SoX": _find_sox_sound,
    b"XoS.": _find_sox_sound,
    b"2BIT": _find_avr_sound,
    b"\1\4": _find_mpc2k_sound,
    b"\x80\0": _find_adx_sound,
    b"ALawSoundFile**\0": lambda head: (32, *struct.unpack_from(">I", head, 18)),
    b"Extended Instrument: ": _find_xi_sound,
    b"STRM": lambda head: (64, *struct.unpack_from(">I", head, 4)),  # AST
    struct.pack("<II", 0, 1): _find_mat4_sound,  # MATLAB 4
    struct.pack(">II", 1000, 1): _find_mat4_sound,
}


def has_unfinished_size(path: Path) -> bool:
    """Return whether a WAV or AU states no size of its sound, or that it holds none although bytes follow."""
    with map_bytes(path) as data:
        if data[:4] == b".snd" and len(data) >= 12:
            begin, size = struct.unpack_from(">II", data, 4)
            return begin < len(data) and (size == 0 or size >= UNSET_SIZE)
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


def has_many_chunks(path: Path) -> bool:
    """Return whether more than `MAX_CHUNKS` chunks or ID3 tags stand before the sound.

    libsndfile and FFmpeg take minutes for a file of some megabytes that is nothing else.
    """
    with map_bytes(path) as data:
        count, offset = 0, 0
        while data[offset : offset + 3] == b"ID3" and count < MAX_CHUNKS:
            count, offset = count + 1, skip_id3_tag(data, offset)
        if data[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"}:
            for name, _, _ in _iter_riff_chunks(data):
                if name in {b"data", b"SSND", b"BODY"}:
                    break
                count += 1
        return count >= MAX_CHUNKS


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
