"""Stems: the parts of a mixture, each a sound file beside it or a stream of the mixture's own file; stereo, 44.1 kHz.

MUSDB18 as distributed keeps five AAC streams in one MP4 (0 mixture, 1 drums, 2 bass, 3 other, 4 vocals); MUSDB18-HQ and
Pebble keep a file a stem. A stem is written as what stands in a clip's labels: `stream:4`, or a file name beside the
mixture. Any stretch is sought and read, with a little sound around it where it is resampled, so that it equals the same
stretch of the whole. A mono sound is given on both channels; of more than two channels the first two are.

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

from carrara.audio.decode import MARGIN_SECONDS, SLACK_SECONDS
from carrara.audio.resample import resample
from carrara.core.errors import AudioError

RATE = 44_100
STREAM = "stream:"
PREROLL_SECONDS = 0.5  # what a decoder hears before its output is right again after a seek


@dataclass(frozen=True)
class Stem:
    """A sound: a file, and which of its audio streams; none for a file read by libsndfile."""

    path: Path
    stream: int | None = None


def stem_of(mixture: Path, reference: str) -> Stem:
    """Return the stem that a label names: `stream:<number>` of the mixture's file, or a file beside it."""
    if reference.startswith(STREAM):
        return Stem(mixture, int(reference.removeprefix(STREAM)))
    return Stem(mixture.parent / reference)


def length(stem: Stem) -> int:
    """Return how many samples at 44.1 kHz a stem has, as its file says.

    Raises:
        AudioError: no such file or stream, not a sound file, or it does not say.
    """
    frames, rate = _promised(stem)
    return round(frames * RATE / rate)


def load_stem(stem: Stem, start: int = 0, count: int | None = None) -> np.ndarray:
    """Return a stretch of a stem as float32 `[2, T]` at 44.1 kHz; what reaches past its end is left out.

    Args:
        stem: file and stream.
        start: first sample.
        count: how many; none: to the end.

    Raises:
        AudioError: no such file or stream, not a sound file, cut short within the stretch, or samples that are not
            finite.
    """
    frames, rate = _promised(stem)
    # The stretch read begins on a sample that falls on a sample of the target grid, so that nothing shifts.
    step = rate // math.gcd(rate, RATE)
    margin = 0 if rate == RATE else math.ceil(MARGIN_SECONDS * rate)
    first = max(start * rate // RATE - margin, 0) // step * step
    last = frames if count is None else min(math.ceil((start + count) * rate / RATE) + 1 + margin, frames)
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
    skipped = start - first // step * (RATE // math.gcd(rate, RATE))
    return samples_CT[:, skipped : None if count is None else skipped + count]


def _stereo(samples_CT: np.ndarray, rate: int) -> np.ndarray:
    """Return two channels at 44.1 kHz."""
    channels = [resample(samples_T, rate, RATE) for samples_T in samples_CT[:2]]
    return np.stack([channels[0], channels[-1]])


def _promised(stem: Stem) -> tuple[int, int]:
    """Return samples and sample rate as the file says."""
    if not stem.path.is_file():
        raise AudioError(f"{stem.path}: no such file")
    if stem.stream is None:
        with _soundfile(stem) as file:
            return file.frames, file.samplerate
    with closing(_container(stem)) as container:
        stream = _stream(stem, container)
        if stream.duration is None or stream.time_base is None:
            raise AudioError(f"{stem.path}: stream {stem.stream} does not say how long it is")
        rate = stream.codec_context.sample_rate
        return round(stream.duration * stream.time_base * rate), rate


def _soundfile(stem: Stem) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(str(stem.path))
    except soundfile.LibsndfileError as problem:
        raise AudioError(f"{stem.path}: not a sound file that soundfile can read ({problem.error_string})") from None


def _from_file(stem: Stem, first: int, count: int) -> np.ndarray:
    try:
        with _soundfile(stem) as file:
            file.seek(first)
            return file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise AudioError(f"{stem.path}: damaged ({problem.error_string})") from None


def _from_stream(stem: Stem, first: int, count: int) -> np.ndarray:
    parts: list[np.ndarray] = []
    got = 0
    try:
        with closing(_container(stem)) as container:
            for part_TC in _decoded(container, _stream(stem, container), first):
                parts.append(part_TC[: count - got])
                got += len(parts[-1])
                if got >= count:
                    break
    except FFmpegError as problem:
        raise AudioError(f"{stem.path}: stream {stem.stream} is damaged ({problem.strerror or problem})") from None
    return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)


def _container(stem: Stem) -> av.container.InputContainer:
    try:
        return av.open(str(stem.path), mode="r", metadata_errors="replace")
    except FFmpegError as problem:
        raise AudioError(f"{stem.path}: not a file that PyAV can read ({problem.strerror or problem})") from None


def _stream(stem: Stem, container: av.container.InputContainer) -> av.AudioStream:
    streams = container.streams.audio
    if stem.stream is None or stem.stream >= len(streams):
        raise AudioError(f"{stem.path}: has {len(streams)} audio streams, no stream {stem.stream}")
    return streams[stem.stream]


def _decoded(container: av.container.InputContainer, stream: av.AudioStream, start: int) -> Iterator[np.ndarray]:
    """Yield float32 samples `[T, C]` from a sample on; positions count from the first sample that decodes."""
    planes = av.AudioResampler(format="fltp")
    rate, origin, position = stream.codec_context.sample_rate, None, 0
    frames = container.decode(stream)
    early = start - int(PREROLL_SECONDS * rate)
    if early > rate:
        origin = _time(next(frames))
        container.seek(int((origin + Fraction(early, rate)) / (stream.time_base or 1)), stream=stream)
        frames = container.decode(stream)
    for place, frame in enumerate(frames):
        if place == 0 and origin is not None:
            position = round((_time(frame) - origin) * rate)
        for part in planes.resample(frame):
            samples_TC = part.to_ndarray().T
            skipped = max(start - position, 0)
            position += len(samples_TC)
            if skipped < len(samples_TC):
                yield samples_TC[skipped:]


def _time(frame: av.AudioFrame) -> Fraction:
    return (frame.pts or 0) * (frame.time_base or Fraction(0))
