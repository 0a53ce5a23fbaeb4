"""Decoding by FFmpeg (PyAV): m4a and aac, wma, webm, the sound of films, and whatever libsndfile leaves.

Positions are samples from the first one that decodes. Only MP4 is sought in: its timestamps are exact to a sample. ASF
and Matroska count in milliseconds and a bare stream guesses, so these are decoded from their beginning, at some 200
times real time, and a stretch always equals the same stretch of the whole.

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

from carrara.audio._header import Broken, Header, Unreadable, mono

VERSION = ".".join(str(part) for part in av.library_versions["libavcodec"])
TIMED = {"mov", "matroska", "asf"}  # containers whose head says how long they are
SOUGHT = {"mov"}
PREROLL_SECONDS = 0.5  # what a decoder needs to hear before its output is right again after a seek


def header(path: Path) -> Header:
    """Return the head of a file; the first frame is decoded, since some codecs correct their rate there.

    Raises:
        Unreadable: FFmpeg does not know it, or finds no audio track in it.
    """
    with _opened(path) as container:
        first = _first(container)
        stream = container.streams.audio[0]
        seconds = None
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        frames = None if seconds is None else round(seconds * first.sample_rate)
        return Header("av", first.sample_rate, first.layout.nb_channels, frames, _is(container, TIMED))


def read(path: Path, start: int) -> Iterator[np.ndarray]:
    """Yield the mean of the channels from a sample on, block by block, to the end of the file.

    Raises:
        Unreadable: FFmpeg does not know it.
        Broken: decoding or seeking failed, or the sample rate changes on the way.
    """
    with _opened(path) as container:
        first = _first(container)
        rate, position, frames = first.sample_rate, 0, _frames(container, first)
        early = start - int(PREROLL_SECONDS * rate)
        try:
            if early > rate and _is(container, SOUGHT):
                time = _time(first) + Fraction(early, rate)
                container.seek(int(time * av.time_base))
                frames = container.decode(container.streams.audio[0])
                sought = next(frames, None)
                if sought is None:
                    return
                position = round((_time(sought) - _time(first)) * rate)
                frames = chain([sought], frames)
            for frame in frames:
                if frame.sample_rate != rate:
                    raise Broken(f"its sample rate changes from {rate} to {frame.sample_rate} Hz")
                samples_T = _samples(frame)
                skipped = max(start - position, 0)
                position += len(samples_T)
                if skipped < len(samples_T):
                    yield samples_T[skipped:]
        except FFmpegError as problem:
            raise Broken(problem.strerror or str(problem)) from None


def _opened(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path), mode="r", metadata_errors="replace")
    except FFmpegError as problem:
        raise Unreadable(problem.strerror or str(problem)) from None
    if not container.streams.audio:
        container.close()
        raise Unreadable("no audio track in it")
    return container


def _first(container: av.container.InputContainer) -> av.AudioFrame:
    try:
        return next(container.decode(container.streams.audio[0]))
    except StopIteration:
        raise Unreadable("its audio track holds no samples") from None
    except FFmpegError as problem:
        raise Unreadable(problem.strerror or str(problem)) from None


def _frames(container: av.container.InputContainer, first: av.AudioFrame) -> Iterator[av.AudioFrame]:
    yield first
    yield from container.decode(container.streams.audio[0])


def _time(frame: av.AudioFrame) -> Fraction:
    if frame.pts is None or frame.time_base is None:
        raise Broken("a frame without a time cannot be sought")
    return frame.pts * frame.time_base


def _is(container: av.container.InputContainer, formats: set[str]) -> bool:
    return not formats.isdisjoint(container.format.name.split(","))


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Return a frame of any sample format as float32 mono; integers are scaled as libsndfile scales them."""
    samples = frame.to_ndarray()
    samples_TC = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return mono((samples_TC.astype(np.float32) - 128) / 128)
    if samples.dtype.kind == "i":
        return mono(samples_TC.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize)))
    return mono(samples_TC.astype(np.float32))
