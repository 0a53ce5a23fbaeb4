"""Any sound file to float32 mono samples at one rate: whole, a stretch of it, or as a stream of flat memory.

soundfile decodes what it knows and PyAV the rest; which one is a property of the file. Channels are averaged, integers
scaled to ±1, floats taken as they are. A stretch is sought and read, with a little sound around it so that it equals
the same stretch of the whole file after resampling. Whether a file is cut short is judged by what its head promises
(wav, aiff, flac, MP3 with a length tag, MP4, wma, webm; an Ogg stream and a bare AAC stream promise nothing): when the
asked stretch does not decode to within `SLACK_SECONDS`, that is an error; a stretch that decodes whole is given, even
if the file breaks off later. Silent, constant and one-sample files are sound.

Letters: T samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from carrara.audio import _ffmpeg, _sndfile
from carrara.audio._header import Broken, Header, Unreadable
from carrara.audio.resample import RESAMPLER, resample, resample_blocks
from carrara.core.errors import AudioError

DECODERS = {"soundfile": f"libsndfile-{_sndfile.VERSION}", "av": f"libavcodec-{_ffmpeg.VERSION}"}
VERSIONS = {**DECODERS, "resampler": RESAMPLER}
SLACK_SECONDS = 0.1
MARGIN_SECONDS = 0.05  # longer than half of the resampler's filter at 8 kHz
SUFFIXES = frozenset(
    {
        ".wav", ".wave", ".aif", ".aiff", ".aifc", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a",
        ".m4b", ".aac", ".mp4", ".wma", ".webm", ".mka", ".caf", ".au", ".snd", ".w64", ".ac3", ".amr",
        ".ape", ".wv", ".tta", ".spx"
    }
)  # fmt: skip


@dataclass(frozen=True)
class AudioInfo:
    """What is known of a sound file before it is decoded.

    Attributes:
        sample_rate: in Hz.
        channels: their number.
        duration_seconds: its length; none where the file does not say.
        decoder: who decodes it.
        exact: whether the length was counted by whoever wrote the file, or is an estimate from its size.
    """

    sample_rate: int
    channels: int
    duration_seconds: float | None
    decoder: Literal["soundfile", "av"]
    exact: bool = True


def header(path: Path | str) -> AudioInfo:
    """Return what the head of a file says; nothing else is looked at.

    Raises:
        AudioError: no such file, a folder, empty, not allowed, or not a sound file.
    """
    return _info(_header(Path(path)))


def probe(path: Path | str) -> AudioInfo:
    """Return what the head of a file says, after hearing its last tenth of a second, so that one cut short is found.

    Raises:
        AudioError: as `header`, and: no samples in it, or cut short.
    """
    path = Path(path)
    head = _header(path)
    if head.frames == 0:
        raise AudioError(f"{path}: holds no samples")
    counted = head.frames is not None and head.exact
    tail = max((head.frames or 0) - 2 * int(SLACK_SECONDS * head.sample_rate), 0) if counted else 0
    for _ in _stretch(path, head, tail, None if counted else 1):
        pass
    return _info(head)


def load(path: Path | str, sample_rate: int, start: float = 0.0, duration: float | None = None) -> np.ndarray:
    """Return a stretch of a sound file as float32 mono samples `[T]` at `sample_rate` (Hz).

    Args:
        path: the file.
        sample_rate: of the result.
        start: where the stretch begins, in seconds.
        duration: its length in seconds; none: to the end. What reaches past the end of the file is left out.

    Raises:
        AudioError: no such file, a folder, empty, not allowed, not a sound file, no samples in the stretch, cut short
            before its end, or samples that are not finite.
    """
    path = Path(path)
    head = _header(path)
    source = head.sample_rate
    # The stretch read begins on a sample that falls on a sample of the target grid, so that nothing shifts.
    step = source // math.gcd(source, sample_rate)
    margin = 0 if source == sample_rate else math.ceil(MARGIN_SECONDS * source)
    first = max(int(start * source) - margin, 0) // step * step
    count = None if duration is None else max(math.ceil((start + duration) * source), 1) + 1 + margin - first
    needed = None if duration is None else max(int((start + duration) * source) - first, 1)
    parts = list(_stretch(path, head, first, count, needed))
    samples_T = resample(np.concatenate(parts), source, sample_rate)
    skipped = round(start * sample_rate) - first // step * (sample_rate // math.gcd(source, sample_rate))
    wanted = None if duration is None else max(round(duration * sample_rate), 1)
    samples_T = samples_T[skipped:] if wanted is None else samples_T[skipped : skipped + wanted]
    if not len(samples_T):
        raise AudioError(f"{path}: no samples at {start:g} s, the file is shorter")
    return np.ascontiguousarray(samples_T)


def blocks(path: Path | str, sample_rate: int, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Yield a whole sound file as float32 mono blocks of `seconds`, the last one shorter; memory stays flat.

    Joined, the blocks equal `load(path, sample_rate)`.

    Raises:
        AudioError: as `load`; a file cut short is found at its end, after its blocks.
    """
    path = Path(path)
    head = _header(path)
    stream = resample_blocks(_stretch(path, head, 0, None), head.sample_rate, sample_rate)
    return recut(stream, max(round(seconds * sample_rate), 1))


