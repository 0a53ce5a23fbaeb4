"""Read what a file's bytes hold where its header is silent or wrong: MPEG and FLAC frames, Ogg streams.

libsndfile estimates the length of an MP3 whose header does not count its frames, and stops at the counted length where
another MP3 was appended; it reads the first of several chained Ogg streams or joined FLACs only. These functions find
such files without decoding.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_PART_BYTES = 8 * 2**20
_RESYNC_FRAMES = 3  # as many frames in a row are a stream, fewer are chance
_BIT_RATES = {  # kbit/s by MPEG-1 or not, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_BIT_RATE_LIMITS = (6_000, 700_000)  # of a whole stream in bit/s; a length tag that implies another one is wrong


@dataclass(frozen=True)
class MpegStream:
    """The frames of an MPEG audio file (MP1, MP2, MP3).

    Attributes:
        samples: samples per channel of all frames, less the delay and padding that a length tag states.
        tagged: whether a tag in the first frame counts all of them; otherwise they were counted frame by frame.
    """

    samples: int
    tagged: bool


@dataclass(frozen=True)
class _Frame:
    """What the header of an MPEG frame says; `kind` (version, layer, rate) is the same in all frames of a stream."""

    size: int
    samples: int
    rate: int
    kind: int


@dataclass(frozen=True)
class _LengthTag:
    """What a Xing, Info or VBRI frame says; 0 where it does not say it."""

    frames: int
    size: int
    trimmed: int


def _cache_scan(scan: Callable[[Path], Result]) -> Callable[[Path], Result]:
    """Keep what a scan returned while the file has the same size and time: a file is opened for each crop of it."""

    @lru_cache(maxsize=4096)
    def scan_version(path: Path, size: int, time: int) -> Result:
        return scan(path)

    @wraps(scan)
    def scan_once(path: Path) -> Result:
        status = os.stat(path)
        return scan_version(path, status.st_size, status.st_mtime_ns)

    return scan_once


@_cache_scan
def scan_mpeg(path: Path) -> MpegStream | None:
    """Return the length of an MPEG audio file by its frames; None if it holds no frames."""
    with map_bytes(path) as data:
        begin = _next_frame(data, _skip_id3(data, 0))
        first = None if begin is None else _frame(data, begin)
        if begin is None or first is None:
            return None
        tag = _length_tag(data, begin, first)
        if tag is None:
            return MpegStream(sum(frame.samples for frame in _iter_frames(data, begin)), False)
        behind = begin + (tag.size or first.size)
        counted = tag.frames * first.samples - tag.trimmed
        plausible = tag.frames and tag.size and (
            _BIT_RATE_LIMITS[0] < 8 * tag.size * first.rate / (tag.frames * first.samples) < _BIT_RATE_LIMITS[1]
        )  # fmt: skip
        if plausible:
            more = sum(frame.samples for frame in _iter_frames(data, behind)) if behind < len(data) else 0
            return MpegStream(counted + more, more == 0)
        samples = sum(frame.samples for frame in _iter_frames(data, begin + first.size)) - tag.trimmed
        # A tag that counts the frames and not the bytes may count more than a truncated file holds.
        return MpegStream(max(samples, 0), counted > 0 and samples <= counted + first.samples)


@_cache_scan
def is_chained_ogg(path: Path) -> bool:
    """Return whether an Ogg file holds several streams one after the other."""
    with map_bytes(path) as data:
        offset, in_data = 0, False
        if data[:4] != b"OggS":
            return False
        forgotten = 0
        while offset + 27 <= len(data):
            forgotten = _forget_pages(data, forgotten, offset)
            if data[offset : offset + 4] != b"OggS":
                offset = data.find(b"OggS", offset)
                if offset < 0:
                    break
                continue
            is_first = bool(data[offset + 5] & 2)
            if is_first and in_data:
                return True
            in_data = in_data or not is_first
            segments = data[offset + 26]
            offset += 27 + segments + sum(data[offset + 27 : offset + 27 + segments])
    return False


def is_unfinished_ogg(path: Path) -> bool:
    """Return whether the last page of an Ogg file is cut off or not marked as the last of its stream."""
    with map_bytes(path) as data:
        if data[:4] != b"OggS" or (offset := data.rfind(b"OggS")) + 27 > len(data):
            return data[:4] == b"OggS"
        segments = data[offset + 26]
        sizes = data[offset + 27 : offset + 27 + segments]
        return not data[offset + 5] & 4 or offset + 27 + segments + sum(sizes) > len(data)


@_cache_scan
def is_joined_flac(path: Path) -> bool:
    """Return whether a FLAC file holds several FLACs one after the other."""
    with map_bytes(path) as data:
        begin = _skip_id3(data, 0)
        if data[begin : begin + 4] != b"fLaC":
            return False
        # Marker and header of the first block, which is the last one or not: eight bytes that sound hardly ever has.
        heads = [b"fLaC" + block for block in (b"\0\0\0\x22", b"\x80\0\0\x22")]
        forgotten = 0
        for low in range(begin + 8, len(data), _PART_BYTES):
            if any(data.find(head, low, low + _PART_BYTES + len(head) - 1) >= 0 for head in heads):
                return True
            forgotten = _forget_pages(data, forgotten, low + _PART_BYTES)
        return False


def is_mpeg_whole(path: Path) -> bool:
    """Return whether all bytes or frames that the length tag of an MP3 counts are there, damaged or not."""
    with map_bytes(path) as data:
        begin = _next_frame(data, _skip_id3(data, 0))
        first = None if begin is None else _frame(data, begin)
        if begin is None or first is None or (tag := _length_tag(data, begin, first)) is None:
            return False
        if tag.size:
            return begin + tag.size <= len(data)
        return sum(1 for _ in _iter_frames(data, begin + first.size)) >= tag.frames > 0


def last_flac_sample(path: Path) -> int | None:
    """Return the sample at which the last frame of a FLAC file ends, by the frame's header; None if there is none.

    Where decoding stops before it, the file is damaged and not cut short.
    """
    with map_bytes(path) as data:
        begin = _skip_id3(data, 0)
        if data[begin : begin + 4] != b"fLaC" or begin + 42 > len(data):
            return None
        block = int.from_bytes(data[begin + 8 : begin + 10], "big")
        largest = int.from_bytes(data[begin + 15 : begin + 18], "big") or 2**20
        offset = len(data)
        while (offset := data.rfind(b"\xff", max(begin + 42, len(data) - 4 * largest), offset)) >= 0:
            number = _flac_frame_number(data[offset : offset + 16])
            if number is not None:
                return number + block if data[offset + 1] & 1 else (number + 1) * block
        return None


def _flac_frame_number(head: bytes) -> int | None:
    """Return the number of the frame, or of its first sample, in the header of a FLAC frame; None if it is none."""
    if len(head) < 16 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    ones = next((bit for bit in range(8) if not head[4] >> (7 - bit) & 1), 8)
    if ones in {1, 8}:
        return None
    count = max(ones, 1)  # bytes of the number, coded as in UTF-8
    number = head[4] & (0xFF >> (ones + 1))
    for byte in head[5 : 4 + count]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    end = 4 + count + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    checksum = 0
    for byte in head[:end]:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x07 if checksum & 0x80 else 0)) & 0xFF
    return number if checksum == head[end] else None


@contextmanager
def map_bytes(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Map a file into memory; an empty one gives empty bytes."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _forget_pages(data: mmap.mmap | bytes, forgotten: int, offset: int) -> int:
    """Give back the pages of a map before an offset, some megabytes at once, and return up to where that was done.

    Pages that were read count as this process's memory for as long as they are mapped.
    """
    if offset - forgotten < _PART_BYTES or isinstance(data, bytes) or not hasattr(mmap, "MADV_DONTNEED"):
        return forgotten
    end = min(offset, len(data)) // mmap.PAGESIZE * mmap.PAGESIZE
    data.madvise(mmap.MADV_DONTNEED, forgotten, end - forgotten)
    return end


def _frame(data: mmap.mmap | bytes, offset: int) -> _Frame | None:
    if offset + 4 > len(data) or data[offset] != 0xFF:
        return None
    return _parse_frame(data[offset + 1], data[offset + 2])


@lru_cache(maxsize=65_536)
def _parse_frame(second: int, third: int) -> _Frame | None:
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bit_index, rate_index, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second & 0xE0 != 0xE0 or version == 1 or layer == 4 or bit_index in {0, 15} or rate_index == 3:
        return None
    bit_rate, rate = 1000 * _BIT_RATES[version == 3, layer][bit_index - 1], _SAMPLE_RATES[version][rate_index]
    if layer == 1:
        size, samples = (12 * bit_rate // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bit_rate // rate + padding
    return _Frame(size, samples, rate, version << 4 | layer << 2 | rate_index)


def _skip_id3(data: mmap.mmap | bytes, offset: int) -> int:
    """Return where the ID3v2 tags at an offset end; a tag that would reach behind the file is not skipped."""
    while data[offset : offset + 3] == b"ID3" and (end := skip_id3_tag(data, offset)) < len(data):
        offset = end
    return offset


def skip_id3_tag(data: mmap.mmap | bytes, offset: int) -> int:
    """Return where the ID3v2 tag at an offset ends, by its size."""
    if offset + 10 > len(data):
        return len(data)
    size = sum((byte & 0x7F) << shift for byte, shift in zip(data[offset + 6 : offset + 10], (21, 14, 7, 0)))
    return offset + 10 + size + (10 if data[offset + 5] & 0x10 else 0)


def _next_frame(data: mmap.mmap | bytes, offset: int) -> int | None:
    """Return the first offset from which some frames of one kind follow one another, or the last of them ends."""
    while (offset := data.find(b"\xff", offset)) >= 0:
        end, kind = offset, None
        for _ in range(_RESYNC_FRAMES):
            frame = _frame(data, end)
            if frame is None or kind not in {None, frame.kind}:
                break
            kind, end = frame.kind, end + frame.size
            if end >= len(data):
                return offset
        else:
            return offset
        offset += 1
    return None


def _iter_frames(data: mmap.mmap | bytes, offset: int) -> Iterator[_Frame]:
    """Yield the whole frames from an offset on; what is no frame (tags, damage) is passed over."""
    kind, end, forgotten = None, len(data), 0
    while offset < end:
        forgotten = _forget_pages(data, forgotten, offset)
        frame = _frame(data, offset)
        if frame is None or frame.kind != kind:
            resync = _next_frame(data, _skip_id3(data, offset))
            if resync is None:
                return
            offset, frame = resync, _frame(data, resync)
        if frame is None or offset + frame.size > end:
            return
        kind = frame.kind
        yield frame
        offset += frame.size


def _length_tag(data: mmap.mmap | bytes, begin: int, frame: _Frame) -> _LengthTag | None:
    """Return what the tag in an MP3's first frame says; None if it is sound."""
    is_mpeg1, is_mono, has_crc = frame.kind >> 4 == 3, data[begin + 3] >> 6 == 3, not data[begin + 1] & 1
    side = 4 + ((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17))
    if data[begin + 36 : begin + 40] == b"VBRI":
        size, frames = struct.unpack_from(">II", data, begin + 46) if begin + 54 <= len(data) else (0, 0)
        return _LengthTag(frames, size, 0)
    for offset in (begin + side, begin + side + 2 * has_crc):
        if data[offset : offset + 4] in {b"Xing", b"Info"} and offset + 8 <= len(data):
            return _parse_xing(data, offset)
    return None


def _parse_xing(data: mmap.mmap | bytes, offset: int) -> _LengthTag:
    flags, values = struct.unpack_from(">I", data, offset + 4)[0], [0, 0]
    offset += 8
    for bit in (0, 1):
        if flags >> bit & 1 and offset + 4 <= len(data):
            values[bit] = struct.unpack_from(">I", data, offset)[0]
            offset += 4
    offset += 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    trimmed = 0
    if data[offset : offset + 4] in {b"LAME", b"Lavf", b"Lavc"} and offset + 24 <= len(data):
        both = int.from_bytes(data[offset + 21 : offset + 24], "big")
        trimmed = (both >> 12) + (both & 0xFFF)
    return _LengthTag(values[0], values[1], trimmed)
