"""The header of an audio file, its limits, and the errors of both decoders.

Letters: T samples of one channel, C channels.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from carrara.core.errors import AudioError

MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz
MAX_CHANNELS = 256
MAX_HOURS = 24
MAX_SAMPLES_PER_BYTE = 8_192  # FLAC's silence, the densest there is, has some 6,000
SLACK_SECONDS = 0.1  # a file may end this much before its declared length


class UnreadableFile(Exception):
    """A decoder cannot open the file; the message gives the reason."""


class DecodingStopped(Exception):
    """Decoding stopped before the end of the file."""


@dataclass(frozen=True)
class Header:
    """The header of an audio file.

    Attributes:
        decoder: the library that reads it.
        sample_rate: in Hz.
        channels: number of channels.
        frames: declared number of samples per channel; None where the file declares none.
        exact: whether the encoder counted that number; an estimate from sizes and bit rates is not exact.
        is_cut: whether bytes of sound that it declares are missing, where `frames` is not exact.
    """

    decoder: Literal["soundfile", "av"]
    sample_rate: int
    channels: int
    frames: int | None
    exact: bool
    is_cut: bool = False


def to_mono(samples_TC: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, `[T]`.

    Columns are added one by one, because a mean along the short axis of interleaved samples costs more than decoding.
    """
    channels = samples_TC.shape[1]
    if channels == 1:
        return samples_TC[:, 0]
    sum_T = samples_TC[:, 0] + samples_TC[:, 1]
    for channel in range(2, channels):
        sum_T += samples_TC[:, channel]
    sum_T *= np.float32(1 / channels)
    return sum_T


def refuse_pipe(path: Path) -> None:
    """Raise where a path is neither a file nor a folder.

    Raises:
        AudioError: a pipe or a device, which may never end.
        OSError: no such file.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AudioError(f"{path}: a pipe or device, not an audio file; write its audio to a file first")


def find_excess(head: Header, size: int) -> str | None:
    """Return what a header declares beyond the limits, or beyond what `size` bytes can hold; None if nothing."""
    rate, hours = head.sample_rate, (head.frames or 0) / max(head.sample_rate, 1) / 3600
    if not MIN_RATE <= rate <= MAX_RATE:
        return f"declares a sample rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are read"
    if not 1 <= head.channels <= MAX_CHANNELS:
        return f"declares {head.channels} channels; 1 to {MAX_CHANNELS} are read"
    if hours > MAX_HOURS and (head.frames or 0) <= MAX_SAMPLES_PER_BYTE * size:
        return f"{hours:.1f} hours long; divide it into files of at most {MAX_HOURS} hours"
    if (head.frames or 0) > MAX_SAMPLES_PER_BYTE * size:
        return f"damaged: declares {hours:.1f} hours, which its {size} bytes cannot hold"
    return None
