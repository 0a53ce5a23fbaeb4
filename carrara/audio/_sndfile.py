"""Decoding by libsndfile (soundfile): wav, aiff, flac, ogg, opus, mp3 and their older cousins; the fast way.

Three things that libsndfile does not say are worked out here. What a file cut short had promised: it quietly corrects
the head. Whether the length of an MP3 was counted by its encoder or is a guess from the bit rate. And that after every
seek in an MP3, of which `SoundFile.read` makes one a call, the first frames come out wrong, since the data of a frame
may lie in frames before it; so a little more is read before each block and thrown away.

Letters: T samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from carrara.audio._header import Broken, Header, Unreadable, mono

VERSION = soundfile.__libsndfile_version__
BLOCK = 65_536
MP3_BLOCK = 2**20
MP3_PREROLL = 32 * 1152  # 32 frames hold the 511 bytes that a frame may reach back, down to the lowest bit rate
UNKNOWN_FRAMES = 2**62  # libsndfile answers with its largest integer when a stream's length is not known
UNSET_SIZE = 0x7FFF_0000  # programs that write to a pipe leave the largest 31- or 32-bit number as the size
_CORRECTED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


def header(path: Path) -> Header:
    """Return the head of a file.

    Raises:
        Unreadable: libsndfile does not know it.
    """
    with _opened(path) as file:
        frames: int | None = file.frames if file.frames < UNKNOWN_FRAMES else None
        # An Ogg is as long as its last page says: where pages were lost, longer than the sound, in files that play.
        exact = frames is not None and file.format != "OGG" and (file.format != "MP3" or _counted(path))
        if (corrected := _CORRECTED.search(file.extra_info)) and frames:
            claimed, there = (int(group) for group in corrected.groups())
            if there < claimed < UNSET_SIZE:
                frames = round(frames * claimed / there)
        return Header("soundfile", file.samplerate, file.channels, frames, exact)


def read(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield the mean of the channels from a sample on, block by block, to the end of the file.

    Raises:
        Unreadable: libsndfile does not know it.
        Broken: decoding or seeking failed.
    """
    with _opened(path) as file:
        block, preroll = (MP3_BLOCK, MP3_PREROLL) if file.format == "MP3" else (BLOCK, 0)
        position = start
        try:
            while True:
                early = min(preroll, position)
                if early or position == start:
                    file.seek(position - early)
                samples_TC = file.read(early + block, dtype="float32", always_2d=True)[early:]
                if not len(samples_TC):
                    return
                position += len(samples_TC)
                yield mono(samples_TC)
        except soundfile.LibsndfileError as problem:
            raise Broken(str(problem)) from None


def _opened(path: Path) -> soundfile.SoundFile:
    if path.suffix.lower() == ".raw":
        raise Unreadable("raw samples carry no sample rate")  # by this suffix alone soundfile takes any bytes for sound
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as problem:
        raise Unreadable(problem.error_string) from None


def _counted(path: Path) -> bool:
    """Return whether the first frame of an MP3 is the encoder's own note of the length."""
    with open(path, "rb") as file:
        tag = file.read(10)
        size = 0
        if tag[:3] == b"ID3":
            size = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0)))
        file.seek(size)
        first = file.read(4096)
    return any(word in first for word in (b"Xing", b"Info", b"VBRI"))
