"""The loss of a step as terms, each a sum over crops or frames divided by a count of the whole step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

CLIPS = "clips"  # the divisor of terms that are sums over crops


@dataclass(frozen=True)
class LossTerm:
    """One term of the loss: weight · sum / divisor.

    Attributes:
        sum: over the crops or frames of some crops.
        divisor: name of the count that it is divided by.
        weight: factor of the term.
    """

    sum: Tensor
    divisor: str = CLIPS
    weight: float = 1.0


@dataclass
class Losses:
    """Terms of the loss of some crops, and further sums for the log; the names of both differ."""

    terms: dict[str, LossTerm]
    sums: dict[str, Tensor] = field(default_factory=dict)

    def loss(self, divisors: Mapping[str, float]) -> Tensor:
        """Return this part of the loss of a step with these counts."""
        parts = [term.weight * (term.sum / max(divisors[term.divisor], 1)) for term in self.terms.values()]
        return reduce(torch.add, parts)

    def all_sums(self) -> dict[str, Tensor]:
        """Return the sums of the terms and those for the log, detached."""
        return {name: term.sum.detach() for name, term in self.terms.items()} | self.sums


def merge_sums(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sums over all parts by name, in float64."""
    merged: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = merged[name] + value.double() if name in merged else value.double()
    return merged


def moments(values_SM: Tensor) -> Tensor:
    """Return number, sum and sum of squares of each column, `[3, M]`, in float64; they add up over parts."""
    values_SM = values_SM.double()
    return torch.stack([torch.ones_like(values_SM).sum(0), values_SM.sum(0), values_SM.square().sum(0)])


def mean_std(moments_3M: Tensor) -> float:
    """Return the standard deviation of each column, from `moments`, averaged over the columns."""
    count, total, squares = moments_3M
    variance = squares / count - (total / count).square()
    return float(variance.clamp(min=0).sqrt().mean())
