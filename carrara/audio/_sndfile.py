"""Decode with libsndfile (soundfile), the faster decoder: wav, aiff, flac, ogg, opus, mp3 and older formats.

This module adds three things that libsndfile does not report: the length that a truncated file declared (libsndfile
corrects the header silently); whether the length of an MP3 was counted by its encoder or is estimated from the bit
rate; and correct samples after a seek in an MP3, of which `SoundFile.read` makes one in each call: the data of a frame
may lie in frames before it, so some preceding samples are decoded and dropped.

Letters: T samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from carrara.audio._header import DecodingStopped, Header, UnreadableFile, to_mono

VERSION = soundfile.__libsndfile_version__
BLOCK = 65_536
MP3_BLOCK = 2**20
MP3_PREROLL = 32 * 1152  # 32 frames hold the 511 bytes that a frame may reach back, down to the lowest bit rate
UNKNOWN_FRAMES = 2**62  # libsndfile returns its largest integer where a stream's length is unknown
UNSET_SIZE = 0x7FFF_0000  # programs that write to a pipe leave the largest 31- or 32-bit number as the size
_CORRECTED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


def sndfile_header(path: Path) -> Header:
    """Return the header of a file.

    Raises:
        Unreadable: libsndfile does not know it.
    """
    with _open(path) as file:
        frames: int | None = file.frames if file.frames < UNKNOWN_FRAMES else None
        # An Ogg file takes its length from its last page, which is too long where pages are missing in a playable file.
        exact = frames is not None and file.format != "OGG" and (file.format != "MP3" or _has_length_tag(path))
        if (corrected := _CORRECTED.search(file.extra_info)) and frames:
            declared, present = (int(group) for group in corrected.groups())
            if present < declared < UNSET_SIZE:
                frames = round(frames * declared / present)
        return Header("soundfile", file.samplerate, file.channels, frames, exact)


def sndfile_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield the mean of the channels from sample `start` to the end of the file, block by block.

    Raises:
        Unreadable: libsndfile does not know it.
        Broken: decoding or seeking failed.
    """
    with _open(path) as file:
        block, preroll = (MP3_BLOCK, MP3_PREROLL) if file.format == "MP3" else (BLOCK, 0)
        position = start
        try:
            while True:
                lead = min(preroll, position)
                if lead or position == start:
                    file.seek(position - lead)
                samples_TC = file.read(lead + block, dtype="float32", always_2d=True)[lead:]
                if not len(samples_TC):
                    return
                position += len(samples_TC)
                yield to_mono(samples_TC)
        except soundfile.LibsndfileError as problem:
            raise DecodingStopped(str(problem)) from None


def _open(path: Path) -> soundfile.SoundFile:
    if path.suffix.lower() == ".raw":
        raise UnreadableFile("raw samples carry no sample rate")  # soundfile would read any bytes with this suffix
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as problem:
        raise UnreadableFile(problem.error_string) from None


def _has_length_tag(path: Path) -> bool:
    """Return whether the first frame of an MP3 is a tag in which its encoder wrote the length."""
    with open(path, "rb") as file:
        tag = file.read(10)
        size = 0
        if tag[:3] == b"ID3":
            size = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0)))
        file.seek(size)
        first = file.read(4096)
    return any(word in first for word in (b"Xing", b"Info", b"VBRI"))
