"""How clips are heard and what is kept of them: windows, and a row for each or for every frame.

Frames stand on one grid over the whole clip, frame i at i / frame rate: a clip longer than a window is heard in windows
that overlap and begin on that grid, and each gives the frames that lie deeper inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from carrara.core.settings import Settings
from carrara.encoders._base import Encoder
from carrara.features.pool import Pool

MIN_TAIL_SECONDS = 1.0  # a shorter tail is dropped (MARBLE's rule for 30-s windows), or one under half a short window
OVERLAP_SECONDS = 1.0


class WindowSpec(Settings):
    """How clips are heard and what is kept of them.

    Attributes:
        window_seconds: length of a window; none: the whole clip, up to what the encoder should hear at once.
        hop_seconds: from one window to the next; none: a window, or for frames a little less, so that windows overlap.
        tail: `keep` a last window shorter than the others if it is long enough, or `drop` it; frames are always kept.
        pool: a row is a window's mean, or a frame.
        cnn: whether the extra "cnn" is kept too, where the encoder has one.
        deform: how the sound is spoilt before it is heard (`carrara.audio.deform`); empty: not at all.
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
    """Windows in samples: their length (none: any), the hop between them, and the least of a shorter last one."""

    window: int | None
    hop: int | None
    min_tail: int


def window_grid(encoder: Encoder, spec: WindowSpec) -> WindowGrid:
    """Return the windows that a view means for an encoder."""
    rate, frame_rate = encoder.card.sample_rate, encoder.card.frame_rate
    seconds = spec.window_seconds or encoder.card.window_seconds
    window = None if seconds is None else max(round(seconds * rate), 1)
    hop = None if spec.hop_seconds is None else max(round(spec.hop_seconds * rate), 1)
    if spec.pool == "mean" or window is None or frame_rate is None:
        least = min(round(MIN_TAIL_SECONDS * rate), (window or rate) // 2)
        return WindowGrid(window, hop, window if window and spec.tail == "drop" else least)
    stride = rate / frame_rate
    hop = hop or window - min(round(OVERLAP_SECONDS * rate), window // 4)
    return WindowGrid(window, max(round(int(hop / stride) * stride), 1), 1)
