"""One probe's course: the plateau schedule, the early stop and the best epoch, all by the watched validation score.

The schedule is `torch.optim.lr_scheduler.ReduceLROnPlateau` in mode "max" with factor 0.5: an epoch is good when its
score exceeds the best by 1 part in 10,000, and more than `patience` bad epochs in a row halve the rate. The stop is
Lightning's `EarlyStopping` with no margin, which MARBLE uses: as many epochs as its patience without a new best. The
best epoch is the first that reached the highest score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FACTOR = 0.5
MARGIN = 1e-4
LEAST_CHANGE = 1e-8


@dataclass
class Plateau:
    """Halves the learning rate when the score stands still."""

    learning_rate: float
    patience: int
    best: float = -math.inf
    bad: int = 0

    def step(self, score: float) -> float:
        """Take an epoch's score and return the learning rate of the next epoch."""
        if score > self.best * (1 + MARGIN):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.bad = 0
            if self.learning_rate * (1 - FACTOR) > LEAST_CHANGE:
                self.learning_rate *= FACTOR
        return self.learning_rate


@dataclass
class ProbeHistory:
    """What one probe has been through: a loss and a score an epoch, its best epoch, whether it goes on.

    A loss or a score that is not finite ends it; what it reached before counts.
    """

    plateau: Plateau
    stop_patience: int
    max_epochs: int
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = -1
    diverged: bool = False

    def update(self, loss: float, score: float) -> bool:
        """Take an epoch's loss and score; return whether it is the best so far."""
        self.losses.append(loss)
        self.scores.append(score)
        if not (math.isfinite(loss) and math.isfinite(score)):
            self.diverged = True
            return False
        self.plateau.step(score)
        if score <= self.best:
            return False
        self.best, self.best_epoch = score, len(self.scores) - 1
        return True

    @property
    def stopped(self) -> bool:
        """Whether the probe has stopped."""
        epochs = len(self.scores)
        return self.diverged or epochs >= self.max_epochs or epochs - 1 - self.best_epoch >= self.stop_patience
