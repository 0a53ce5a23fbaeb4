"""Many probes as one model: parameters, gradients and Adam's moments are rows of one matrix each, stepped together.

The products of a step are batched over the probes and write into the gradients directly. The backward pass of the one
or two linear layers is written out; autograd computes only the gradient of the loss at the logits, which the task type
defines. Adam is PyTorch's fused one, called once for each current learning rate with the probes that use it, so each
probe takes the step that an optimiser of its own would take.

Letters: P probes, N parameters of a probe, B rows of a batch, D features, H hidden units (or the inputs of the outer
layer where there are none), K outputs, L summed layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.optim.adam import adam

from carrara.bench.probes.examples import ProbeMicroBatch
from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Weights:
    """Views of flat parameters `[P, N]` as the probe's tensors, in the order of `Probe`."""

    inner_PHD: Tensor
    inner_bias_PH: Tensor
    outer_PKH: Tensor
    outer_bias_PK: Tensor
    layer_logits_PL: Tensor

    @classmethod
    def of(cls, flat_PN: Tensor, shape: ProbeShape) -> _Weights:
        d, h, k = shape.dim, shape.hidden, shape.outputs
        sizes = (h * d, h, k * shape.outer_inputs, k, shape.num_summed)
        inner, inner_bias, outer, outer_bias, layer_logits = flat_PN.split(sizes, dim=1)
        return cls(
            inner.unflatten(1, (h, d)),
            inner_bias,
            outer.unflatten(1, (k, shape.outer_inputs)),
            outer_bias,
            layer_logits,
        )

    def sum_layers(self, x: Tensor) -> Tensor:
        """Return each probe's input `[P, B, D]`; `[L, B, D]` is summed by the probes' weights."""
        if not self.layer_logits_PL.shape[1]:
            return x
        return (self.layer_logits_PL.softmax(1) @ x.flatten(1)).unflatten(1, x.shape[1:])

    def hidden(self, x_PBD: Tensor) -> Tensor:
        """Return the inputs of the outer layer, `[P, B, H]`: hidden units, or the features themselves."""
        if not self.inner_bias_PH.shape[1]:
            return x_PBD
        return torch.baddbmm(self.inner_bias_PH[:, None], x_PBD, self.inner_PHD.transpose(1, 2)).relu_()

    def logits(self, hidden_PBH: Tensor) -> Tensor:
        return torch.baddbmm(self.outer_bias_PK[:, None], hidden_PBH, self.outer_PKH.transpose(1, 2))


def stack_logits(flat_PN: Tensor, shape: ProbeShape, x: Tensor) -> Tensor:
    """Return evaluation logits `[P, B, K]` for rows `[P, B, D]`, or `[L, B, D]` if the probes sum layers."""
    weights = _Weights.of(flat_PN, shape)
    return weights.logits(weights.hidden(weights.sum_layers(x)))


class ProbeStack:
    """Probes of one shape that are trained together.

    Attributes:
        specs: the P points of the search that are still in the stack.
        params_PN: their parameters.
    """

    def __init__(self, specs: list[ProbeSpec], shape: ProbeShape, device: torch.device) -> None:
        self.shape = shape
        self.specs = list(specs)
        initial = [parameters_to_vector(initial_probe(spec, shape).parameters()).detach() for spec in specs]
        self.params_PN = torch.stack(initial).to(device)
        self.grad_PN, self.exp_avg_PN, self.exp_avg_sq_PN = (torch.zeros_like(self.params_PN) for _ in range(3))
        self.steps_P = list(torch.zeros(len(specs), device=device))
        self.learning_rates = [spec.learning_rate for spec in specs]

    def keep(self, rows: list[int]) -> None:
        """Drop all probes except those at the given rows."""
        self.specs = [self.specs[row] for row in rows]
        self.params_PN, self.grad_PN = self.params_PN[rows], self.grad_PN[rows]
        self.exp_avg_PN, self.exp_avg_sq_PN = self.exp_avg_PN[rows], self.exp_avg_sq_PN[rows]
        self.steps_P = [self.steps_P[row] for row in rows]
        self.learning_rates = [self.learning_rates[row] for row in rows]

    def backward(self, rows: slice, x: Tensor, batch: ProbeMicroBatch, loss: Loss) -> Tensor:
        """Add a micro-batch's gradient for those rows and return its part of each probe's mean loss, `[P]`.

        Args:
            rows: which probes.
            x: inputs `[P, B, D]`, or `[L, B, D]` if the probes sum layers.
            batch: targets and dropout mask.
            loss: (logits [P, B, K], targets [B, …]) → [P].
        """
        shape = self.shape
        weights, grads = _Weights.of(self.params_PN[rows], shape), _Weights.of(self.grad_PN[rows], shape)
        beta = 0.0 if batch.first else 1.0
        x_PBD = weights.sum_layers(x)
        hidden_PBH = weights.hidden(x_PBD)
        if shape.hidden:
            hidden_PBH.mul_(batch.mask_BH)
        logits_PBK = weights.logits(hidden_PBH).requires_grad_()
        with torch.enable_grad():
            loss_P = loss(logits_PBK, batch.target_B) * batch.weight
            (grad_PBK,) = torch.autograd.grad(loss_P.sum(), logits_PBK)
        grads.outer_PKH.baddbmm_(grad_PBK.transpose(1, 2), hidden_PBH, beta=beta)
        grads.outer_bias_PK.mul_(beta).add_(grad_PBK.sum(1))
        grad_PBH = torch.bmm(grad_PBK, weights.outer_PKH) if shape.hidden or shape.num_summed else grad_PBK
        if shape.hidden:
            grad_PBH.mul_(batch.mask_BH)
            # The gradient of a dropped unit is zero already, so its zero in `hidden` may pass for a negative input.
            grad_PBH = torch.ops.aten.threshold_backward(grad_PBH, hidden_PBH, 0.0)
            grads.inner_PHD.baddbmm_(grad_PBH.transpose(1, 2), x_PBD, beta=beta)
            grads.inner_bias_PH.mul_(beta).add_(grad_PBH.sum(1))
        if shape.num_summed:
            softmax_PL = weights.layer_logits_PL.softmax(1)
            grad_PBD = torch.bmm(grad_PBH, weights.inner_PHD) if shape.hidden else grad_PBH
            grad_PL = grad_PBD.flatten(1) @ x.flatten(1).T
            grads.layer_logits_PL.mul_(beta).add_(softmax_PL * (grad_PL - (grad_PL * softmax_PL).sum(1, keepdim=True)))
        return loss_P.detach()

    def step(self, rows: slice) -> None:
        """Take one step of Adam with the gradients of those rows."""
        rows_by_rate: dict[float, list[int]] = defaultdict(list)
        for row in range(*rows.indices(len(self.specs))):
            rows_by_rate[self.learning_rates[row]].append(row)
        for rate, own in rows_by_rate.items():
            adam(
                [self.params_PN[row] for row in own],
                [self.grad_PN[row] for row in own],
                [self.exp_avg_PN[row] for row in own],
                [self.exp_avg_sq_PN[row] for row in own],
                [],
                [self.steps_P[row] for row in own],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
