"""Several books of codes a frame, from five teachers: what MERT-v1 predicts in place of cluster numbers.

MERT-v1 (Li et al. 2024) learns from the first 8 books of EnCodec, 1024 codes each, at 75 frames a second; whoever has
no EnCodec gets the same layout from a teacher of one's own. All are frozen and independent of the student.

- `residual-k-means`: log-mel (229 bands) clustered book after book, minutes, no training; the embedded default.
- `rvq-vae`: our small codec, from `carrara pretrain rvq-vae`; what it keeps can be listened to. Needs `weights`.
- `encodec`: EnCodec at 24 kHz from a folder or the hub; exactly MERT's labels with `whole_files`.
- `random-projection`: BEST-RQ's frozen random codes of stacked mel frames (Chiu et al. 2022; MusicFM). With several
  books these are independent draws. The paper has one book of 8192; MusicFM one of 4096.
- `mel-rvq`: MuQ's (Zhu et al. 2025): residual projections of stacked mel frames, learnt in some thousand steps.

The thesis (table 5.3) compares, with a CQT beside: all 8 books 66.9, one drawn anew for each step 65.8, the first book
alone 60.5, the last alone 57.6; log-mel and chroma clusters 67.3. `use` says which. MERT labels whole files, where a
codec with a memory hears more than the crop; `whole_files` does the same (carrara/pretrain/corpus/label_store.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.nn.quantize.residual_quantizer import usage
from carrara.pretrain.targets._base import FrameGrid, Target, TargetSettings
from carrara.pretrain.targets._codecs import EnCodec, OwnCodec, Resampled
from carrara.pretrain.targets._mel_codes import ResidualKMeans, Stacked

HUB = "facebook/encodec_24khz"


class CodesSettings(TargetSettings):
    """Whose codes, how many, and which of them are asked for.

    Attributes:
        source: see the head of the file.
        books, size: number of books, and of codes in each.
        use: all books in every step, one drawn anew for each step, or always the one of that number (from 0).
        weights: of rvq-vae a folder; of encodec a folder or a name on the hub.
        whole_files: label each file once and keep that, rather than label crops as they come.
        iterations: most Lloyd passes a book, of residual-k-means.
        learning_steps: of mel-rvq.
    """

    target: Literal["codes"] = "codes"
    source: Literal["residual-k-means", "rvq-vae", "encodec", "random-projection", "mel-rvq"] = "residual-k-means"
    num_codebooks: int = Field(default=8, ge=1, le=32)
    codebook_size: int = Field(default=1024, ge=2, le=32_768)
    use: Literal["all", "random"] | int = "all"
    weights: str | None = None
    whole_files: bool = False
    iterations: int = Field(default=20, ge=1)
    learning_steps: int = Field(default=2000, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> CodesSettings:
        if isinstance(self.use, int) and not 0 <= self.use < self.num_codebooks:
            raise ValueError(f"use is all, random, or a book from 0 to {self.num_codebooks - 1}")
        if self.source == "rvq-vae" and self.weights is None:
            raise ValueError("source rvq-vae needs weights, a folder made by `carrara pretrain rvq-vae`")
        if self.source not in ("rvq-vae", "encodec") and self.weights is not None:
            raise ValueError(f"source {self.source} is fitted on the corpus and takes no weights")
        return self


class Codes(Target):
    """One label set for each book.

    Attributes:
        causal: whether a label may depend on everything before it, so that it changes long after the sound did.
    """

    kind = CodesSettings
    settings: CodesSettings

    def __init__(self, settings: CodesSettings, grid: FrameGrid) -> None:
        """Make the teacher, reading weights where it has any.

        Raises:
            UsageError: the weights' books are not those asked for, or transformers is missing.
            WeightsError: the weights are not there or not whole.
        """
        super().__init__(settings, grid)
        self.num_classes, self.use = (settings.codebook_size,) * settings.num_codebooks, settings.use
        self.source = _source(settings, grid)
        self.causal = settings.source == "encodec"

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Fit the teacher, or hear the first crops of one that is fitted; see the base class."""
        if not isinstance(self.source, Resampled):
            return self.source.fit(batches, seed)
        for samples_BT in batches:
            codes_NQ = self.labels(samples_BT, samples_BT.shape[1] // self.grid.hop).flatten(0, 1)
            return {"points": len(codes_NQ), "usage": usage(codes_NQ, self.settings.codebook_size)}
        return {"points": 0}

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes of all books, int64 `[B, F, Q]`; see the base class."""
        return self.source.encode(samples_BT, frames)


def _source(settings: CodesSettings, grid: FrameGrid) -> ResidualKMeans | Stacked | Resampled:
    books, size = settings.num_codebooks, settings.codebook_size
    if settings.source == "residual-k-means":
        return ResidualKMeans(grid, books, size, settings.iterations)
    if settings.source == "random-projection":
        return Stacked(grid, books, size, 0)
    if settings.source == "mel-rvq":
        return Stacked(grid, books, size, settings.learning_steps)
    codec: OwnCodec | EnCodec
    if settings.source == "rvq-vae":
        codec = OwnCodec(Path(settings.weights or "").expanduser(), books)
    else:
        codec = EnCodec(settings.weights or HUB, books)
    if codec.size != size:
        raise UsageError(f"{settings.weights or HUB}: its books have {codec.size} codes; use size={codec.size}")
    return Resampled(codec.eval(), grid)


TARGET = Codes
