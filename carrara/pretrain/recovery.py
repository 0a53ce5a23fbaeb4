"""What goes wrong in training, seen from its numbers, and what is done: skip a step, go back, or give up.

A step whose loss or gradient is not finite is never taken; one that is far above the median of the last steps is not
taken either where `spike_norm` or `spike_loss` asks for it. After `patience` such steps one after another the run goes
back to its last good checkpoint (one that was not written in the middle of trouble) and leaves out the batches that it
heard since, as PaLM's and OPT's authors did by hand. Each is an event in the journal. The runs of MERT-330M died of
less: constant clipping, then loss spikes, then the smallest loss scale (thesis, section 5.3).

Collapse is the failure of a student that is its own teacher (data2vec): everything becomes one value. fairseq stops
where the deviation of the targets falls below .1, or of the predictions below .01, after 5,000 steps.
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
class Watch:
    """What the last steps were like.

    Attributes:
        settings: what counts as trouble.
        norms, losses: of the last steps taken, oldest first.
        trouble: steps skipped one after another.
        rollbacks: how often the run went back.
    """

    settings: RecoverySettings
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    trouble: int = 0
    rollbacks: int = 0

    def judge(self, loss: float, norm: float) -> str:
        """Return why a step must not be taken; empty where it may be."""
        settings = self.settings
        if not math.isfinite(loss):
            return f"loss {loss:g}"
        if not math.isfinite(norm):
            return f"gradient norm {norm:g}"
        if len(self.norms) < settings.window:
            return ""
        kinds = (
            ("loss", loss, self.losses, settings.spike_loss),
            ("gradient norm", norm, self.norms, settings.spike_norm),
        )
        for name, value, last, factor in kinds:
            if factor and value > factor * median(last):
                return f"{name} {value:.4g} above {factor:g} times the median {median(last):.4g}"
        return ""

    def taken(self, loss: float, norm: float) -> None:
        """Remember a step that was taken."""
        self.trouble = 0
        window = self.settings.window
        self.losses, self.norms = [*self.losses, loss][-window:], [*self.norms, norm][-window:]

    def skipped(self) -> None:
        """Remember a step that was not taken."""
        self.trouble += 1

    @property
    def hopeless(self) -> bool:
        """Whether it is time to go back."""
        return bool(self.settings.max_consecutive_skips) and self.trouble >= self.settings.max_consecutive_skips

    def gone_back(self, reason: str) -> None:
        """Count a roll-back.

        Raises:
            DataError: there were too many.
        """
        self.trouble = 0
        self.rollbacks += 1
        if self.rollbacks > self.settings.max_rollbacks:
            raise DataError(
                f"the run went back {self.settings.max_rollbacks} times and fails again ({reason}); the journal has each "
                "event; lower optimiser.learning_rate or optimiser.max_grad_norm, or look at the corpus"
            )

    def collapse(self, line: Mapping[str, float], step: int) -> None:
        """Look for collapse in a line of the journal.

        Raises:
            DataError: a target, or the student's answers to it, have become one value.
        """
        if step < self.settings.collapse_check_after:
            return
        bounds = {
            "deviation/target/": self.settings.min_target_std,
            "deviation/prediction/": self.settings.min_prediction_std,
        }
        for prefix, least in bounds.items():
            for name, value in line.items():
                if name.startswith(prefix) and value < least:
                    raise DataError(
                        f"step {step}: collapse: {name} is {value:.2g}, below {least:g}; "
                        "lower optimiser.learning_rate, or raise recovery.collapse_check_after if it is too early to tell"
                    )

    def state(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"norms": self.norms, "losses": self.losses, "trouble": self.trouble, "rollbacks": self.rollbacks}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.norms, self.losses = list(state.get("norms", [])), list(state.get("losses", []))
        self.trouble, self.rollbacks = state.get("trouble", 0), state.get("rollbacks", 0)
