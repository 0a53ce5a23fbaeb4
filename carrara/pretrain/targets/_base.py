"""The promise of every pretext target: clean samples in, codes or values out, one row a frame of the student.

A target is frozen once it is fitted. It answers with codes (which class, of one or several books: cross-entropy) or
with values (what to reconstruct: squared error); the objective does not care how they came about. The student's grid
says where its frames stand, and a target puts its own features there: features centred at sample i × hop are shifted
by padding in front, so that no label is up to 0.62 frame early as in the published code (pretraining.md, section 3.1).

Letters: B batch, T samples, F frames, Q books, M bins, D feature dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings
from carrara.encoders._hubert.network import HubertEncoder


class TargetSettings(Settings):
    """What every target can be told.

    Attributes:
        target: its name on the shelf of targets.
        weight: of its loss.
        share: of the corpus's duration that it is fitted on, in random crops.
    """

    target: str
    weight: float = Field(default=1.0, ge=0)
    fraction: float = Field(default=0.1, gt=0, le=1)


@dataclass(frozen=True)
class FrameGrid:
    """Where the student's frames stand: frame i is centred on sample i × hop + centre.

    Attributes:
        sample_rate: in Hz.
        hop: samples from one frame to the next.
        centre: sample in the middle of frame 0.
    """

    sample_rate: int
    hop: int
    centre: int


class Target(nn.Module):
    """Base of all targets; a subclass gives `kind`, `books` or `bins`, `fit` and `labels`.

    Attributes:
        kind: its settings.
        books: number of classes of each label set; empty where it gives values.
        bins: values a frame; 0 where it gives codes.
        mean_M: of the values over the corpus, what a lazy student would predict; where it gives values.
        use: which of its books a step asks for: all, one drawn anew for each step, or the one of that number.
        causal: whether a label may depend on everything before it, so that it changes long after the sound did.
        moving: whether it changes while the student learns, so that each checkpoint must hold it.
    """

    settings_type: ClassVar[type[TargetSettings]]
    settings: TargetSettings
    num_classes: tuple[int, ...] = ()
    num_values: int = 0
    use: Literal["all", "random"] | int = "all"
    causal: bool = False
    is_ema: ClassVar[bool] = False
    mean_M: Tensor

    def __init__(self, settings: Any, grid: FrameGrid) -> None:
        super().__init__()
        self.settings, self.grid = settings, grid

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Learn from crops `[B, T]`, seen once each, and return a report for the journal.

        Raises:
            CarraraError: the corpus does not allow it, for example has fewer frames than there are classes.
        """
        raise NotImplementedError

    def attach(self, student: HubertEncoder) -> None:
        """Meet the student before the first step, or before a run goes on; nothing unless the target needs it."""

    def update(self, step: int) -> None:
        """Change with the student after the optimiser's step of that number; nothing unless the target moves."""

    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return codes, int64 `[B, F, Q]`, or values, float32 `[B, F, M]`; F is `frames`, or fewer if the clip ends."""
        raise NotImplementedError


def on_grid(transform: Callable[[Tensor], Tensor], samples_BT: Tensor, grid: FrameGrid, frames: int | None) -> Tensor:
    """Return features that a transform centres at sample j × hop, moved to the student's frames, `[B, ≤ frames, D]`."""
    first = math.ceil(grid.centre / grid.hop)
    shifted_BT = functional.pad(samples_BT, (first * grid.hop - grid.centre, 0))
    whole = samples_BT.shape[-1] // grid.hop
    return transform(shifted_BT)[:, first : first + (whole if frames is None else frames)]
