"""Two hidden layers for each row, with layer normalisation and dropout.

One hidden layer more than the constrained track's probe [notes/benchmark §2.1], with the same number of units: linear,
layer normalisation [ba2016], ReLU and dropout, twice, then the outputs.

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
            *_hidden_layer(shape.dim, shape),
            *_hidden_layer(shape.hidden, shape),
            nn.Linear(shape.hidden, shape.outputs),
        )

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return the logits of each row, `[B, F, K]`."""
        return self.layers(x_BFD)


def _hidden_layer(inputs: int, shape: HeadShape) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, shape.hidden), nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)


HEAD = Head(frames=False, each_row=True, build=Mlp)
