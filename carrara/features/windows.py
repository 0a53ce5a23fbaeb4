"""Which windows of a clip are encoded, and what is stored of each: its mean, its deviation too, or its frames.

Frames lie on one grid over the whole clip, frame i at i / frame rate. A clip longer than a window is encoded in
overlapping windows that begin on that grid, and each window gives the frames that lie deeper inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from carrara.core.settings import Settings
from carrara.encoders._base import Encoder

Pool = Literal["mean", "mean-std", "frames"]

MIN_TAIL_SECONDS = 1.0  # a shorter last window is dropped (MARBLE's rule for 30-s windows), or one under half a window
OVERLAP_SECONDS = 1.0


class WindowSpec(Settings):
    """Which windows of a clip are encoded, and what is stored of each.

    Attributes:
        window_seconds: Length of a window. None means the whole clip, up to the encoder's longest window.
        hop_seconds: From one window to the next. None means a window, or for frames a little less.
        tail: `keep` or `drop` a last window that is shorter than the others; frames are always kept.
        pool: A row is a window's mean, its mean and standard deviation over time side by side, or a frame.
        cnn: Also store the extra "cnn", where the encoder has one.
        corruption: What is done to the audio first, such as `noise:20db`. Empty means nothing.
    """

    window_seconds: float | None = Field(default=None, gt=0)
    hop_seconds: float | None = Field(default=None, gt=0)
    tail: Literal["keep", "drop"] = "keep"
    pool: Pool = "mean"
    cnn: bool = False
    corruption: str = ""

    @model_validator(mode="after")
    def _frames_overlap(self) -> WindowSpec:
        hop, window = self.hop_seconds, self.window_seconds
        if self.pool == "frames" and hop is not None and (window is None or hop > 0.9 * window):
            raise ValueError("windows of frames must overlap: hop_seconds at most 0.9 of window_seconds")
        return self


@dataclass(frozen=True)
class WindowGrid:
    """Windows in samples: their length (None: the whole clip), the hop, and the shortest last window that is kept."""

    window: int | None
    hop: int | None
    min_tail: int


def window_grid(encoder: Encoder, spec: WindowSpec) -> WindowGrid:
    """Return the windows of a spec in an encoder's samples."""
    rate, frame_rate = encoder.card.sample_rate, encoder.card.frame_rate
    seconds = spec.window_seconds or encoder.card.window_seconds
    window = None if seconds is None else max(round(seconds * rate), 1)
    hop = None if spec.hop_seconds is None else max(round(spec.hop_seconds * rate), 1)
    if spec.pool != "frames" or window is None or frame_rate is None:
        min_tail = min(round(MIN_TAIL_SECONDS * rate), (window or rate) // 2)
        return WindowGrid(window, hop, window if window and spec.tail == "drop" else min_tail)
    stride = rate / frame_rate
    hop = hop or window - min(round(OVERLAP_SECONDS * rate), window // 4)
    return WindowGrid(window, max(round(int(hop / stride) * stride), 1), 1)
