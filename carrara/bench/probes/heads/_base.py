"""The interface of heads: logits from frozen features, for each row or for all rows of an example together.

A head that reads frames gets an example's frames in their order, padded to the longest of a batch; its logits must not
depend on the padding. Any other head gets rows that are independent of each other. If the head reads several layers,
their learned weighted sum comes first, as in the constrained track.

Letters: L layers, B examples, F rows of an example at most, R rows of all examples, D features, H hidden units, K
outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadShape:
    """The dimensions of a head.

    Attributes:
        dim: D.
        outputs: K.
        hidden: units of a hidden layer.
        dropout: fraction of them that is dropped in training.
        each_row: whether every row has its own logits, or an example's rows have them together.
    """

    dim: int
    outputs: int
    hidden: int = 512
    dropout: float = 0.2
    each_row: bool = True


@dataclass(frozen=True)
class Head:
    """One kind of head.

    Attributes:
        frames: whether it reads frames in their order; otherwise each row is independent.
        each_row: whether it can give logits for each row.
        build: shape → network, whose forward takes features `[B, F, D]`, zero after each example's own rows, and which
            rows are valid, a boolean `[B, F]`, and returns logits `[B, F, K]`, or `[B, K]` for an example together.
        estimator: (task type, C) → an estimator of scikit-learn, in place of a network.
        task_types: that the estimator can learn; empty for all.
        max_examples: most training examples that it takes; 0 for any number.
    """

    frames: bool
    each_row: bool
    build: Callable[[HeadShape], nn.Module] | None = None
    estimator: Callable[[str, float], Any] | None = None
    task_types: tuple[str, ...] = ()
    max_examples: int = 0


class HeadNetwork(nn.Module):
    """A head on one layer, or on the softmax-weighted sum of several, whose logits are drawn from a normal."""

    def __init__(self, head: Head, shape: HeadShape, layers: int) -> None:
        super().__init__()
        self.each_row = shape.each_row
        self.mix = nn.Parameter(torch.randn(layers)) if layers > 1 else None
        if head.build is None:
            raise ValueError("this head is no network")
        self.head = head.build(shape)

    def forward(self, x_LRD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return logits `[R, K]`, or `[B, K]` where an example's rows have them together.

        Args:
            x_LRD: features of the examples' rows, one example after the other.
            valid_BF: which positions of the padded batch these rows take.
        """
        x_RD = x_LRD[0] if self.mix is None else torch.tensordot(self.mix.softmax(0), x_LRD, dims=1)
        x_BFD = x_RD.new_zeros(*valid_BF.shape, x_RD.shape[1])
        x_BFD[valid_BF] = x_RD
        logits = self.head(x_BFD, valid_BF)
        return logits[valid_BF] if self.each_row else logits


def masked_mean(x_BFH: Tensor, valid_BF: Tensor) -> Tensor:
    """Return the mean over each example's own rows, `[B, H]`."""
    weight_BF = valid_BF / valid_BF.sum(1, keepdim=True)
    return torch.einsum("bf,bfh->bh", weight_BF.to(x_BFH.dtype), x_BFH.masked_fill(~valid_BF[..., None], 0))
