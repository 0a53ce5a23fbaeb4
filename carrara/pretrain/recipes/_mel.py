"""Settings of masked prediction on mel spectrograms that do not depend on the network, and their scales.

- Masks are blocks of 0.4 s, each with probability .6, whose samples are replaced by noise of standard deviation .1, as
  in the code of MusicFM [won2024] and MuQ [zhu2025]. BEST-RQ [chiu2022] replaces mel frames by such noise.
- A linear map gives the logits of each codebook. `RANDOM`: MusicFM's 4096 random directions, compared in a random
  projection of four standardised mel frames to 16 dimensions. `RVQ`: MuQ's eight codebooks of 1024, learned on the
  corpus before the training (targets/codes.py).
- Crops of 30 s. Batch (192 crops, 1.6 h), steps and optimiser are those of MuQ's published configuration for 32 GPUs
  [notes/pretraining §5.4]; MusicFM's are not published.
- Ours: bfloat16 and activation checkpointing, without which such a network does not fit a GPU.

`small` takes a night on one GPU: batches of 64 crops of 10 s. `tiny` takes minutes on two cores: crops of 5.12 s,
blocks of 0.2 s, no dropout, a sixteenth of the codes.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import times

RANDOM: dict[str, Any] = {
    "target": "codes",
    "source": "random-projection",
    "num_codebooks": 1,
    "codebook_size": 4096,
}
RVQ: dict[str, Any] = {"target": "codes", "source": "mel-rvq", "num_codebooks": 8, "codebook_size": 1024}
TRAINING: dict[str, Any] = {
    "masking": {"blocks": True, "mask_prob": 0.6, "mask_length": 10, "min_masks": 1, "replacement": "noise"},
    "objective": {"head": "linear", "feature_penalty": 0.0},
    "optimiser": {"learning_rate": 5e-4, "warmup_fraction": 0.08, "max_grad_norm": 10.0},
    "crop_seconds": 30.0,
    "batch": 192,
    "steps": 400_000,
    "accumulation_steps": 64,
    "precision": "bfloat16",
    "activation_checkpointing": True,
    "checkpoint_every": 5000,
    "log_every": 100,
}
MEL_SMALL: dict[str, Any] = {
    "crop_seconds": 10.0,
    "batch": 64,
    "steps": 50_000,
    "accumulation_steps": 1,
    "activation_checkpointing": False,
    "checkpoint_every": 1000,
}
MEL_TINY: dict[str, Any] = {
    **MEL_SMALL,
    "network.dropout": 0.0,
    "targets.codes.codebook_size": times(1 / 16),
    "targets.codes.learning_steps": 500,
    "masking.mask_length": 5,
    "optimiser.learning_rate": 3e-3,
    "optimiser.warmup_fraction": 0.05,
    "optimiser.max_grad_norm": 1.0,
    "precision": "float32",
    "crop_seconds": 5.12,
    "batch": 8,
    "steps": 1000,
    "checkpoint_every": 100,
    "log_every": 20,
}
