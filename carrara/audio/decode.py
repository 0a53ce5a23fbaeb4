"""Decode any audio file to float32 mono samples at one rate: whole, an excerpt, or a stream of constant memory.

soundfile decodes the formats it knows and PyAV the others. Channels are averaged, integers scaled to ±1, floats kept.
An excerpt is read by seeking, with a margin around it, so that it equals the same excerpt of the whole file after
resampling. A file counts as cut short if its header declares a length in samples, seconds or bytes (wav, w64, aiff,
caf, au, avi, flac, MP3 with a length tag, MP4, wma, webm, flv and older ones; bare AAC and AC-3 declare none) and the
excerpt does not decode to within `SLACK_SECONDS`; an excerpt that decodes whole is returned even if the file breaks off
later. Ogg declares no length: pages that are missing inside of it or at its end are warned of. Silent, constant and
one-sample files are valid.

A header may declare anything: sample rates of 1 to 1,000 kHz, 256 channels and 24 hours are the limits, and a length
that the bytes of the file cannot hold is refused as well. At most `MAX_LOADED_SAMPLES` are loaded at once.

Letters: T samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from carrara.audio import _ffmpeg, _sndfile
from carrara.audio._header import (
    MAX_HOURS,
    SLACK_SECONDS,
    DecodingStopped,
    Header,
    UnreadableFile,
    find_excess,
    refuse_pipe,
    to_mono,
)
from carrara.audio._scan import is_mpeg_whole, is_unfinished_ogg, last_flac_sample
from carrara.audio._sizes import MAX_CHUNKS, has_many_chunks
from carrara.audio.file_warnings import warn_of_file
from carrara.audio.resample import RESAMPLER, resample, resample_blocks
from carrara.core.errors import AudioError

DECODERS = {"soundfile": f"libsndfile-{_sndfile.VERSION}", "av": f"libavcodec-{_ffmpeg.VERSION}"}
BLOCK_READERS = {"soundfile": _sndfile.sndfile_blocks, "av": _ffmpeg.ffmpeg_blocks}
DECODING = 2  # raised whenever this package decodes a file to other samples, so that features are extracted again
VERSIONS = {**DECODERS, "resampler": RESAMPLER, "decoding": DECODING}
MARGIN_SECONDS = 0.05  # longer than half of the resampler's filter at 8 kHz
MAX_LOADED_SAMPLES = 2**32  # 24 hours at 48 kHz, 16 GiB
CANCELLED = 1e-3  # power of the mean of the channels over their own, below which they cancel (-30 dB, with AAC's noise)
AUDIBLE = 1e-7  # power (-70 dB) below which a file is silent anyway
SUFFIXES = frozenset(
    {
        ".wav", ".wave", ".aif", ".aiff", ".aifc", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".m4a",
        ".m4b", ".aac", ".mp4", ".wma", ".webm", ".mka", ".caf", ".au", ".snd", ".w64", ".ac3", ".amr",
        ".ape", ".wv", ".tta", ".spx"
    }
)  # fmt: skip


@dataclass(frozen=True)
class AudioInfo:
    """Facts from the header of an audio file.

    Attributes:
        sample_rate: in Hz.
        channels: number of channels.
        duration_seconds: length; None if the header does not state it.
        decoder: the library that decodes it.
        exact: whether the encoder counted the length; otherwise it is an estimate from the file's size.
    """

    sample_rate: int
    channels: int
    duration_seconds: float | None
    decoder: Literal["soundfile", "av"]
    exact: bool = True


def read_info(path: Path | str) -> AudioInfo:
    """Return the facts in the header of a file, without decoding.

    Raises:
        AudioError: no such file, a folder, empty, not allowed, or not an audio file.
    """
    return _to_info(_open_header(Path(path)))


def probe_audio(path: Path | str) -> AudioInfo:
    """Return the facts in the header of a file, after decoding its last tenth of a second to detect a truncated file.

    Raises:
        AudioError: as `read_info`, and: no samples in it, or cut short.
    """
    path = Path(path)
    head = _open_header(path)
    if head.frames == 0:
        raise AudioError(f"{path}: holds no samples")
    counted = head.frames is not None and head.exact
    tail = max((head.frames or 0) - 2 * int(SLACK_SECONDS * head.sample_rate), 0) if counted else 0
    for _ in _read_samples(path, head, tail, None if counted or head.is_cut else 1):
        pass
    return _to_info(head)


def check_audio(path: Path | str) -> AudioInfo:
    """Return the facts of a file, with its length, after decoding what shows whether it is whole.

    That is its end where its encoder counted the length, and all of it otherwise.

    Raises:
        AudioError: as `probe_audio`, and samples that are not finite.
    """
    info = probe_audio(path)
    if info.exact:
        return info
    samples = sum(len(block_T) for block_T in iter_audio(path, info.sample_rate))
    return replace(info, duration_seconds=samples / info.sample_rate)


def load_audio(path: Path | str, sample_rate: int, start: float = 0.0, duration: float | None = None) -> np.ndarray:
    """Return an excerpt of an audio file as float32 mono samples `[T]` at `sample_rate` (Hz).

    Args:
        path: the file.
        sample_rate: of the result, in Hz.
        start: start of the excerpt in seconds.
        duration: length in seconds; None means to the end. What lies past the end of the file is left out.

    Raises:
        AudioError: no such file, a folder, empty, not allowed, not an audio file, no samples in the excerpt, cut short
            before its end, samples that are not finite, or a declared or real size beyond the limits.
    """
    path = Path(path)
    head = _open_header(path)
    source = head.sample_rate
    # Reading starts on a sample that falls on a sample of the target grid, so that nothing shifts.
    step = source // math.gcd(source, sample_rate)
    margin = 0 if source == sample_rate else math.ceil(MARGIN_SECONDS * source)
    first = max(int(start * source) - margin, 0) // step * step
    count = None if duration is None else max(math.ceil((start + duration) * source), 1) + 1 + margin - first
    needed = None if duration is None else max(int((start + duration) * source) - first, 1)
    parts, samples = [], 0
    try:
        for part_T in _read_samples(path, head, first, count, needed):
            parts.append(part_T)
            samples += len(part_T)
            if samples > MAX_LOADED_SAMPLES:
                raise MemoryError
        if not parts:
            raise AudioError(f"{path}: no samples at {start:g} s, the file is shorter")
        samples_T = resample(np.concatenate(parts), source, sample_rate)
    except MemoryError:
        seconds = samples / source
        raise AudioError(f"{path}: too long to load at once (more than {seconds:.0f} s); load excerpts") from None
    skipped = round(start * sample_rate) - first // step * (sample_rate // math.gcd(source, sample_rate))
    length = None if duration is None else max(round(duration * sample_rate), 1)
    samples_T = samples_T[skipped:] if length is None else samples_T[skipped : skipped + length]
    if not len(samples_T):
        raise AudioError(f"{path}: no samples at {start:g} s, the file is shorter")
    return np.ascontiguousarray(samples_T)


def iter_audio(path: Path | str, sample_rate: int, seconds: float = 10.0) -> Iterator[np.ndarray]:
    """Yield a whole audio file as float32 mono blocks of `seconds`, the last one shorter, in constant memory.

    The blocks together equal `load_audio(path, sample_rate)`.

    Raises:
        AudioError: as `load_audio`; a truncated file is detected at its end, after its blocks.
    """
    path = Path(path)
    head = _open_header(path)
    stream = resample_blocks(_read_samples(path, head, 0, None), head.sample_rate, sample_rate)
    return rechunk(stream, max(round(seconds * sample_rate), 1))


def rechunk(parts: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Yield the same samples in blocks of `length`, the last one shorter."""
    pending: list[np.ndarray] = []
    count = 0
    for part_T in parts:
        pending.append(part_T)
        count += len(part_T)
        if count >= length:
            samples_T = np.concatenate(pending)
            full = count // length * length
            for begin in range(0, full, length):
                yield samples_T[begin : begin + length].copy()
            pending, count = [samples_T[full:]], count - full
    if count:
        yield np.concatenate(pending)


