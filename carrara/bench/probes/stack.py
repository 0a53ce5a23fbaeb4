"""Many probes as one model: parameters, gradients and Adam's moments as rows of one matrix each, stepped together.

The products of a step are batched over the probe axis and write into the gradients directly; the backward pass of the
one or two linear layers is written out, and autograd is asked only for the loss's gradient at the logits, which is the
answer's business. Adam is PyTorch's fused one (Kingma & Ba 2015), called once for each learning rate in force with the
rows that use it; so a row is stepped exactly as an optimiser of its own would step it.

Letters: P probes of the stack, N parameters of a probe, B rows of a batch, D features, H hidden units (or what the
outer layer takes in their place), K outputs, L layers that a mixing probe adds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.optim.adam import adam

from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    """A matrix of flat parameters `[P, N]` seen as the probe's tensors; nothing is copied."""

    inner_PHD: Tensor
    inner_bias_PH: Tensor
    outer_PKH: Tensor
    outer_bias_PK: Tensor
    mix_PL: Tensor


def weights(flat_PN: Tensor, shape: ProbeShape) -> Weights:
    """Return the views of flat parameters, in the order of `Probe`'s own."""
    d, h, k = shape.width, shape.hidden, shape.outputs
    sizes = (h * d, h, k * shape.last, k, shape.mixed)
    inner, inner_bias, outer, outer_bias, mix = flat_PN.split(sizes, dim=1)
    return Weights(inner.unflatten(1, (h, d)), inner_bias, outer.unflatten(1, (k, shape.last)), outer_bias, mix)


def logits(flat_PN: Tensor, shape: ProbeShape, x: Tensor) -> Tensor:
    """Return the logits `[P, B, K]` of evaluation for rows `[P, B, D]`, or `[L, B, D]` if the probes mix."""
    own = weights(flat_PN, shape)
    hidden_PBH = hidden(own, shape, mixed(own, shape, x))
    return torch.baddbmm(own.outer_bias_PK[:, None], hidden_PBH, own.outer_PKH.transpose(1, 2))


def mixed(own: Weights, shape: ProbeShape, x: Tensor) -> Tensor:
    """Return what each probe hears, `[P, B, D]`."""
    if not shape.mixed:
        return x
    return (own.mix_PL.softmax(1) @ x.flatten(1)).unflatten(1, x.shape[1:])


def hidden(own: Weights, shape: ProbeShape, x_PBD: Tensor) -> Tensor:
    """Return what each probe's outer layer takes, `[P, B, H]`: the hidden units, or the features themselves."""
    if not shape.hidden:
        return x_PBD
    return torch.baddbmm(own.inner_bias_PH[:, None], x_PBD, own.inner_PHD.transpose(1, 2)).relu_()


class ProbeStack:
    """Probes of one shape that are trained together.

    Attributes:
        specs: the P points of the search that are still in the stack.
        value_PN: parameters.
    """

    def __init__(self, specs: list[ProbeSpec], shape: ProbeShape, device: torch.device) -> None:
        self.shape = shape
        self.specs = list(specs)
        start = [parameters_to_vector(initial_probe(spec, shape).parameters()).detach() for spec in specs]
        self.value_PN = torch.stack(start).to(device)
        self.gradient_PN, self.first_PN, self.second_PN = (torch.zeros_like(self.value_PN) for _ in range(3))
        self.steps_P = list(torch.zeros(len(specs), device=device))
        self.learning_rates = [spec.learning_rate for spec in specs]

    def keep(self, rows: list[int]) -> None:
        """Drop all probes but those at the given rows."""
        self.specs = [self.specs[row] for row in rows]
        self.value_PN, self.gradient_PN = self.value_PN[rows], self.gradient_PN[rows]
        self.first_PN, self.second_PN = self.first_PN[rows], self.second_PN[rows]
        self.steps_P = [self.steps_P[row] for row in rows]
        self.learning_rates = [self.learning_rates[row] for row in rows]

    def accumulate(self, rows: slice, x: Tensor, batch: Batch, loss: Loss) -> Tensor:
        """Add a batch's part of the gradient to those rows and return its part of each probe's mean loss, `[P]`."""
        shape, own = self.shape, weights(self.value_PN[rows], self.shape)
        to = weights(self.gradient_PN[rows], shape)
        beta = 0.0 if batch.first else 1.0
        x_PBD = mixed(own, shape, x)
        hidden_PBH = hidden(own, shape, x_PBD)
        if shape.hidden:
            hidden_PBH.mul_(batch.kept_BH)
        logits_PBK = torch.baddbmm(own.outer_bias_PK[:, None], hidden_PBH, own.outer_PKH.transpose(1, 2))
        loss_P, slope_PBK = _at_logits(logits_PBK, batch, loss)
        to.outer_PKH.baddbmm_(slope_PBK.transpose(1, 2), hidden_PBH, beta=beta)
        to.outer_bias_PK.mul_(beta).add_(slope_PBK.sum(1))
        slope_PBH = torch.bmm(slope_PBK, own.outer_PKH) if shape.hidden or shape.mixed else slope_PBK
        if shape.hidden:
            slope_PBH.mul_(batch.kept_BH)
            # A dropped unit's slope is zero already, so a zero in `hidden` can stand for the ReLU's closed side.
            slope_PBH = torch.ops.aten.threshold_backward(slope_PBH, hidden_PBH, 0.0)
            to.inner_PHD.baddbmm_(slope_PBH.transpose(1, 2), x_PBD, beta=beta)
            to.inner_bias_PH.mul_(beta).add_(slope_PBH.sum(1))
        if shape.mixed:
            share_PL = own.mix_PL.softmax(1)
            slope_PBD = torch.bmm(slope_PBH, own.inner_PHD) if shape.hidden else slope_PBH
            slope_PL = slope_PBD.flatten(1) @ x.flatten(1).T
            to.mix_PL.mul_(beta).add_(share_PL * (slope_PL - (slope_PL * share_PL).sum(1, keepdim=True)))
        return loss_P

    def step(self, rows: slice) -> None:
        """Let Adam take one step with the gradients of those rows."""
        groups: dict[float, list[int]] = defaultdict(list)
        for row in range(*rows.indices(len(self.specs))):
            groups[self.learning_rates[row]].append(row)
        for rate, members in groups.items():
            adam(
                [self.value_PN[row] for row in members],
                [self.gradient_PN[row] for row in members],
                [self.first_PN[row] for row in members],
                [self.second_PN[row] for row in members],
                [],
                [self.steps_P[row] for row in members],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )


@dataclass(frozen=True)
class Batch:
    """A stretch of one optimiser step: all of it, or a part where a step has too many rows to hold at once.

    Attributes:
        start, stop: its rows within the gathered block.
        share: its part of the step's rows; the parts of a step add up to 1.
        first, last: whether it opens and closes its step.
        target_B: targets of its rows, `[B, …]`.
        kept_BH: the hidden units that dropout keeps, scaled by what it drops, `[B, H]`.
    """

    start: int
    stop: int
    share: float
    first: bool
    last: bool
    target_B: Tensor
    kept_BH: Tensor


def _at_logits(logits_PBK: Tensor, batch: Batch, loss: Loss) -> tuple[Tensor, Tensor]:
    logits_PBK.requires_grad_()
    with torch.enable_grad():
        loss_P = loss(logits_PBK, batch.target_B) * batch.share
        (slope_PBK,) = torch.autograd.grad(loss_P.sum(), logits_PBK)
    return loss_P.detach(), slope_PBK
