"""An exponential moving average of the student as its own teacher: the target of data2vec and Music2Vec.

The teacher is the student's Transformer with averaged weights [baevski2022 §3]; fairseq's code decides where the paper
says less [notes/pretraining §3.7]. It receives the unmasked crop through the student's own convolutions and projection.
The output of the feed-forward network, before the residual sum, is taken from each of the top K layers and normalised
to mean 0 and variance 1 over time in every channel; the mean over these layers is what the student predicts at masked
frames. The decay rises linearly from 0.999 to 0.9999 over 30,000 steps. Positional convolutions are copied, not
averaged; layer norms are averaged. There is no dropout, and all is computed in single precision.

data2vec sums the squared error over the D channels and divides it by √D. The loss here is a mean over channels, so the
same is a `weight` of √D. There are no negatives, so training can collapse: the log holds the standard deviation of
targets and predictions.

Letters: B batch, T samples, F frames, D channels.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.encoders._frame_encoder import FrameEncoder, FrameGrid
from carrara.nn.transformer.conformer import Conformer
from carrara.nn.transformer.encoder import Transformer
from carrara.nn.transformer.vit import PatchTransformer
from carrara.pretrain.targets._base import Target, TargetSettings

MIN_VARIANCE = 1e-5
POSITIONS = "pos_conv_embed."
# Parts of the teacher's state that are not saved, because they follow from the student.
DERIVED_STATE = ("mean_M", f"average.{POSITIONS}")


class TeacherSettings(TargetSettings):
    """How the weights are averaged and which layers are predicted.

    Attributes:
        top_layers: how many of the last layers are averaged into the target (K).
        decay, end_decay: of the weights' average, at the first step and from step `decay_steps` on.
        decay_steps: steps over which the decay rises linearly.
    """

    target: Literal["teacher"] = "teacher"
    top_layers: int = Field(default=8, ge=1)
    decay: float = Field(default=0.999, ge=0, lt=1)
    end_decay: float = Field(default=0.9999, ge=0, lt=1)
    decay_steps: int = Field(default=30_000, ge=1)


class _Teacher(Target):
    settings_type = TeacherSettings
    settings: TeacherSettings
    is_ema = True
    average: Transformer | Conformer

    def __init__(self, settings: TeacherSettings, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        # In a list, so that the student is not a submodule.
        self._students: list[FrameEncoder] = []

    def attach(self, student: FrameEncoder) -> None:
        """Copy the student's Transformer as the first average.

        Raises:
            UsageError: the student has fewer layers than the target averages, or is a patch Transformer.
        """
        if isinstance(student.stack, PatchTransformer):
            raise UsageError(
                "target teacher averages HuBERT's shape and conformers; on patches `carrara pretrain m2d` learns from "
                "such an average"
            )
        layers = student.card.num_layers
        if self.settings.top_layers > layers:
            raise UsageError(
                f"target teacher: top_layers={self.settings.top_layers}, but the network has {layers} layers; give "
                f"--set targets.teacher.top_layers={layers}"
            )
        self._students = [student]
        self.average = copy.deepcopy(student.stack).float().requires_grad_(False).eval()
        self.num_values = student.card.dim
        self.register_buffer("mean_M", torch.zeros(self.num_values, device=next(student.parameters()).device))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the student; see the base class."""
        decay = self.decay_at(step)
        current = self._students[0].stack.state_dict()
        for name, value in self.average.state_dict().items():
            if name.startswith(POSITIONS) or not value.is_floating_point():
                value.copy_(current[name])
            else:
                value.lerp_(current[name].to(value.dtype), 1 - decay)

    def decay_at(self, step: int) -> float:
        """Return the decay of a step."""
        settings = self.settings
        progress = min(step / settings.decay_steps, 1.0)
        return settings.decay + (settings.end_decay - settings.decay) * progress

    @torch.no_grad()
    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return the values that the student predicts, float32 `[B, F, D]`; see the base class."""
        student = self._students[0]
        is_training, outputs = student.training, list[Tensor]()
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
            for module in self.average.feed_forwards()[-self.settings.top_layers :]
        ]
        student.eval()  # so that batch norms of the front end, where there are any, do not count this pass
        try:
            with torch.autocast(samples_BT.device.type, enabled=False):
                self.average(student.project(student.conv_features(samples_BT).float()))
        finally:
            student.train(is_training)
            for hook in hooks:
                hook.remove()
        return torch.stack([_normalise(output_BFD) for output_BFD in outputs]).mean(0)[:, :frames]


def _normalise(x_BFD: Tensor) -> Tensor:
    """Return each channel of each clip with mean 0 and variance 1 over time; a constant channel becomes 0."""
    centred_BFD = x_BFD - x_BFD.mean(dim=1, keepdim=True)
    variance_B1D = centred_BFD.square().mean(dim=1, keepdim=True)
    return centred_BFD / (variance_B1D + MIN_VARIANCE).sqrt()


TARGET = _Teacher
