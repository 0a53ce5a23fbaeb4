"""Settings of fine-tuning, for example `--set mode=lora`.

Rank and α of the adapters are MARBLE v2's [notes/benchmark §4]; the other defaults are ours, as is usual for encoders
like wav2vec 2.0 [baevski2020].
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from carrara.core.settings import Settings


class FineTuneSettings(Settings):
    """How an encoder is fine-tuned.

    Attributes:
        mode: `full` trains the encoder's own weights, `lora` low-rank adapters beside them.
        learning_rate: of the probe and of adapters.
        encoder_learning_rate: of the encoder's last layer.
        layer_decay: factor on the learning rate from one layer to the one below it.
        weight_decay: of AdamW, on matrices and kernels.
        warmup_fraction: fraction of all steps over which the learning rates rise.
        epochs: at most; a task that allows fewer has fewer.
        batch: windows of a batch.
        accumulation_steps: batches whose gradients add up to one step.
        activation_checkpointing: compute the inside of layers again for the gradient instead of storing it.
        freeze_front: freeze the convolutional front end of encoders like wav2vec 2.0.
        lora_rank, lora_alpha: r and α of the adapters.
    """

    mode: Literal["full", "lora"] = "full"
    learning_rate: float = Field(default=1e-4, gt=0)
    encoder_learning_rate: float = Field(default=2e-5, gt=0)
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=50, ge=1)
    batch: int = Field(default=16, ge=1)
    accumulation_steps: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False
    freeze_front: bool = True
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of optimiser steps of an epoch over so many examples."""
        return -(-examples // (self.batch * self.accumulation_steps))
