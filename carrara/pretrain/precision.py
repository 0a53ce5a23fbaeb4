"""In what numbers a step is computed: single precision, bfloat16, or float16 with a loss scale.

Weights, moments, norms, softmaxes, cosines and losses are in single precision always; the others are for the matrix
products. float16 ends at 65,504 and loses what is below 6e-8, so the loss is multiplied before the gradients are taken
and they are divided again. As in fairseq (pretraining.md, section 3.6): start at 128, halve at every overflow, double
after 2^14 clean steps, give up below 1e-4. torch's GradScaler does the same but looks for overflows on each rank by
itself; here the gradient is judged after it was summed, so all ranks agree.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from carrara.core.errors import DataError
from carrara.pretrain.recipes._base import LossScaleSettings, Precision

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return the context in which a forward pass is computed."""
    kind = KINDS[precision]
    enabled = kind is not torch.float32
    return torch.autocast(device.type, kind if enabled else torch.bfloat16, enabled=enabled)


@dataclass
class LossScale:
    """What the loss is multiplied by, and how that goes; 1 for ever unless the precision is float16.

    Attributes:
        value: the scale.
        clean: steps since it last changed.
    """

    settings: LossScaleSettings
    fixed: bool
    value: float
    clean: int = 0

    @classmethod
    def of(cls, precision: Precision, settings: LossScaleSettings) -> LossScale:
        """Return the scale that a run begins with."""
        fixed = precision != "float16"
        return cls(settings, fixed, 1.0 if fixed else settings.initial)

    def clear(self) -> None:
        """Count a step that did not overflow."""
        if self.fixed:
            return
        self.clean += 1
        if self.clean == self.settings.double_after:
            self.value, self.clean = 2 * self.value, 0

    def overflow(self) -> None:
        """Halve the scale.

        Raises:
            DataError: it is so small that gradients are lost; the training has gone wrong.
        """
        if self.fixed:
            return
        self.value, self.clean = self.value / 2, 0
        if self.value < self.settings.smallest:
            raise DataError(
                f"the loss scale fell below {self.settings.smallest:g}: gradients overflow float16 whatever the scale; "
                "resume is of no use; try precision=bfloat16, network.relaxation=32 with network.attention=eager, or "
                "a smaller optimiser.max_grad_norm"
            )
