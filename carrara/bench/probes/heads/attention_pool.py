"""Learned attention over frames: their weighted mean, then a hidden layer; one prediction for each example.

Additive attention [bahdanau2015] without a query: a small network scores each frame, and the softmax of the scores over
the example's own frames weighs them. It knows nothing of the frames' order beyond what the encoder put into them.

Letters: B examples, F frames of an example, D features, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape


class AttentionPool(nn.Module):
    """Scores, weighted mean, one hidden layer and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(shape.dim, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, 1))
        self.layers = nn.Sequential(
            nn.Linear(shape.dim, shape.hidden),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.outputs),
        )

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return the logits of each example, `[B, K]`."""
        weight_BF1 = self.score(x_BFD).masked_fill(~valid_BF[..., None], float("-inf")).softmax(1)
        return self.layers((weight_BF1 * x_BFD).sum(1))


HEAD = Head(frames=True, each_row=False, build=AttentionPool)
