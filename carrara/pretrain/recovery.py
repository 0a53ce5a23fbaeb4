"""What happens when training goes wrong: skip a step, roll back to a checkpoint, or stop at collapse.

A step whose loss or gradient is not finite is never taken; a step far above the median of the last ones is skipped
where `spike_norm` or `spike_loss` is set. After `max_consecutive_skips` the run rolls back to its last good checkpoint
and leaves out the batches since. Every skip and roll-back is an event in the log. The runs of MERT-330M died of
constant clipping, then loss spikes, then the smallest loss scale [yuan2023thesis §5.3].

Collapse is the failure of a student that predicts its own average (data2vec): all values become one. fairseq stops
where the standard deviation of the targets falls below .1, or of the predictions below .01, after 5,000 steps
[baevski2022].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from carrara.core.errors import DataError
from carrara.pretrain.recipes._base import RecoverySettings


@dataclass
class SpikeGuard:
    """The recent history of losses and gradient norms, and what is skipped because of it.

    Attributes:
        settings: thresholds.
        norms, losses: gradient norms and losses of the last steps taken, oldest first.
        consecutive_skips: steps skipped one after another.
        rollbacks: number of roll-backs so far.
    """

    settings: RecoverySettings
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    consecutive_skips: int = 0
    rollbacks: int = 0

    def skip_reason(self, loss: float, norm: float) -> str:
        """Return why a step must be skipped; empty where it may be taken."""
        settings = self.settings
        checks = (
            ("loss", loss, self.losses, settings.spike_loss),
            ("gradient norm", norm, self.norms, settings.spike_norm),
        )
        for name, value, _, _ in checks:
            if not math.isfinite(value):
                return f"{name} {value:g}"
        if len(self.norms) < settings.window:
            return ""
        for name, value, history, factor in checks:
            if factor and value > factor * median(history):
                return f"{name} {value:.4g} above {factor:g} times the median {median(history):.4g}"
        return ""

    def record(self, loss: float, norm: float) -> None:
        """Add a step that was taken to the history."""
        self.consecutive_skips = 0
        window = self.settings.window
        self.losses, self.norms = [*self.losses, loss][-window:], [*self.norms, norm][-window:]

    @property
    def should_roll_back(self) -> bool:
        """Whether too many steps were skipped one after another."""
        limit = self.settings.max_consecutive_skips
        return bool(limit) and self.consecutive_skips >= limit

    def count_rollback(self, learning_rate: float) -> None:
        """Count a roll-back.

        Args:
            learning_rate: the recipe's highest, of which the message proposes half.

        Raises:
            DataError: there were too many.
        """
        settings = self.settings
        self.consecutive_skips = 0
        self.rollbacks += 1
        if self.rollbacks > settings.max_rollbacks:
            raise DataError(
                f"the run rolled back {settings.max_rollbacks} times and fails again "
                f"({settings.max_consecutive_skips} steps skipped one after another); the log has each event; "
                f"continue with --resume --set optimiser.learning_rate={learning_rate / 2:g}, or inspect the corpus"
            )

    def check_collapse(self, metrics: Mapping[str, float], step: int, learning_rate: float) -> None:
        """Look for collapse in a line of the log.

        Args:
            metrics: the line.
            step: steps taken.
            learning_rate: the recipe's highest, of which the message proposes half.

        Raises:
            DataError: the values of a target, or the predictions of it, have become one value.
        """
        if step < self.settings.collapse_check_after:
            return
        bounds = {
            "std/target/": self.settings.min_target_std,
            "std/prediction/": self.settings.min_prediction_std,
        }
        for prefix, bound in bounds.items():
            for name, value in metrics.items():
                if name.startswith(prefix) and value < bound:
                    raise DataError(
                        f"step {step}: collapse: {name} is {value:.2g}, below {bound:g}; start anew with "
                        f"--set optimiser.learning_rate={learning_rate / 2:g}, or if it is too early to say continue "
                        f"with --resume --set recovery.collapse_check_after={2 * step}"
                    )

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain values."""
        return {
            "norms": self.norms,
            "losses": self.losses,
            "consecutive_skips": self.consecutive_skips,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the history that `state_dict` returned."""
        self.norms, self.losses = list(state["norms"]), list(state["losses"])
        self.consecutive_skips, self.rollbacks = state["consecutive_skips"], state["rollbacks"]
