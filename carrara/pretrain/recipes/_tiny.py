"""Changes of `--scale tiny` and `small` to recipes of HuBERT's architecture: network, crops, batch and steps.

`tiny` takes minutes on a CPU (mert.py gives the reasons). `small` takes a day on one GPU: half the dimensions and
layers, batches that fit, an eighth of the steps. The rest stays as published. Networks shrink in proportion, so that at
every scale 330M is larger than 95M: 12 layers of 512 beside 6 of 384, and 8 of 160 beside 4 of 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carrara.pretrain.recipes._base import times


def shrink(factor: float, multiple: int) -> Callable[[int], int]:
    """Return a scale's change that multiplies the variant's value, rounded to a multiple."""
    return lambda value: multiple * round(factor * value / multiple)


SMALL: dict[str, Any] = {
    "network.conv_channels": 256,
    "network.dim": times(1 / 2),
    "network.num_layers": times(1 / 2),
    "network.num_heads": times(1 / 2),
    "network.ffn_dim": times(1 / 2),
    "batch": 64,
    "mixup.pool": 16,
    "masking.pool": 16,
    "steps": 50_000,
    "checkpoint_every": 1000,
}
TINY: dict[str, Any] = {
    **{f"network.{name}": 0.0 for name in ("dropout", "attention_dropout", "input_dropout", "layerdrop")},
    "network.conv_channels": 256,
    "network.conv_kernels": (640, 4, 2),
    "network.conv_strides": (80, 2, 2),
    "network.conv_gradient": 1.0,
    "network.norm_placement": "pre",
    # 128, 4, 4 and 512 for 95M; 160, 8, 5 and 640 for 330M.
    "network.dim": shrink(1 / 6, 32),
    "network.num_layers": times(1 / 3),
    "network.num_heads": times(1 / 3),
    "network.ffn_dim": shrink(1 / 6, 128),
    "masking.mask_prob": 0.5,
    "objective.final_dim": 32,
    "objective.feature_penalty": 0.1,
    "objective.unmasked_weight": 1.0,
    "optimiser.learning_rate": 3e-3,
    "optimiser.warmup_fraction": 0.02,
    "optimiser.max_grad_norm": 1.0,
    "crop_seconds": 1.28,
    "target_rms": 0.1,
    "precision": "float32",
    "activation_checkpointing": False,
    "batch": 8,
    "steps": 1000,
    "checkpoint_every": 100,
    "log_every": 20,
}
