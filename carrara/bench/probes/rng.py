"""The random draws of probe training: initial weights, order of the examples, dropout.

Each draw has a generator of its own, seeded by its purpose, so a probe trained among a hundred others and the same
probe trained alone see the same order and the same dropout masks: (seed, epoch) give the order, (seed, epoch, step) the
masks, (seed, layer, learning rate) the initial weights. All are drawn on the CPU, whatever the device.

Letters: N examples, B rows of a batch, H hidden units.
"""

from __future__ import annotations

import numpy as np
import torch

from carrara.core.hashing import sha256_of_json

ORDER_STREAM, DROPOUT_STREAM = 1, 2


def epoch_permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Return the order of the examples in an epoch, `[N]`."""
    return np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(examples)


def dropout_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """Return the generator of one step's dropout; each call of `dropout_mask` on it continues the step's rows."""
    return np.random.default_rng([seed, DROPOUT_STREAM, epoch, step])


def dropout_mask(generator: np.random.Generator, rows: int, hidden: int, dropout: float) -> np.ndarray:
    """Return which hidden units the next rows of a step keep, a boolean `[B, H]`."""
    return generator.random((rows, hidden), dtype=np.float32) >= dropout


def initial_generator(seed: int, layer: str, learning_rate: float) -> torch.Generator:
    """Return the generator of one probe's initial weights."""
    return torch.Generator().manual_seed(int(sha256_of_json([seed, layer, learning_rate])[:15], 16))
