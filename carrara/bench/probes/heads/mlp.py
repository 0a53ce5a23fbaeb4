"""Two hidden layers for each row, with layer normalisation and dropout.

A step up from the constrained track's single hidden layer of the same width (benchmark.md 2.1): linear, normalisation
(Ba et al. 2016, arXiv 1607.06450), ReLU and dropout, twice, then the outputs.

Letters: B examples, F rows of an example, D features, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape


class Mlp(nn.Module):
    """Two hidden layers and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_hidden(shape.width, shape),
            *_hidden(shape.hidden, shape),
            nn.Linear(shape.hidden, shape.outputs),
        )

    def forward(self, x_BFD: Tensor, known_BF: Tensor) -> Tensor:
        """Return the logits of each row, `[B, F, K]`."""
        return self.layers(x_BFD)


def _hidden(width: int, shape: HeadShape) -> tuple[nn.Module, ...]:
    return nn.Linear(width, shape.hidden), nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)


HEAD = Head(frames=False, each_row=True, build=Mlp)