def _read_samples(
    path: Path, head: Header, first: int, count: int | None, needed: int | None = None
) -> Iterator[np.ndarray]:
    """Yield `count` finite samples from sample `first` on at the file's own rate; what lies past its end is left out.

    The file may end before `count`, but not before `needed` samples where its header declares that many (None means as
    many as declared). Channels that cancel each other are warned of.
    """
    rate, got, damage = head.sample_rate, 0, ""
    power, mean_power = 0.0, 0.0  # of the channels and of their mean, summed over samples
    try:
        for part_TC in BLOCK_READERS[head.decoder](path, first):
            part_TC = part_TC if count is None else part_TC[: count - got]
            part_T = to_mono(part_TC)
            got += len(part_T)
            if not np.isfinite(part_T).all():
                raise AudioError(f"{path}: holds samples that are NaN or infinite")
            if got > MAX_HOURS * 3600 * rate:
                raise AudioError(f"{path}: longer than {MAX_HOURS} hours; divide it into shorter files")
            if part_TC.shape[1] > 1:
                power += float(np.vdot(part_TC, part_TC)) / part_TC.shape[1]
                mean_power += float(np.vdot(part_T, part_T))
            yield part_T
            if count is not None and got >= count:
                break
    except (DecodingStopped, UnreadableFile) as problem:
        damage = str(problem) or "damaged"
    if count is None or got < count:
        declared = head.frames if head.exact else None
        slack = int(SLACK_SECONDS * rate)
        if declared is not None and first + got < declared - slack and (needed is None or got < needed - slack):
            reason = f" ({damage})" if damage else ""
            less = "" if got or not first else "less than "  # nothing of it was decoded, so its end is not known
            lengths = f"{less}{(first + got) / rate:.2f} of {declared / rate:.2f} s decode"
            if (last_flac_sample(path) or 0) >= declared - slack or is_mpeg_whole(path):
                raise AudioError(f"{path}: damaged: {lengths}{reason}, although its end is there")
            kind = "cut short" if head.decoder == "soundfile" else "cut short or damaged"
            raise AudioError(f"{path}: {kind}: {lengths}{reason}")
        if head.is_cut and declared is None and (needed is None or got < needed - slack):
            raise AudioError(f"{path}: cut short after {(first + got) / rate:.2f} s: it declares more than it holds")
        if damage and declared is None:
            raise AudioError(f"{path}: damaged after {(first + got) / rate:.2f} s ({damage})")
        if not got and not first:
            raise AudioError(f"{path}: no samples in it")
    if count is None and is_unfinished_ogg(path):
        warn_of_file(path, f"may be cut short: it ends after {(first + got) / rate:.2f} s without the mark of an end")
    if got >= rate / 2 and power > AUDIBLE * got and mean_power < CANCELLED * power:
        text = "its channels cancel each other (antiphase), so their mean is silent; invert one channel"
        warn_of_file(path, text)


def _to_info(head: Header) -> AudioInfo:
    seconds = None if head.frames is None else head.frames / head.sample_rate
    return AudioInfo(head.sample_rate, head.channels, seconds, head.decoder, head.exact)


def _open_header(path: Path) -> Header:
    try:
        refuse_pipe(path)
        size = path.stat().st_size
        with open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as problem:
        reasons = {FileNotFoundError: "no such file", IsADirectoryError: "a folder, not an audio file"}
        raise AudioError(f"{path}: {reasons.get(type(problem), problem.strerror or problem)}") from None
    if empty:
        raise AudioError(f"{path}: empty (0 bytes)")
    if has_many_chunks(path):
        raise AudioError(f"{path}: damaged: more than {MAX_CHUNKS:,} chunks or tags stand before its sound")
    try:
        head = _sndfile.sndfile_header(path)
    except UnreadableFile:
        try:
            head = _ffmpeg.ffmpeg_header(path)
        except UnreadableFile as problem:
            raise AudioError(f"{path}: not an audio file that soundfile or PyAV can read ({problem})") from None
    if reason := find_excess(head, size):
        raise AudioError(f"{path}: {reason}")
    return head
