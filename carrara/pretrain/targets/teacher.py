"""A slow average of the student as its own teacher: what data2vec and Music2Vec predict.

data2vec (Baevski et al. 2022, arXiv 2202.03555, section 3; fairseq's code where it says more, pretraining.md 3.7): the
teacher is the student's Transformer with averaged weights; it hears the clip unmasked, through the student's own
convolutions and projection. From each of the top K layers comes the feed-forward network's output before its residual,
brought to mean 0 and variance 1 over time in every channel; their mean is what the student must give at the frames that
it does not see. The average's decay rises in a straight line from 0.999 to 0.9999 over 30,000 steps. Positional
convolutions are copied, not averaged; the norms are averaged. No dropout, single precision.

data2vec's loss is the squared error summed over the D values and divided by √D; with a mean over the values, as here,
that is a `weight` of √D. There are no negatives, so the failure is collapse: the journal watches the variance of what
is taught and of what is answered.

Letters: B batch, T samples, F frames, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.encoders._hubert.network import HubertEncoder
from carrara.nn.transformer.encoder import Transformer
from carrara.pretrain.targets._base import FrameGrid, Target, TargetSettings

LEAST_VARIANCE = 1e-5
POSITIONS = "pos_conv_embed."
# What of a teacher's state needs no keeping: it follows from the student.
FOLLOWING = ("mean_M", f"average.{POSITIONS}")


class TeacherSettings(TargetSettings):
    """How the average goes and what it teaches.

    Attributes:
        top: how many of the last layers are averaged (K).
        decay, last_decay: of the average, at the first step and from `decay_steps` on.
        decay_steps: over which it rises in a straight line.
    """

    target: Literal["teacher"] = "teacher"
    top: int = Field(default=8, ge=1)
    decay: float = Field(default=0.999, ge=0, lt=1)
    last_decay: float = Field(default=0.9999, ge=0, lt=1)
    decay_steps: int = Field(default=30_000, ge=1)


class Teacher(Target):
    """The average; `begin` gives it the student, `follow` moves it after each step."""

    kind = TeacherSettings
    settings: TeacherSettings
    moving = True

    def __init__(self, settings: TeacherSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        self.average: Transformer | None = None
        # In a list, so that the student is no part of this module.
        self._student: list[HubertEncoder] = []

    def begin(self, student: HubertEncoder) -> None:
        """Take a copy of the student as the first average.

        Raises:
            UsageError: more layers are to be averaged than there are.
        """
        layers = student.settings.num_layers
        if self.settings.top > layers:
            raise UsageError(f"target teacher: top={self.settings.top}, but the network has {layers} layers")
        self._student = [student]
        self.average = copy.deepcopy(student.encoder).float().requires_grad_(False).eval()
        self.num_values = student.settings.dim
        self.register_buffer("mean_M", torch.zeros(self.num_values, device=next(student.parameters()).device))

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, Any]:
        """Return an empty report: there is nothing to fit."""
        return {}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the student; see the base class."""
        decay = self.decay_at(step)
        slow, fast = self._average().state_dict(), self._student[0].encoder.state_dict()
        for name, value in slow.items():
            if name.startswith(POSITIONS):
                value.copy_(fast[name])
            else:
                value.lerp_(fast[name].to(value.dtype), 1 - decay)

    def decay_at(self, step: int) -> float:
        """Return the decay of a step."""
        settings = self.settings
        share = min(step / settings.decay_steps, 1.0)
        return settings.decay + (settings.last_decay - settings.decay) * share

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return what the student must give, float32 `[B, F, D]`; see the base class."""
        student, average = self._student[0], self._average()
        heard: list[Tensor] = []
        last = len(average.layers)
        hooks = [
            average.get_submodule(f"layers.{number}.feed_forward").register_forward_hook(
                lambda module, given, out: heard.append(out)
            )
            for number in range(last - self.settings.top, last)
        ]
        try:
            with torch.autocast(samples_BT.device.type, enabled=False):
                average(student.feature_projection(student.front(samples_BT).float()))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([normalised(one_BFD) for one_BFD in heard]).mean(0)[:, :frames]

    def _average(self) -> Transformer:
        if self.average is None:
            raise ValueError("the teacher has no student yet")
        return self.average


def normalised(x_BFD: Tensor) -> Tensor:
    """Return each channel of each clip with mean 0 and variance 1 over time; one that never varies becomes 0."""
    centred_BFD = x_BFD - x_BFD.mean(dim=1, keepdim=True)
    variance_B1D = centred_BFD.square().mean(dim=1, keepdim=True)
    return centred_BFD / (variance_B1D + LEAST_VARIANCE).sqrt()


TARGET = Teacher
