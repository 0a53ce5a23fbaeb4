"""What a row of a table of embeddings is; read without importing torch."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from carrara.core.settings import Settings

SAMPLE = re.compile(r"[1-9]\d*x[1-9]\d*(\.\d+)?")
LAYERS = ("mean", "last", "all", "cnn", "joint")  # beside the numbers of layers


class EmbedConfig(Settings):
    """What a row of the table is.

    Attributes:
        per: A row is a recording (`clip`), a window or a frame.
        layer: "0" to "L"; "last"; "mean", the mean of 0 to L; "cnn"; "joint", the space of a text tower; or
            "all", a row for each of 0 to L.
        window_seconds: Length of a window. None means the encoder's own, or 30 s.
        hop_seconds: From one window to the next. None means a window; for frames a little less, so that windows
            overlap.
        sample: "3x10" encodes three excerpts of ten seconds, spread evenly, of each recording that is longer than
            these; they are read by seeking. None encodes whole recordings.
    """

    per: Literal["clip", "window", "frame"] = "clip"
    layer: str = "mean"
    window_seconds: float | None = None
    hop_seconds: float | None = None
    sample: str | None = None

    @field_validator("layer")
    @classmethod
    def _layer_is_a_word_or_number(cls, layer: str) -> str:
        if layer not in LAYERS and not layer.isdecimal():
            raise ValueError(f"give {', '.join(LAYERS)} or a number from 0")
        return layer

    @field_validator("sample")
    @classmethod
    def _sample_is_count_and_length(cls, sample: str | None) -> str | None:
        if sample is not None and not SAMPLE.fullmatch(sample):
            raise ValueError("give the number of excerpts and their seconds as NxSECONDS, such as 3x10")
        return sample

    @model_validator(mode="after")
    def _frames_are_whole(self) -> EmbedConfig:
        if self.sample and self.per == "frame":
            raise ValueError("sample: frames need whole recordings; choose per=clip or per=window")
        return self
