"""The state of a pre-training run: model, data, position, and the part of it that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carrara.encoders._base import Encoder
from carrara.pretrain.corpus.label_store import LabelStore
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.dist import Dist
from carrara.pretrain.metrics_log import MetricsLog
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.precision import LossScale
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.recovery import SpikeGuard
from carrara.pretrain.targets._base import Target

# An encoder → by the probe's name its "score", "low" and "high" (95 %), "metric" and "seconds".
Probe = Callable[[Encoder], Mapping[str, Mapping[str, Any]]]


@dataclass
class Run:
    """A run of masked prediction.

    Attributes:
        folder: folder of the encoder that the run writes.
        recipe, model, optimiser, targets: what is trained and how.
        stream: batches of crops.
        log: written by rank 0 only.
        device: device of the model.
        num_frames: frames of a crop for which every target has labels.
        dist: the processes that train together.
        label_stores: labels of whole files, for the targets that have them.
        probe, probe_every: the probe during training, None for none, and the steps between two probes.
        init_summary: which weights the run started from; empty for random ones.
        step: steps done; determines the learning rate.
        batch_offset: batches left out by roll-backs; a step reads the batch `step + batch_offset`.
        seconds: duration of the run so far.
        scale: loss scale of float16.
        guard: recent losses and gradient norms.
    """

    folder: Path
    recipe: Recipe
    model: MaskedPrediction
    optimiser: torch.optim.Optimizer
    targets: dict[str, Target]
    stream: CropStream
    log: MetricsLog
    device: torch.device
    num_frames: int
    dist: Dist = field(default_factory=Dist)
    label_stores: Mapping[str, LabelStore] = field(default_factory=dict)
    probe: Probe | None = None
    probe_every: int = 500
    init_summary: str = ""
    step: int = 0
    batch_offset: int = 0
    seconds: float = 0.0
    scale: LossScale = field(init=False)
    guard: SpikeGuard = field(init=False)

    def __post_init__(self) -> None:
        self.scale = LossScale.of(self.recipe.precision, self.recipe.loss_scale)
        self.guard = SpikeGuard(self.recipe.recovery)

    @property
    def probe_is_due(self) -> bool:
        """Whether to probe now: every `probe_every` steps, before the first and after the last step."""
        return self.probe is not None and (self.step % self.probe_every == 0 or self.step == self.recipe.steps)

    def ema_targets(self) -> dict[str, nn.Module]:
        """Return the targets that average the student's weights, which a checkpoint must hold."""
        return {name: target for name, target in self.targets.items() if target.is_ema}

    def state_dict(self) -> dict[str, Any]:
        """Return the part of a checkpoint that is not tensors."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "batch_offset": self.batch_offset,
            "scale": [self.scale.value, self.scale.clean_steps],
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the part of a checkpoint that is not tensors."""
        self.step, self.seconds, self.batch_offset = state["step"], state["seconds"], state["batch_offset"]
        self.scale.value, self.scale.clean_steps = state["scale"]
        self.guard.load_state_dict(state["guard"])
