"""One probe's history: the plateau schedule, early stopping and the best epoch, all by the monitored validation score.

The schedule is `torch.optim.lr_scheduler.ReduceLROnPlateau` in mode "max" with factor 0.5: an epoch is good if its
score exceeds the best by 1 part in 10,000, and more than `patience` bad epochs in a row halve the rate. The stop is
Lightning's `EarlyStopping` without margin, which MARBLE uses: `stop_patience` epochs without a new best. The best epoch
is the first that reached the highest score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FACTOR = 0.5
MARGIN = 1e-4
MIN_CHANGE = 1e-8


@dataclass
class Plateau:
    """Halves the learning rate when the score no longer rises."""

    learning_rate: float
    patience: int
    best: float = -math.inf
    bad: int = 0

    def step(self, score: float) -> float:
        """Update with an epoch's score and return the learning rate of the next epoch."""
        if score > self.best * (1 + MARGIN):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.bad = 0
            if self.learning_rate * (1 - FACTOR) > MIN_CHANGE:
                self.learning_rate *= FACTOR
        return self.learning_rate


@dataclass
class ProbeHistory:
    """The losses and scores of one probe by epoch, its best epoch, and whether it has stopped.

    A loss or score that is not finite stops it; its best epoch before that counts.
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
        """Add an epoch's loss and score; return whether the score is the best so far."""
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
        """Return whether training is over."""
        epochs = len(self.scores)
        return self.diverged or epochs >= self.max_epochs or epochs - 1 - self.best_epoch >= self.stop_patience
