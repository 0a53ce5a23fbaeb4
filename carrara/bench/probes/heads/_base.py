"""What every head promises: logits from frozen features, each row by itself or all rows of an example together.

A head that hears frames meets an example's frames in their order, padded to the longest of a batch; what it answers
must not depend on the padding. Any other head meets rows that have nothing to do with each other. Before the head
stands, if it hears several layers, their learned sum, as in the constrained track.

Letters: L layers, B examples, F rows of an example at most, R rows of all examples, D features, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadShape:
    """What a head is built for.

    Attributes:
        width: D.
        outputs: K.
        hidden: units of a hidden layer.
        dropout: share of them that is dropped in training.
        each_row: whether every row has an answer of its own, or an example's rows have one together.
    """

    width: int
    outputs: int
    hidden: int = 512
    dropout: float = 0.2
    each_row: bool = True


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        frames: whether it hears frames in their order; otherwise each row is heard by itself.
        each_row: whether it can answer row by row.
        build: shape → network, whose forward takes features `[B, F, D]`, zero after each example's own, and which of
            the rows are there, a boolean `[B, F]`, and gives logits `[B, F, K]`, or `[B, K]` for an answer together.
    """

    frames: bool
    each_row: bool
    build: Callable[[HeadShape], nn.Module]


class Reader(nn.Module):
    """A head on one layer, or on the learned softmax-weighted sum of several, whose logits start from a normal."""

    def __init__(self, head: Head, shape: HeadShape, layers: int) -> None:
        super().__init__()
        self.each_row = shape.each_row
        self.mix = nn.Parameter(torch.randn(layers)) if layers > 1 else None
        self.head = head.build(shape)

    def forward(self, x_LRD: Tensor, known_BF: Tensor) -> Tensor:
        """Return logits `[R, K]`, or `[B, K]` where an example's rows have one answer together.

        Args:
            x_LRD: features of the examples' rows, one example after the other.
            known_BF: which places of the padded batch these rows take.
        """
        x_RD = x_LRD[0] if self.mix is None else torch.tensordot(self.mix.softmax(0), x_LRD, dims=1)
        x_BFD = x_RD.new_zeros(*known_BF.shape, x_RD.shape[1])
        x_BFD[known_BF] = x_RD
        logits = self.head(x_BFD, known_BF)
        return logits[known_BF] if self.each_row else logits


def mean_of_known(x_BFH: Tensor, known_BF: Tensor) -> Tensor:
    """Return the mean over each example's own rows, `[B, H]`."""
    share_BF = known_BF / known_BF.sum(1, keepdim=True)
    return torch.einsum("bf,bfh->bh", share_BF.to(x_BFH.dtype), x_BFH.masked_fill(~known_BF[..., None], 0))
