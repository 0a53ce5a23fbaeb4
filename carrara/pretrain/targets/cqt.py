"""The constant-Q magnitudes of each frame, to be reconstructed: MERT's musical teacher beside the acoustic one.

MERT (Li et al. 2024, section 3.2) predicts 336 bins from C1, 48 an octave, with squared error over masked frames. The
published target is the bare magnitude: nearly all of its variance is bass and its loss grows with the square of the
gain. `log` and `standardised` give every octave and every loudness a say (pretraining.md, sections 0.6 and 3.4).

The transform hears the crop only. Its lowest kernel is two seconds long, so bass targets within a second of a crop's
edge see the silence beyond it, as they do in the published training.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from carrara.nn.spectral.cqt import C1, CQT
from carrara.nn.spectral.cqt_target import Form, Statistics, statistics, target
from carrara.pretrain.targets._base import FrameGrid, Target, TargetSettings, on_grid


class CQTSettings(TargetSettings):
    """Which bins are reconstructed and in what form.

    Attributes:
        bins: from C1 (32.7 Hz) upwards.
        bins_per_octave: how many of them make an octave.
        form: magnitude (as published), log, or standardised over the corpus.
    """

    target: Literal["cqt"] = "cqt"
    bins: int = Field(default=336, ge=1)
    bins_per_octave: int = Field(default=48, ge=1)
    form: Form = "magnitude"


class CQTValues(Target):
    """The CQT of the student's crop on the student's frames."""

    kind = CQTSettings
    settings: CQTSettings
    bin_mean_M: Tensor
    bin_deviation_M: Tensor

    def __init__(self, settings: CQTSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        self.num_values = settings.bins
        self.cqt = CQT(grid.sample_rate, grid.hop, settings.bins, settings.bins_per_octave, C1)
        self.register_buffer("bin_mean_M", torch.zeros(settings.bins))
        self.register_buffer("bin_deviation_M", torch.ones(settings.bins))
        self.register_buffer("mean_M", torch.zeros(settings.bins))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Measure each bin over the crops; see the base class."""
        # Standardising is linear, so there the mean of the values is 0 and the magnitudes' own statistics are needed.
        form: Form = "log" if self.settings.form == "log" else "magnitude"
        found = statistics(target(self._magnitudes(samples_BT, None), form) for samples_BT in batches)
        if self.settings.form == "standardised":
            self.bin_mean_M, self.bin_deviation_M = found.mean_M, found.deviation_M
            return {"mean": float(found.mean_M.mean()), "variance": 1.0}
        self.mean_M = found.mean_M
        return {"mean": float(found.mean_M.mean()), "variance": float(found.deviation_M.square().mean())}

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the values, float32 `[B, F, M]`; see the base class."""
        known = Statistics(self.bin_mean_M, self.bin_deviation_M)
        return target(self._magnitudes(samples_BT, frames), self.settings.form, known)

    def _magnitudes(self, samples_BT: Tensor, frames: int | None) -> Tensor:
        return on_grid(self.cqt, samples_BT, self.grid, frames)


TARGET = CQTValues
