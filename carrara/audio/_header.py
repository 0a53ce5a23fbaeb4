"""The header of an audio file, and the errors of both decoders.

Letters: T samples of one channel, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


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
    """

    decoder: Literal["soundfile", "av"]
    sample_rate: int
    channels: int
    frames: int | None
    exact: bool


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
