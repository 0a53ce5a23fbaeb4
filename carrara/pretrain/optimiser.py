"""AdamW, Muon and learning-rate schedules: fairseq's linear decay and three stages, and a cosine."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from carrara.core.errors import UsageError
from carrara.pretrain.recipes._base import AdamWSettings, OptimiserSettings

# The three-stage schedule starts and ends at this fraction of the peak.
TRI_STAGE_FLOOR = 0.01
# Modules before the Transformer that learn: convolutions on samples (HuBERT's name for them) and on mel bands.
FRONT_ENDS = ("feature_extractor", "subsampling_module")
# What the layers of a Transformer are in; Muon is for their matrices.
LAYERS = ("layers", "blocks")


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others, with one list of groups and one state.

    Args:
        muon, adam: the two; their groups are of different parameters.
    """

    def __init__(self, muon: torch.optim.Muon, adam: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adam.param_groups], {})
        self.parts = (muon, adam)
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step of both, and return the closure's loss."""
        muon, adam = self.parts
        loss = muon.step(closure)
        adam.step()
        return loss


def build_optimiser(model: nn.Module, settings: AdamWSettings) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe's settings, see `AdamWSettings`.

    Raises:
        UsageError: a setting that does not fit the network.
    """
    if settings.name == "adamw":
        return adamw(model, settings)
    matrices = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and set(name.split(".")) & set(LAYERS)
    }
    if not matrices:
        raise UsageError(
            "optimiser.name=muon is for the matrices of a Transformer, which this network has not; give --set "
            "optimiser.name=adamw"
        )
    muon = torch.optim.Muon(
        [{"params": list(matrices.values()), "rate_factor": 1.0}],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonWithAdamW(muon, adamw(model, settings, leave_out=matrices))


def adamw(model: nn.Module, settings: AdamWSettings, leave_out: Collection[str] = ()) -> torch.optim.AdamW:
    """Return fused AdamW with weight decay on every parameter, biases and norms too, as in fairseq.

    With a `front_end_factor` other than 1 the front end is the second group of parameters. Each group has its factor of
    the scheduled rate as `rate_factor`.

    Args:
        model: whose parameters are trained.
        settings: of the recipe.
        leave_out: names of parameters that it does not get.

    Raises:
        UsageError: a factor for a network without a front end.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if name not in leave_out}
    groups: list[dict[str, Any]] = [{"params": list(parameters.values()), "rate_factor": 1.0}]
    if settings.front_end_factor != 1:
        rest: list[nn.Parameter] = []
        front_end: list[nn.Parameter] = []
        for name, parameter in parameters.items():
            (front_end if set(name.split(".")) & set(FRONT_ENDS) else rest).append(parameter)
        if not front_end:
            raise UsageError(
                "optimiser.front_end_factor: this network has no convolutions before its Transformer; leave it at 1"
            )
        groups = [
            {"params": rest, "rate_factor": 1.0},
            {"params": front_end, "rate_factor": settings.front_end_factor},
        ]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def scheduled_rate(step: int, steps: int, settings: OptimiserSettings) -> float:
    """Return the learning rate of a step (from 0) in a run of `steps` steps."""
    if settings.hold_fraction is not None:
        return tri_stage(step, steps, settings.learning_rate, settings.warmup_fraction, settings.hold_fraction)
    warmup, from_zero = settings.warmup_fraction, settings.warmup_from_zero
    return linear_decay(step, steps, settings.learning_rate, warmup, from_zero)


def linear_decay(step: int, steps: int, peak: float, warmup: float, from_zero: bool = False) -> float:
    """Return the rate of a step: a linear warm-up to the peak, then a linear decay to 0 [notes/pretraining §3.6].

    Args:
        step: number of the step, from 0.
        steps: steps of the whole run; the rate reaches 0 there.
        peak: rate at the end of the warm-up.
        warmup: fraction of the steps that the warm-up takes.
        from_zero: whether the warm-up starts at rate 0, as in fairseq, instead of one step later.
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return peak * (step if from_zero else step + 1) / warmup_steps
    return peak * ((steps - step) / (steps - warmup_steps))


def tri_stage(step: int, steps: int, peak: float, warmup: float, hold: float) -> float:
    """Return the rate of a step: linear warm-up from a hundredth, constant, exponential decay to a hundredth.

    The schedule of wav2vec 2.0 and data2vec [notes/pretraining §3.7].

    Args:
        step: number of the step, from 0.
        steps: steps of the whole run.
        peak: rate while it is constant.
        warmup, hold: fractions of the steps; the rest is the decay.
    """
    warmup_steps, hold_steps = round(warmup * steps), round(hold * steps)
    if step < warmup_steps:
        return peak * (TRI_STAGE_FLOOR + (1 - TRI_STAGE_FLOOR) * step / warmup_steps)
    decay_steps = steps - warmup_steps - hold_steps
    if decay_steps <= 0:
        return peak
    return float(peak * TRI_STAGE_FLOOR ** (max(step - warmup_steps - hold_steps, 0) / decay_steps))


def cosine_decay(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the rate of a step: a linear warm-up to the peak, then half a cosine to 0 [he2022].

    Args:
        step: number of the step, from 0.
        steps: steps of the whole run; the rate reaches 0 there.
        peak: rate at the end of the warm-up.
        warmup: fraction of the steps that the warm-up takes.
    """
    warmup_steps = round(warmup * steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))
