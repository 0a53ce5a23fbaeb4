"""One training in the making: what is trained, on what, where it stands, and what of that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carrara.pretrain.corpus.label_store import LabelStore
from carrara.pretrain.corpus.stream import Stream
from carrara.pretrain.dist import Ranks
from carrara.pretrain.metrics_log import Journal
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.precision import LossScale
from carrara.pretrain.probes import Probes
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.recovery import Watch
from carrara.pretrain.targets._base import Target


@dataclass
class Run:
    """What is trained, on what, where it stands.

    Attributes:
        folder: of the encoder to be made.
        recipe, model, optimiser, targets: what is trained and how.
        stream: batches, or this rank's share of each.
        journal: written by the first rank only.
        device: where the model is.
        frames: of a crop that every target has labels for.
        ranks: the processes that train together.
        stores: labels of whole files, by target, for those that are told to have them.
        probes: what is asked on the way.
        told: what it started from, in a line; empty: random weights.
        step: steps done; decides the learning rate.
        left_out: batches that roll-backs have left out; a step hears the batch of number `step + left_out`.
        seconds: of the whole run so far.
        scale: of the loss, in float16.
        watch: what happened lately.
    """

    folder: Path
    recipe: Recipe
    model: MaskedPrediction
    optimiser: torch.optim.Optimizer
    targets: dict[str, Target]
    stream: Stream
    journal: Journal
    device: torch.device
    frames: int
    ranks: Ranks = field(default_factory=Ranks)
    stores: Mapping[str, LabelStore] = field(default_factory=dict)
    probes: Probes = field(default_factory=Probes)
    told: str = ""
    step: int = 0
    left_out: int = 0
    seconds: float = 0.0
    scale: LossScale = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.scale = LossScale.of(self.recipe.precision, self.recipe.loss_scale)
        self.watch = Watch(self.recipe.recovery)

    def moving(self) -> dict[str, nn.Module]:
        """Return the targets that change with the student, which a checkpoint must hold."""
        return {name: target for name, target in self.targets.items() if target.is_ema}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside tensors."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "left_out": self.left_out,
            "scale": [self.scale.value, self.scale.clean],
            "monitor": self.watch.state(),
        }

    def recall(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds beside tensors; checkpoints of earlier versions hold less."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.left_out = state.get("left_out", 0)
        self.scale.value, self.scale.clean = state.get("scale", [self.scale.value, 0])
        self.watch.recall(state.get("watch", {}))
