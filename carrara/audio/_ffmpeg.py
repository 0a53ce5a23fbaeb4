"""Decode with FFmpeg (PyAV): m4a and aac, wma, webm, audio tracks of video, and what libsndfile does not read.

Positions are samples from the first one that decodes. Only MP4 is seekable: its timestamps are exact to a sample. ASF
and Matroska count in milliseconds and a bare stream estimates, so these are decoded from their start, at some 200 times
real time, and an excerpt always equals the same excerpt of the whole.

Letters: T samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from carrara.audio._header import DecodingStopped, Header, UnreadableFile, to_mono

VERSION = ".".join(str(part) for part in av.library_versions["libavcodec"])
TIMED = {"mov", "matroska", "asf"}  # containers whose header declares their length
SEEKABLE = {"mov"}
PREROLL_SECONDS = 0.5  # what a decoder needs after a seek before its output is right again


def ffmpeg_header(path: Path) -> Header:
    """Return the header of a file; the first frame is decoded, since some codecs correct their rate there.

    Raises:
        Unreadable: FFmpeg does not know it, or finds no audio track in it.
    """
    with _open(path) as container:
        first = _first_frame(container)
        stream = container.streams.audio[0]
        seconds = None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        frames = None if seconds is None else round(seconds * first.sample_rate)
        return Header("av", first.sample_rate, first.layout.nb_channels, frames, _is_format(container, TIMED))


def ffmpeg_blocks(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield the mean of the channels from sample `start` to the end of the file, block by block.

    Raises:
        Unreadable: FFmpeg does not know it.
        Broken: decoding or seeking failed, or the sample rate changes.
    """
    with _open(path) as container:
        first = _first_frame(container)
        rate, position, frames = first.sample_rate, 0, _iter_frames(container, first)
        seek_to = start - int(PREROLL_SECONDS * rate)
        try:
            if seek_to > rate and _is_format(container, SEEKABLE):
                time = _time(first) + Fraction(seek_to, rate)
                container.seek(int(time * av.time_base))
                frames = container.decode(container.streams.audio[0])
                first_after_seek = next(frames, None)
                if first_after_seek is None:
                    return
                position = round((_time(first_after_seek) - _time(first)) * rate)
                frames = chain([first_after_seek], frames)
            for frame in frames:
                if frame.sample_rate != rate:
                    raise DecodingStopped(f"its sample rate changes from {rate} to {frame.sample_rate} Hz")
                samples_T = _to_mono(frame)
                skipped = max(start - position, 0)
                position += len(samples_T)
                if skipped < len(samples_T):
                    yield samples_T[skipped:]
        except FFmpegError as problem:
            raise DecodingStopped(problem.strerror or str(problem)) from None


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path), mode="r", metadata_errors="replace")
    except FFmpegError as problem:
        raise UnreadableFile(problem.strerror or str(problem)) from None
    if not container.streams.audio:
        container.close()
        raise UnreadableFile("no audio track in it")
    return container


def _first_frame(container: av.container.InputContainer) -> av.AudioFrame:
    try:
        return next(container.decode(container.streams.audio[0]))
    except StopIteration:
        raise UnreadableFile("its audio track holds no samples") from None
    except FFmpegError as problem:
        raise UnreadableFile(problem.strerror or str(problem)) from None


def _iter_frames(container: av.container.InputContainer, first: av.AudioFrame) -> Iterator[av.AudioFrame]:
    yield first
    yield from container.decode(container.streams.audio[0])


def _time(frame: av.AudioFrame) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        raise DecodingStopped("a frame has no timestamp, so seeking is impossible")
    return frame.pts * frame.time_base


def _is_format(container: av.container.InputContainer, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _to_mono(frame: av.AudioFrame) -> np.ndarray:
    """Return a frame of any sample format as float32 mono; integers are scaled as libsndfile scales them."""
    samples = frame.to_ndarray()
    samples_TC = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return to_mono((samples_TC.astype(np.float32) - 128) / 128)
    if samples.dtype.kind == "i":
        return to_mono(samples_TC.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize)))
    return to_mono(samples_TC.astype(np.float32))
