"""Learned attention over frames: a weighted mean of them, then a hidden layer; one answer an example.

Additive attention (Bahdanau et al. 2015, arXiv 1409.0473) without a query: a small network gives each frame a score,
their softmax over the example's own frames weighs them. It finds the frames that matter, but it knows nothing of their
order beyond what the encoder has put into them.

Letters: B examples, F frames of an example, D features, H hidden units, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn

from carrara.bench.probes.heads._base import Head, HeadShape


class AttentionPool(nn.Module):
    """Scores, weighted mean, one hidden layer and the outputs."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(shape.width, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, 1))
        self.layers = nn.Sequential(
            nn.Linear(shape.width, shape.hidden),
            nn.ReLU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.outputs),
        )

    def forward(self, x_BFD: Tensor, known_BF: Tensor) -> Tensor:
        """Return the logits of each example, `[B, K]`."""
        share_BF1 = self.score(x_BFD).masked_fill(~known_BF[..., None], float("-inf")).softmax(1)
        return self.layers((share_BF1 * x_BFD).sum(1))


HEAD = Head(frames=True, each_row=False, build=AttentionPool)
