"""What the head of a sound file promises, in the words that both decoders use.

Letters: T samples of one channel, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


class Unreadable(Exception):
    """This decoder cannot open the file; the message says why."""


class Broken(Exception):
    """Decoding stopped before the end of the file."""


@dataclass(frozen=True)
class Header:
    """The head of a sound file.

    Attributes:
        decoder: who reads it.
        sample_rate: in Hz.
        channels: their number.
        frames: samples a channel that the head promises; none where it says nothing.
        exact: whether that promise was counted by whoever wrote the file; an estimate from sizes and bit rates is not.
    """

    decoder: Literal["soundfile", "av"]
    sample_rate: int
    channels: int
    frames: int | None
    exact: bool


def mono(samples_TC: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, `[T]`.

    Columns are added one after another: a mean along the short axis of interleaved samples costs more than decoding.
    """
    channels = samples_TC.shape[1]
    if channels == 1:
        return samples_TC[:, 0]
    sum_T = samples_TC[:, 0] + samples_TC[:, 1]
    for channel in range(2, channels):
        sum_T += samples_TC[:, channel]
    sum_T *= np.float32(1 / channels)
    return sum_T
