"""Constant-Q magnitudes of each frame, to be reconstructed: MERT's musical target beside the acoustic one.

MERT [li2024 §3.2] predicts 336 bins from C1 upwards, 48 per octave, with squared error over masked frames. The
published target is the bare magnitude: nearly all of its variance lies in the bass, and its loss grows with the square
of the gain. `log` balances octaves and loudness [notes/pretraining §0.6, §3.4].

Its frames are centred where the network's are, 200 samples later than in the released code, which centres frame i on
sample i × hop, as `centre = "hop"` does (docs/differences.md).

The transform sees the crop only. Its longest kernel lasts two seconds, so bass targets within a second of a crop's edge
contain the zero padding, as they do in the published training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.spectral.cqt import C1, CQT
from carrara.nn.spectral.cqt_target import compute_bin_statistics, cqt_target
from carrara.pretrain.targets._base import Target, TargetSettings, features_on_grid


class CQTSettings(TargetSettings):
    """Which bins are reconstructed.

    Attributes:
        bins: from C1 (32.7 Hz) upwards.
        bins_per_octave: bins in an octave.
        form: magnitude (as published) or its logarithm.
        centre: of frame i: the middle of the network's frame i, or sample i × hop, as in MERT's code.
    """

    target: Literal["cqt"] = "cqt"
    bins: int = Field(default=336, ge=1)
    bins_per_octave: int = Field(default=48, ge=1)
    form: Literal["magnitude", "log"] = "magnitude"
    centre: Literal["frame", "hop"] = "frame"


class _CQTValues(Target):
    settings_type = CQTSettings
    settings: CQTSettings

    def __init__(self, settings: CQTSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid if settings.centre == "frame" else replace(grid, centre=0))
        self.num_values = settings.bins
        self.cqt = CQT(grid.sample_rate, grid.hop, settings.bins, settings.bins_per_octave, C1)
        self.register_buffer("mean_M", torch.zeros(settings.bins))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Compute each bin's mean over the crops; see the base class."""
        statistics = compute_bin_statistics(self.values(samples_BT, None) for samples_BT in batches)
        self.mean_M = statistics.mean_M
        return {"mean": float(self.mean_M.mean()), "variance": float(statistics.std_M.square().mean())}

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the values, float32 `[B, F, M]`; see the base class."""
        return self.values(samples_BT, frames)

    def values(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        """Return the values on the student's frames, `[B, F, M]`; `frames` as in `features_on_grid`."""
        return cqt_target(features_on_grid(self.cqt, samples_BT, self.grid, frames), self.settings.form)


TARGET = _CQTValues
