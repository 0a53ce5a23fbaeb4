"""Precision of a training step: float32, bfloat16, or float16 with a loss scale.

Weights, moments, norms, softmaxes, cosines and losses are always in float32; the precision is that of the matrix
products. float16 ends at 65,504 and loses values below 6e-8, so the loss is multiplied by a scale and the gradients are
divided by it. As in fairseq the scale starts at 128, halves at every overflow, doubles after 2^14 steps without one,
and the run stops below 1e-4 [notes/pretraining §3.6]. PyTorch's GradScaler looks for overflows on each rank by itself;
here the summed gradient is checked, so all ranks agree.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from carrara.core.errors import DataError
from carrara.pretrain.recipes._base import LossScaleSettings, Precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return the context of a forward pass."""
    dtype = DTYPES[precision]
    enabled = dtype is not torch.float32
    return torch.autocast(device.type, dtype if enabled else torch.bfloat16, enabled=enabled)


@dataclass
class LossScale:
    """The factor of the loss; always 1 unless the precision is float16.

    Attributes:
        settings: how the scale changes.
        fixed: whether it never changes.
        value: the scale.
        clean_steps: steps without overflow since it last changed.
    """

    settings: LossScaleSettings
    fixed: bool
    value: float
    clean_steps: int = 0

    @classmethod
    def of(cls, precision: Precision, settings: LossScaleSettings) -> LossScale:
        """Return the initial scale."""
        fixed = precision != "float16"
        return cls(settings, fixed, 1.0 if fixed else settings.initial)

    def record_success(self) -> None:
        """Count a step without overflow."""
        if self.fixed:
            return
        self.clean_steps += 1
        if self.clean_steps == self.settings.double_after:
            self.value, self.clean_steps = 2 * self.value, 0

    def record_overflow(self) -> None:
        """Halve the scale.

        Raises:
            DataError: it is so small that gradients are lost.
        """
        if self.fixed:
            return
        self.value, self.clean_steps = self.value / 2, 0
        if self.value < self.settings.smallest:
            raise DataError(
                f"the loss scale fell below {self.settings.smallest:g}: gradients overflow float16 whatever the scale; "
                "continue with --resume --set precision=bfloat16, or start anew with --set network.relaxation=32 --set "
                "network.attention=eager"
            )
