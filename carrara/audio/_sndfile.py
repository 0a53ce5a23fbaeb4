"""Decode with libsndfile (soundfile), the faster decoder: wav, aiff, flac, ogg, opus, mp3 and older formats.

This module adds what libsndfile does not report: the length that a truncated file declared (libsndfile corrects the
header silently); whether the length of an MP3 was counted by its encoder or is estimated from the bit rate; whether a
file goes on behind the length that libsndfile takes it to have, which FFmpeg then decodes; and correct samples after a
seek in an MP3, of which `SoundFile.read` makes one in each call: the data of a frame may lie in frames before it, so
some preceding samples are decoded and dropped. Codecs in which libsndfile cannot seek are read from their start.

Letters: T samples, C channels.
"""

from __future__ import annotations

import ctypes
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from carrara.audio._header import SLACK_SECONDS, DecodingStopped, Header, UnreadableFile
from carrara.audio._scan import is_chained_ogg, is_joined_flac, scan_mpeg
from carrara.audio._sizes import find_sound_bytes, has_unfinished_size, is_voc_of_many_blocks
from carrara.audio.file_warnings import warn_of_file
from carrara.core.ranged import open_ranged

VERSION = soundfile.__libsndfile_version__
BLOCK = 65_536
MP3_BLOCK = 2**20
MP3_PREROLL = 32 * 1152  # 32 frames hold the 511 bytes that a frame may reach back, down to the lowest bit rate
UNKNOWN_FRAMES = 2**62  # libsndfile returns its largest integer where a stream's length is unknown


def sndfile_header(path: Path) -> Header:
    """Return the header of a file.

    Raises:
        UnreadableFile: libsndfile does not know it, or would read a part of it only.
    """
    with open_sndfile(path) as file:
        frames: int | None = file.frames if file.frames < UNKNOWN_FRAMES else None
        # An Ogg file takes its length from its last page, which is too long where pages are missing in a playable file.
        exact = frames is not None and file.format != "OGG"
        is_mpeg = file.format == "MP3" or file.subtype.startswith("MPEG")
        if is_mpeg and frames is not None and (mpeg := scan_mpeg(path)):
            slack = SLACK_SECONDS * file.samplerate
            if mpeg.samples > frames + slack:
                raise UnreadableFile("it goes on behind the length that libsndfile takes it to have")
            exact = mpeg.tagged
            if not exact and mpeg.samples < frames - slack:
                frames = mpeg.samples
        elif is_mpeg:
            exact = False
        if frames == 0 and has_unfinished_size(path):
            raise UnreadableFile("its header states no size")
        if file.format == "OGG" and is_chained_ogg(path):
            raise UnreadableFile("libsndfile reads the first of its streams only")
        if file.format == "VOC" and is_voc_of_many_blocks(path):
            raise UnreadableFile("libsndfile takes the heads of its blocks for sound")
        if file.format == "FLAC" and is_joined_flac(path):
            raise UnreadableFile("libsndfile reads the first of several joined files only")
        if frames and (sound := find_sound_bytes(path)) and 0 < sound.present < sound.declared:
            frames, exact = round(frames * sound.declared / sound.present), True
        return Header("soundfile", file.samplerate, file.channels, frames, exact)


