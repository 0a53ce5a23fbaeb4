"""Codes of several codebooks per frame, from five sources: the labels of MERT-v1 in place of cluster numbers.

MERT-v1 [li2024] learns from the first 8 codebooks of EnCodec, 1024 codes each, at 75 frames per second; other sources
give the same layout without EnCodec. All are frozen and independent of the student.

- `residual-k-means`: log-mel frames (229 bands) clustered one codebook after another; takes minutes, no training; the
  default.
- `rvq-vae`: our small codec, trained by `carrara pretrain rvq-vae`; its codes can be decoded back to audio. Needs
  `weights`.
- `encodec`: EnCodec at 24 kHz from a folder or the hub; exactly MERT's labels with `whole_files`.
- `random-projection`: BEST-RQ's frozen random codes of stacked mel frames [chiu2022] [won2024]. Several codebooks are
  independent draws. BEST-RQ has one codebook of 8192 codes, MusicFM one of 4096.
- `mel-rvq`: MuQ's residual projections of stacked mel frames [zhu2025], trained for some thousand steps.

With a CQT beside, all 8 codebooks score 66.9, a random one in each step 65.8, the first alone 60.5, the last alone
57.6, and log-mel and chroma clusters 67.3 [yuan2023thesis table 5.3]; `use` chooses. MERT labels whole files, where a
causal codec sees more than the crop; `whole_files` does the same (carrara/pretrain/corpus/label_store.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.quantize.residual_quantizer import codebook_usage
from carrara.pretrain.targets._base import Target, TargetSettings
from carrara.pretrain.targets._codecs import CodecOnGrid, EnCodec, TrainedCodec
from carrara.pretrain.targets._mel_codes import ResidualKMeans, StackedMelCodes

HUB = "facebook/encodec_24khz"


class CodesSettings(TargetSettings):
    """Source, number and use of the codes.

    Attributes:
        source: see the docstring of the file.
        num_codebooks, codebook_size: number of codebooks, and of codes in each.
        use: which codebooks a step predicts: all, a random one, or the one with that number (from 0).
        weights: for rvq-vae a folder; for encodec a folder or a name on the hub; EnCodec's name on the hub is dropped
            where another source is chosen.
        whole_files: label each file once and store the labels, instead of labelling crops.
        learning_steps: training steps of mel-rvq.
    """

    target: Literal["codes"] = "codes"
    source: Literal["residual-k-means", "rvq-vae", "encodec", "random-projection", "mel-rvq"] = "residual-k-means"
    num_codebooks: int = Field(default=8, ge=1, le=32)
    codebook_size: int = Field(default=1024, ge=2, le=32_768)
    use: Literal["all", "random"] | int = "all"
    weights: str | None = None
    whole_files: bool = False
    learning_steps: int = Field(default=2000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _drop_weights_of_encodec(cls, values: Any) -> Any:
        # So that `--set targets.codes.source=residual-k-means` suffices where a recipe names EnCodec's weights.
        if isinstance(values, dict) and values.get("weights") == HUB and values.get("source") != "encodec":
            return values | {"weights": None}
        return values

    @model_validator(mode="after")
    def _check_combination(self) -> CodesSettings:
        if isinstance(self.use, int) and not 0 <= self.use < self.num_codebooks:
            raise ValueError(f"use is all, random, or a codebook from 0 to {self.num_codebooks - 1}")
        if self.source == "rvq-vae" and self.weights is None:
            raise ValueError(
                "source rvq-vae needs weights: --set targets.codes.weights=FOLDER, made by `carrara pretrain rvq-vae`"
            )
        if self.source not in ("rvq-vae", "encodec") and self.weights is not None:
            raise ValueError(
                f"source {self.source} is fitted on the corpus and takes no weights; give --set "
                "targets.codes.weights=null"
            )
        return self


class _Codes(Target):
    settings_type = CodesSettings
    settings: CodesSettings

    def __init__(self, settings: CodesSettings, grid: FrameGrid) -> None:
        """Create the source, reading weights if it has any.

        Raises:
            UsageError: the weights have other codebooks than the settings, or transformers is missing.
            WeightsError: the weights are missing or incomplete.
        """
        super().__init__(settings, grid)
        count, size = settings.num_codebooks, settings.codebook_size
        self.num_classes, self.use = (size,) * count, settings.use
        self.causal = settings.source == "encodec"
        self.source: ResidualKMeans | StackedMelCodes | CodecOnGrid
        if settings.source == "residual-k-means":
            self.source = ResidualKMeans(grid, count, size)
        elif settings.source == "random-projection":
            self.source = StackedMelCodes(grid, count, size, 0)
        elif settings.source == "mel-rvq":
            self.source = StackedMelCodes(grid, count, size, settings.learning_steps)
        else:
            weights = settings.weights or HUB
            own = settings.source == "rvq-vae"
            codec = TrainedCodec(Path(weights).expanduser(), count) if own else EnCodec(weights, count)
            if codec.codebook_size != size:
                raise UsageError(
                    f"{weights}: its codebooks have {codec.codebook_size} codes; give --set "
                    f"targets.codes.codebook_size={codec.codebook_size}"
                )
            self.source = CodecOnGrid(codec.eval(), grid)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Fit the source, or measure the codebooks' usage if it is trained already; see the base class."""
        if not isinstance(self.source, CodecOnGrid):
            return self.source.fit(batches, seed)
        for samples_BT in batches:
            codes_NQ = self.labels(samples_BT, samples_BT.shape[1] // self.grid.hop).flatten(0, 1)
            return {"points": len(codes_NQ), "usage": codebook_usage(codes_NQ, self.settings.codebook_size)}
        return {"points": 0}

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the codes of all codebooks, int64 `[B, F, Q]`; see the base class."""
        return self.source.encode(samples_BT, frames)


TARGET = _Codes
