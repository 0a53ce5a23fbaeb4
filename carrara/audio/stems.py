"""Read stems, the parts of a mixture: files beside it or streams of the mixture's own file; stereo at 44.1 kHz.

MUSDB18 as distributed has five AAC streams in one MP4 (0 mixture, 1 drums, 2 bass, 3 other, 4 vocals); MUSDB18-HQ and
Pebble have one file for each stem. A clip's labels name a stem as `stream:4` or as a file name beside the mixture. An
excerpt is read by seeking, with a margin where it is resampled, so that it equals the same excerpt of the whole. Mono
audio is returned on both channels; of more than two channels the first two are returned.

Positions are samples at 44.1 kHz, whatever the file's own rate. Letters: T samples, C channels (2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.error import FFmpegError

from carrara.audio._ffmpeg import open_container
from carrara.audio._header import SLACK_SECONDS, Header, UnreadableFile, find_excess
from carrara.audio._sndfile import open_sndfile, silent_mpg123
from carrara.audio.decode import MARGIN_SECONDS
from carrara.audio.resample import resample
from carrara.core.errors import AudioError

STEM_RATE = 44_100
STREAM = "stream:"
PREROLL_SECONDS = 0.5  # what a decoder needs after a seek before its output is right again


@dataclass(frozen=True)
class StemSource:
    """An audio file and the index of its stream; None for a file that libsndfile reads."""

    path: Path
    stream: int | None = None


def parse_stem(mixture: Path, reference: str) -> StemSource:
    """Return the stem that a label names: `stream:<index>` of the mixture's file, or a file beside it."""
    if reference.startswith(STREAM):
        return StemSource(mixture, int(reference.removeprefix(STREAM)))
    return StemSource(mixture.parent / reference)


def is_stem(mixture: Path, reference: object) -> bool:
    """Return whether a label names a stem: a stream by its index, or an existing file beside the mixture."""
    if not isinstance(reference, str):
        return False
    if reference.startswith(STREAM):
        return reference.removeprefix(STREAM).isdecimal()
    return "\0" not in reference and parse_stem(mixture, reference).path.is_file()


def stem_length(stem: StemSource) -> int:
    """Return the number of samples of a stem at 44.1 kHz, as its file declares.

    Raises:
        AudioError: no such file or stream, not an audio file, or no declared length.
    """
    frames, rate = _declared_length(stem)
    return round(frames * STEM_RATE / rate)


