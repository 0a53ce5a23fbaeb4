"""How MAEST's learning rate goes, epoch by epoch: a soft start, a long plateau, a straight way down, a small rest.

Encoders.md, section 1.5: up as exp(-5 (1 - e/5)²) over 5 epochs, where the first epoch counts as half an epoch; flat up
to epoch 50; in a straight line to a hundredth over 50 epochs; a hundredth to the end.
"""

from __future__ import annotations

import math

from carrara.pretrain.tagging.settings import TaggingOptimiserSettings

FIRST = 0.5  # what epoch 0 counts as, so that something is learnt in it
STEEPNESS = 5.0


def learning_rate(epoch: int, settings: TaggingOptimiserSettings) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    factor = 1.0
    if epoch < settings.warmup_epochs:
        left = 1 - min(max(epoch, FIRST), settings.warmup_epochs) / settings.warmup_epochs
        factor = math.exp(-STEEPNESS * left**2)
    gone = min(max(epoch - settings.hold_until, 0) / settings.ramp_down, 1.0)
    return settings.learning_rate * factor * (1 - (1 - settings.last) * gone)
