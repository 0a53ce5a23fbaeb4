"""Changes of `--scale tiny` and `small` to recipes of HuBERT's architecture: network, crops, batch and steps.

`tiny` takes minutes on a CPU (mert.py gives the reasons). `small` takes a day on one GPU: half the dimensions and
layers, batches that fit, an eighth of the steps. The rest stays as published.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "network.conv_channels": 256,
    "network.dim": 384,
    "network.num_layers": 6,
    "network.num_heads": 6,
    "network.ffn_dim": 1536,
    "batch": 64,
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
    "network.dim": 128,
    "network.num_layers": 4,
    "network.num_heads": 4,
    "network.ffn_dim": 512,
    "masking.mask_prob": 0.5,
    "objective.final_dim": 32,
    "objective.feature_penalty": 0.1,
    "objective.unmasked_weight": 1.0,
    "optimiser.learning_rate": 3e-3,
    "optimiser.warmup_fraction": 0.02,
    "optimiser.max_grad_norm": 1.0,
    "crop_seconds": 1.28,
    "target_rms": 0.1,
    "batch": 8,
    "steps": 1000,
    "checkpoint_every": 100,
    "log_every": 20,
}