def recut(parts: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of `length`, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for part_T in parts:
        held.append(part_T)
        count += len(part_T)
        if count >= length:
            joined_T = np.concatenate(held)
            whole = count // length * length
            for begin in range(0, whole, length):
                yield joined_T[begin : begin + length].copy()
            held, count = [joined_T[whole:]], count - whole
    if count:
        yield np.concatenate(held)


def _stretch(
    path: Path, head: Header, first: int, count: int | None, needed: int | None = None
) -> Iterator[np.ndarray]:
    """Yield `count` finite samples from `first` on at the file's own rate; what lies past the file's end is left out.

    The file may end before `count` but, where its head promises more, not before `needed` (none: as many as promised).
    """
    rate, got, broken = head.sample_rate, 0, ""
    try:
        for part_T in _decoder(head).read(path, first):
            part_T = part_T if count is None else part_T[: count - got]
            got += len(part_T)
            if not np.isfinite(part_T).all():
                raise AudioError(f"{path}: holds samples that are NaN or infinite")
            yield part_T
            if count is not None and got >= count:
                return
    except (Broken, Unreadable) as problem:
        broken = str(problem) or "damaged"
    promised = head.frames if head.exact else None
    slack = int(SLACK_SECONDS * rate)
    if promised is not None and first + got < promised - slack and (needed is None or got < needed - slack):
        raise AudioError(f"{path}: cut short: {(first + got) / rate:.2f} of {promised / rate:.2f} s decode")
    if broken and promised is None:
        raise AudioError(f"{path}: damaged after {(first + got) / rate:.2f} s ({broken})")
    if not got:
        where = f"at {first / rate:g} s, the file is shorter" if first else "in it"
        raise AudioError(f"{path}: no samples {where}")


def _info(head: Header) -> AudioInfo:
    seconds = None if head.frames is None else head.frames / head.sample_rate
    return AudioInfo(head.sample_rate, head.channels, seconds, head.decoder, head.exact)


def _decoder(head: Header) -> ModuleType:
    return _sndfile if head.decoder == "soundfile" else _ffmpeg


def _header(path: Path) -> Header:
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as problem:
        reasons = {FileNotFoundError: "no such file", IsADirectoryError: "a folder, not a sound file"}
        raise AudioError(f"{path}: {reasons.get(type(problem), problem.strerror or problem)}") from None
    if empty:
        raise AudioError(f"{path}: empty (0 bytes)")
    try:
        return _sndfile.header(path)
    except Unreadable:
        try:
            return _ffmpeg.header(path)
        except Unreadable as problem:
            raise AudioError(f"{path}: not a sound file that soundfile or PyAV can read ({problem})") from None
