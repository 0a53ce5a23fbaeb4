"""A linear map of each row.

The least expressive head; with the learned sum of layers before it, it is the linear readout of all of them. It uses
neither hidden units nor dropout.

Letters: B examples, F rows of an example, D features, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape


class Linear(nn.Module):
    """One linear layer."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.outer = nn.Linear(shape.dim, shape.outputs)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return the logits of each row, `[B, F, K]`."""
        return self.outer(x_BFD)


HEAD = Head(frames=False, each_row=True, build=Linear)
