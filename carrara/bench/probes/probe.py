"""The probe: one hidden layer of 512 units over frozen features, and nothing else (MARBLE's constrained track).

Linear, ReLU, dropout, Linear; a probe of several layers first adds them, weighted by a learned softmax whose logits
start from a standard normal, as MARBLE v1 does. Here all layers take part, row 0 too, as the thesis says; v1's code
drops row 0 from the sum. Initial weights are uniform within 1/√fan-in, PyTorch's own for a linear layer. A shape of no
hidden units is the linear probe: the outer layer alone, on the features themselves.

This is a probe as anyone would write it. The grid (`carrara.bench.probes.grid`) trains many at once, and a test holds
it equal to this one; `parameters_to_vector` of this module is the order of the grid's flat parameters.

Letters: B rows, D features, H hidden units, K outputs, L layers that are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carrara.bench.probes.rng import initial_generator


@dataclass(frozen=True)
class ProbeSpec:
    """One point of the search: the layer's name, the layers that are added (one: that layer alone), a learning rate.

    The seed gives the initial weights, the order of the examples and the dropped units.
    """

    layer: str
    sources: tuple[str, ...]
    learning_rate: float
    seed: int = 1234


@dataclass(frozen=True)
class ProbeShape:
    """D, H (0: no hidden layer), K, the share of hidden units that dropout drops, and L (0: one layer is heard)."""

    width: int
    hidden: int
    outputs: int
    dropout: float
    mixed: int = 0

    @property
    def last(self) -> int:
        """How many values the outer layer takes: H, or D where there is no hidden layer."""
        return self.hidden or self.width


class Probe(nn.Module):
    """One probe with weights drawn from a generator."""

    def __init__(self, shape: ProbeShape, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = shape.dropout
        self.hidden = shape.hidden
        self.inner_weight = _uniform((shape.hidden, shape.width), shape.width, generator)
        self.inner_bias = _uniform((shape.hidden,), shape.width, generator)
        self.outer_weight = _uniform((shape.outputs, shape.last), shape.last, generator)
        self.outer_bias = _uniform((shape.outputs,), shape.last, generator)
        self.mix = nn.Parameter(torch.randn(shape.mixed, generator=generator)) if shape.mixed else None

    def forward(self, x: Tensor, kept_BH: Tensor | None = None) -> Tensor:
        """Return logits `[B, K]`.

        Args:
            x: features `[B, D]`, or `[L, B, D]` for a probe that adds layers.
            kept_BH: which hidden units dropout keeps, in training; none in evaluation, where all stay.
        """
        x_BD = x if self.mix is None else torch.tensordot(self.mix.softmax(0), x, dims=1)
        if not self.hidden:
            return F.linear(x_BD, self.outer_weight, self.outer_bias)
        hidden_BH = F.relu(F.linear(x_BD, self.inner_weight, self.inner_bias))
        if kept_BH is not None:
            hidden_BH = hidden_BH * kept_BH / (1 - self.dropout)
        return F.linear(hidden_BH, self.outer_weight, self.outer_bias)


def initial_probe(spec: ProbeSpec, shape: ProbeShape) -> Probe:
    """Return the probe of a point of the search as it is before training."""
    return Probe(shape, initial_generator(spec.seed, spec.layer, spec.learning_rate))


def _uniform(size: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(size).uniform_(-bound, bound, generator=generator))
