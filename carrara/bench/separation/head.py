"""The head: features in, a mask on the mixture's magnitudes out; three linear and three bi-LSTM layers.

The thesis's row for separation, after Open-Unmix (Stöter et al. 2019) as MARBLE adapts it (benchmark.md 1.9): linear,
batch norm, tanh; three bi-LSTMs; what went into them stands beside what came out; linear, batch norm, ReLU; linear,
batch norm, ReLU. Each LSTM has half of the units a direction. The last norm starts from bias 1, so that the mask starts
open; its scale and bias are those that MARBLE's code has a second time behind it. The head never hears the spectrogram
that it masks. One head a stem, none shared; a head of several layers first adds them, weighted by its own softmax.

Letters: B batch, F frames, D width of the features, H units, K bins, L layers that are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

RECURRENT = 3


@dataclass(frozen=True)
class HeadShape:
    """D, H, K, the share of units dropped between the LSTMs, and L (0: the head hears one layer)."""

    width: int
    hidden: int
    bins: int
    dropout: float = 0.2
    mixed: int = 0


class Head(nn.Module):
    """One stem's head; its first weights are PyTorch's own, drawn from the global generator."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.dropout = shape.dropout
        self.mix = nn.Parameter(torch.randn(shape.mixed)) if shape.mixed else None
        self.inner = nn.Linear(shape.width, hidden, bias=False)
        self.inner_norm = nn.BatchNorm1d(hidden)
        self.recurrent = nn.ModuleList(
            nn.LSTM(hidden, hidden // 2, batch_first=True, bidirectional=True) for _ in range(RECURRENT)
        )
        self.middle = nn.Linear(2 * hidden, hidden, bias=False)
        self.middle_norm = nn.BatchNorm1d(hidden)
        self.outer = nn.Linear(hidden, shape.bins, bias=False)
        self.outer_norm = nn.BatchNorm1d(shape.bins)
        nn.init.ones_(self.outer_norm.bias)

    def forward(self, x: Tensor, drops: torch.Generator | None = None) -> Tensor:
        """Return the mask, `[B, F, K]`, never negative.

        Args:
            x: features `[B, F, D]`, or `[L, B, F, D]` for a head that adds layers.
            drops: draws the units that are dropped, in training.
        """
        x_BFD = x if self.mix is None else torch.tensordot(self.mix.softmax(0), x, dims=1)
        squeezed_BFH = torch.tanh(_normed(self.inner(x_BFD), self.inner_norm))
        heard_BFH = squeezed_BFH
        for place, layer in enumerate(self.recurrent):
            if place and self.training and drops is not None:
                kept_BFH = torch.empty_like(heard_BFH).bernoulli_(1 - self.dropout, generator=drops)
                heard_BFH = heard_BFH * kept_BFH / (1 - self.dropout)
            heard_BFH, _ = layer(heard_BFH)
        joined_BFH = self.middle(torch.cat([squeezed_BFH, heard_BFH], dim=-1))
        return torch.relu(_normed(self.outer(torch.relu(_normed(joined_BFH, self.middle_norm))), self.outer_norm))


def drawn(shape: HeadShape, stems: int, seed: int) -> nn.ModuleList:
    """Return a head a stem with first weights drawn from a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(Head(shape) for _ in range(stems))


def _normed(x_BFN: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Return the batch's norm over all its frames."""
    return norm(x_BFN.flatten(0, 1)).view_as(x_BFN)
