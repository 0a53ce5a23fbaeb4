"""The state of a run: what is trained, its position, and the part of it that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carrara.encoders._base import Encoder
from carrara.pretrain.distributed import Dist
from carrara.pretrain.metrics_log import MetricsLog
from carrara.pretrain.objectives._base import Objective
from carrara.pretrain.precision import LossScale
from carrara.pretrain.recipes._base import TrainingSettings
from carrara.pretrain.recovery import SpikeGuard

# An encoder → by the probe's name its "score", "low" and "high" (95 %), "metric" and "seconds".
Probe = Callable[[Encoder], Mapping[str, Mapping[str, Any]]]


@dataclass
class Run:
    """A run of any objective.

    Attributes:
        folder: folder that the run writes.
        recipe: settings of the run.
        objective: what is trained, and how its loss is computed.
        network: its module, wrapped by DistributedDataParallel where there are several ranks.
        optimiser: of the module's parameters.
        dist: the processes that train together.
        log: written by rank 0 only.
        probe, probe_every: the probe during training, None for none, and the steps between two probes.
        step: steps done; determines the learning rate.
        batch_offset: batches left out by roll-backs; a step reads the batch `step + batch_offset`.
        seconds: duration of the run so far.
        flops_per_crop: operations of the forward and backward pass of a crop, counted at the first step; 0 before it.
        scale: loss scale of float16.
        guard: recent losses and gradient norms.
    """

    folder: Path
    recipe: TrainingSettings
    objective: Objective
    network: nn.Module
    optimiser: torch.optim.Optimizer
    dist: Dist
    log: MetricsLog
    probe: Probe | None = None
    probe_every: int = 500
    step: int = 0
    batch_offset: int = 0
    seconds: float = 0.0
    flops_per_crop: float = 0.0
    scale: LossScale = field(init=False)
    guard: SpikeGuard = field(init=False)

    def __post_init__(self) -> None:
        self.scale = LossScale.of(self.recipe.precision, self.recipe.loss_scale)
        self.guard = SpikeGuard(self.recipe.recovery)

    @property
    def is_probe_due(self) -> bool:
        """Whether to probe now: every `probe_every` steps, before the first and after the last step."""
        return self.probe is not None and (self.step % self.probe_every == 0 or self.step == self.objective.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the part of a checkpoint that is not tensors."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "batch_offset": self.batch_offset,
            "flops_per_crop": self.flops_per_crop,
            "scale": None if self.scale.fixed else [self.scale.value, self.scale.clean_steps],
            "guard": self.guard.state_dict(),
            "objective": self.objective.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the part of a checkpoint that is not tensors."""
        self.step, self.seconds, self.batch_offset = state["step"], state["seconds"], state["batch_offset"]
        self.flops_per_crop = state.get("flops_per_crop", 0.0)
        # A run that changed its precision keeps the initial scale.
        if state["scale"] and not self.scale.fixed:
            self.scale.value, self.scale.clean_steps = state["scale"]
        self.guard.load_state_dict(state["guard"])
        self.objective.load_state_dict(state["objective"])