def load_stem(stem: StemSource, start: int = 0, count: int | None = None) -> np.ndarray:
    """Return an excerpt of a stem as float32 `[2, T]` at 44.1 kHz; what lies past its end is left out.

    Args:
        stem: file and stream.
        start: first sample.
        count: number of samples; None means to the end.

    Raises:
        AudioError: no such file or stream, not an audio file, cut short within the excerpt, or samples that are not
            finite.
    """
    frames, rate = _declared_length(stem)
    # Reading starts on a sample that falls on a sample of the target grid, so that nothing shifts.
    step = rate // math.gcd(rate, STEM_RATE)
    margin = 0 if rate == STEM_RATE else math.ceil(MARGIN_SECONDS * rate)
    first = max(start * rate // STEM_RATE - margin, 0) // step * step
    last = frames if count is None else min(math.ceil((start + count) * rate / STEM_RATE) + 1 + margin, frames)
    if last <= first:
        return np.zeros((2, 0), dtype=np.float32)
    read = _from_file if stem.stream is None else _from_stream
    samples_TC = read(stem, first, last - first)
    if len(samples_TC) < last - first - SLACK_SECONDS * rate:
        got = (first + len(samples_TC)) / rate
        raise AudioError(f"{stem.path}: cut short: {got:.2f} of {frames / rate:.2f} s decode")
    if not np.isfinite(samples_TC).all():
        raise AudioError(f"{stem.path}: holds samples that are NaN or infinite")
    samples_CT = _stereo(np.ascontiguousarray(samples_TC.T), rate)
    skipped = start - first // step * (STEM_RATE // math.gcd(rate, STEM_RATE))
    return samples_CT[:, skipped : None if count is None else skipped + count]


def _stereo(samples_CT: np.ndarray, rate: int) -> np.ndarray:
    """Return two channels at 44.1 kHz."""
    channels = [resample(samples_T, rate, STEM_RATE) for samples_T in samples_CT[:2]]
    return np.stack([channels[0], channels[-1]])


def _declared_length(stem: StemSource) -> tuple[int, int]:
    """Return number of samples and sample rate as the file declares them."""
    if not stem.path.is_file():
        raise AudioError(f"{stem.path}: no such file")
    if stem.stream is None:
        with _soundfile(stem) as file:
            return _within_limits(stem, file.frames, file.samplerate, file.channels)
    with closing(_container(stem)) as container:
        stream = _stream(stem, container)
        if stream.duration is None or stream.time_base is None:
            raise AudioError(f"{stem.path}: stream {stem.stream} declares no length")
        rate = stream.codec_context.sample_rate
        return _within_limits(
            stem, round(stream.duration * stream.time_base * rate), rate, stream.codec_context.channels
        )


def _within_limits(stem: StemSource, frames: int, rate: int, channels: int) -> tuple[int, int]:
    """Return frames and rate.

    Raises:
        AudioError: they are beyond the limits.
    """
    if excess := find_excess(Header("av", rate, channels, frames, True), stem.path.stat().st_size):
        raise AudioError(f"{stem.path}: {excess}")
    return frames, rate


def _soundfile(stem: StemSource) -> soundfile.SoundFile:
    try:
        return open_sndfile(stem.path)
    except UnreadableFile as problem:
        raise AudioError(f"{stem.path}: not an audio file that soundfile can read ({problem})") from None


def _from_file(stem: StemSource, first: int, count: int) -> np.ndarray:
    try:
        with _soundfile(stem) as file, silent_mpg123():
            file.seek(first)
            return file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise AudioError(f"{stem.path}: damaged ({problem.error_string})") from None


def _from_stream(stem: StemSource, first: int, count: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    got = 0
    try:
        with closing(_container(stem)) as container:
            for part_TC in _iter_stream(container, _stream(stem, container), first):
                parts.append(part_TC[: count - got])
                got += len(parts[-1])
                if got >= count:
                    break
    except FFmpegError as problem:
        raise AudioError(f"{stem.path}: stream {stem.stream} is damaged ({problem.strerror or problem})") from None
    return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)


def _container(stem: StemSource) -> av.container.InputContainer:
    try:
        return open_container(stem.path)
    except UnreadableFile as problem:
        raise AudioError(f"{stem.path}: not a file that PyAV can read ({problem})") from None


def _stream(stem: StemSource, container: av.container.InputContainer) -> av.AudioStream:
    streams = container.streams.audio
    if stem.stream is None or stem.stream >= len(streams):
        raise AudioError(f"{stem.path}: has {len(streams)} audio streams, no stream {stem.stream}")
    return streams[stem.stream]


def _iter_stream(container: av.container.InputContainer, stream: av.AudioStream, start: int) -> Iterator[np.ndarray]:
    """Yield float32 samples `[T, C]` from sample `start`; positions count from the first sample that decodes."""
    planes = av.AudioResampler(format="fltp")
    rate, origin, position = stream.codec_context.sample_rate, None, 0
    frames = container.decode(stream)
    seek_to = start - int(PREROLL_SECONDS * rate)
    if seek_to > rate:
        origin = _time(next(frames))
        container.seek(int((origin + Fraction(seek_to, rate)) / (stream.time_base or 1)), stream=stream)
        frames = container.decode(stream)
    for index, frame in enumerate(frames):
        if index == 0 and origin is not None:
            position = round((_time(frame) - origin) * rate)
        for part in planes.resample(frame):
            samples_TC = part.to_ndarray().T
            skipped = max(start - position, 0)
            position += len(samples_TC)
            if skipped < len(samples_TC):
                yield samples_TC[skipped:]


def _time(frame: av.AudioFrame) -> Fraction:
    return (frame.pts or 0) * (frame.time_base or Fraction(0))
