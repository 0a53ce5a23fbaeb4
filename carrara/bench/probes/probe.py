"""The probe of MARBLE's constrained track: one hidden layer of 512 units over frozen features.

Linear, ReLU, dropout, Linear. A probe of several layers first sums them, weighted by a learned softmax whose logits are
drawn from a standard normal, as in MARBLE v1 [yuan2023]; all layers take part, row 0 too, as in [yuan2023thesis] (v1's
code leaves row 0 out). Initial weights are uniform within 1/√fan-in, PyTorch's default for a linear layer. With no
hidden units it is the linear probe: the outer layer alone.

This is the probe as a plain module. The grid (`carrara.bench.probes.grid`) trains many at once, and a test holds it
equal to this one; `parameters_to_vector` of this module is the order of the grid's flat parameters.

Letters: B rows, D features, H hidden units, K outputs, L summed layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carrara.bench.probes.rng import initial_generator


@dataclass(frozen=True)
class ProbeSpec:
    """One point of the search.

    Attributes:
        layer: name of the layer, or of the sum.
        sources: the layers that are summed; with a single one, that layer alone.
        learning_rate: at the start.
        seed: of the initial weights, the order of the examples and dropout.
    """

    layer: str
    sources: tuple[str, ...]
    learning_rate: float
    seed: int = 1234


@dataclass(frozen=True)
class ProbeShape:
    """D, H (0: no hidden layer), K, the fraction of hidden units that dropout drops, and L (0: a single layer)."""

    dim: int
    hidden: int
    outputs: int
    dropout: float
    num_summed: int = 0

    @property
    def outer_inputs(self) -> int:
        """Return how many values the outer layer takes: H, or D where there is no hidden layer."""
        return self.hidden or self.dim


class Probe(nn.Module):
    """One probe with weights drawn from a generator."""

    def __init__(self, shape: ProbeShape, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.hidden = shape.hidden
        self.inner_weight = _uniform((shape.hidden, shape.dim), shape.dim, generator)
        self.inner_bias = _uniform((shape.hidden,), shape.dim, generator)
        self.outer_weight = _uniform((shape.outputs, shape.outer_inputs), shape.outer_inputs, generator)
        self.outer_bias = _uniform((shape.outputs,), shape.outer_inputs, generator)
        self.mix = nn.Parameter(torch.randn(shape.num_summed, generator=generator)) if shape.num_summed else None

    def forward(self, x: Tensor, mask_BH: Tensor | None = None) -> Tensor:
        """Return logits `[B, K]`.

        Args:
            x: features `[B, D]`, or `[L, B, D]` for a probe that sums layers.
            mask_BH: which hidden units dropout keeps; None in evaluation, where all stay.
        """
        x_BD = x if self.mix is None else torch.tensordot(self.mix.softmax(0), x, dims=1)
        if not self.hidden:
            return F.linear(x_BD, self.outer_weight, self.outer_bias)
        hidden_BH = F.relu(F.linear(x_BD, self.inner_weight, self.inner_bias))
        if mask_BH is not None:
            hidden_BH = hidden_BH * mask_BH / (1 - self.dropout)
        return F.linear(hidden_BH, self.outer_weight, self.outer_bias)


def initial_probe(spec: ProbeSpec, shape: ProbeShape) -> Probe:
    """Return the probe of a point of the search before training."""
    return Probe(shape, initial_generator(spec.seed, spec.layer, spec.learning_rate))


def _uniform(size: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(size).uniform_(-bound, bound, generator=generator))