def sndfile_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield float32 samples `[T, C]` from sample `start` to the end of the file, block by block.

    Raises:
        UnreadableFile: libsndfile does not know it.
        DecodingStopped: decoding or seeking failed.
    """
    with open_sndfile(path) as file:
        block, preroll = (MP3_BLOCK, MP3_PREROLL) if file.format == "MP3" else (BLOCK, 0)
        position = start if file.seekable() else 0
        try:
            while True:
                lead = min(preroll, position)
                with silent_mpg123():
                    if file.seekable() and (lead or position == start):
                        file.seek(position - lead)
                        # A damaged MP3 seeks behind its end, from where soundfile would read a negative number.
                        if file.tell() > file.frames:
                            raise DecodingStopped("damaged data")
                    samples_TC = file.read(lead + block, dtype="float32", always_2d=True)[lead:]
                if not len(samples_TC):
                    break
                skipped = max(start - position, 0)
                position += len(samples_TC)
                if skipped < len(samples_TC):
                    yield samples_TC[skipped:]
        except soundfile.LibsndfileError as problem:
            reason = problem.error_string.removeprefix("Error : ")
            raise DecodingStopped("damaged data" if "psf_fseek" in reason else reason) from None
        if file.format == "OGG" and start == 0 and position < file.frames - SLACK_SECONDS * file.samplerate:
            lengths = f"{position / file.samplerate:.2f} of {file.frames / file.samplerate:.2f} s"
            warn_of_file(path, f"damaged: {lengths} decode, the rest is missing inside of it")


class _File(soundfile.SoundFile):
    """A file that is read from its start where libsndfile only believes that it can seek."""

    def seekable(self) -> bool:
        if self.format == "FLAC" and (self.frames >= UNKNOWN_FRAMES or self._starts_with_id3()):
            return False
        return super().seekable() and not self.subtype.startswith("DWVW")

    def _starts_with_id3(self) -> bool:
        if not isinstance(self.name, bytes | str):  # a file object
            before = self.name.tell()
            self.name.seek(0)
            head = self.name.read(3)
            self.name.seek(before)
            return bool(head == b"ID3")
        with open(self.name, "rb") as file:
            return file.read(3) == b"ID3"


class _UnsizedAu(io.FileIO):
    """An AU that states no size, read as if it stated the largest number, which libsndfile takes for an unknown one."""

    def readinto(self, buffer: Any) -> int | None:
        begin = self.tell()
        count = super().readinto(buffer)
        for position in range(max(8, begin), min(12, begin + (count or 0))):
            memoryview(buffer)[position - begin : position - begin + 1] = b"\xff"
        return count


def open_sndfile(path: Path) -> soundfile.SoundFile:
    """Open a file with libsndfile.

    Raises:
        UnreadableFile: libsndfile does not know it.
    """
    if path.suffix.lower() == ".raw":
        raise UnreadableFile("raw samples carry no sample rate")  # soundfile would read any bytes with this suffix
    try:
        with silent_mpg123():
            # Bytes, because a name need not be UTF-8; absolute, because libsndfile reads standard input for "-".
            name = os.fsencode(os.path.abspath(path)) if os.name == "posix" else str(path)
            is_unsized_au = path.suffix.lower() in {".au", ".snd"} and has_unfinished_size(path)
            return _File(open_ranged(path) or (_UnsizedAu(name) if is_unsized_au else name))
    except soundfile.LibsndfileError as problem:
        raise UnreadableFile(problem.error_string) from None


class _StandardError:
    """C's `stderr`, which libmpg123 prints to: up to thousands of lines for a damaged MP3.

    The stream is exchanged and not its file descriptor, so that lines of Python and of child processes are not lost.
    """

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.stream: ctypes.c_void_p | None = None
        self.null: int | None = None
        self.original: int | None = None
        if os.name == "posix":
            libc = ctypes.CDLL(None)
            for name in ("stderr", "__stderrp"):  # of Linux, of macOS
                try:
                    self.stream = ctypes.c_void_p.in_dll(libc, name)
                    break
                except ValueError:
                    continue
            libc.fopen.restype = ctypes.c_void_p
            self.null = libc.fopen(os.devnull.encode(), b"w")

    def restore(self) -> None:
        """Undo an exchange that a fork copied from another thread of the parent."""
        self.lock = threading.Lock()
        if self.users and self.stream is not None:
            self.users, self.stream.value = 0, self.original


_stderr = _StandardError()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stderr.restore)


@contextmanager
def silent_mpg123() -> Iterator[None]:
    """Keep the lines that libmpg123 prints from the terminal."""
    if _stderr.stream is None or not _stderr.null:
        yield
        return
    with _stderr.lock:
        if _stderr.users == 0:
            _stderr.original, _stderr.stream.value = _stderr.stream.value, _stderr.null
        _stderr.users += 1
    try:
        yield
    finally:
        with _stderr.lock:
            _stderr.users -= 1
            if _stderr.users == 0:
                _stderr.stream.value = _stderr.original
