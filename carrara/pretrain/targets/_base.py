"""Base class of all pretext targets: they map clean audio to the labels that the student predicts, one row per frame.

A target is frozen once it is fitted. Its labels are either class numbers of one or several codebooks (learnt by
cross-entropy) or real values (learnt by squared error). The student's frame grid says where its frames are centred, and
every target computes its features there: features centred on sample i × hop are shifted by padding in front. In the
published code labels lie up to 0.62 frame early for want of this shift [notes/pretraining §3.1].

Letters: B batch, T samples, F frames, Q codebooks, M values, D feature dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings
from carrara.encoders._frame_encoder import FrameEncoder, FrameGrid


class TargetSettings(Settings):
    """Settings that every target has.

    Attributes:
        target: name of the target (`carrara ls targets`).
        weight: of its loss.
        fraction: of the corpus's duration that it is fitted on, in random crops.
    """

    target: str
    weight: float = Field(default=1.0, ge=0)
    fraction: float = Field(default=0.1, gt=0, le=1)


class Target(nn.Module):
    """Base of all targets; a subclass sets `settings_type` and `num_classes` or `num_values`, and defines `labels`.

    Attributes:
        settings_type: class of its settings.
        num_classes: classes of each codebook; empty if the labels are values.
        num_values: values per frame; 0 if the labels are classes.
        mean_M: mean of the values over the corpus, the best constant prediction; only if the labels are values.
        use: which codebooks a step predicts: all, a random one, or the one with that number.
        causal: whether a label depends on all earlier samples, so that it may change long after the audio did.
        is_ema: whether the target changes with the student, so that every checkpoint must hold it.
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
        """Fit the target on crops `[B, T]`, each given once, and return a report; by default there is nothing to fit.

        Raises:
            CarraraError: the corpus does not suffice, for example has fewer frames than there are classes.
        """
        return {}

    def attach(self, student: FrameEncoder) -> None:
        """Give the target its student, before the first step and after a resume; by default ignored."""

    def update(self, step: int) -> None:
        """Update the target after the optimiser's step with that number; by default it stays as it is."""

    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return classes, int64 `[B, F, Q]`, or values, float32 `[B, F, M]`; F is `frames`, or less at a clip's end."""
        raise NotImplementedError


def features_on_grid(
    transform: Callable[[Tensor], Tensor], samples_BT: Tensor, grid: FrameGrid, frames: int | None
) -> Tensor:
    """Return a transform's features, which it centres on sample j × hop, on the student's frames, `[B, ≤ frames, D]`.

    Args:
        transform: samples `[B, T]` → features `[B, F, D]`.
        samples_BT: the crops.
        grid: the student's frames.
        frames: how many to return; None means all that the crops have.
    """
    first = math.ceil(grid.centre / grid.hop)
    shifted_BT = functional.pad(samples_BT, (first * grid.hop - grid.centre, 0))
    count = samples_BT.shape[-1] // grid.hop if frames is None else frames
    return transform(shifted_BT)[:, first : first + count]
