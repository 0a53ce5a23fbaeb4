"""Separation heads: from features to a mask on the mixture's magnitudes.

MARBLE's, `MaskHead`, has three linear and three bi-LSTM layers: Open-Unmix [stoter2019] as MARBLE and [yuan2023thesis]
adapt it [notes/benchmark §1.9]: linear, batch norm, tanh; three bi-LSTMs, whose input is concatenated to their output;
linear, batch norm, ReLU; linear, batch norm, ReLU. Each direction has half of the units. The last norm starts with bias
1, so the mask starts open; its scale and bias take the place of those that MARBLE's code applies once more after it.
`LogisticMaskHead` takes the logistic function of the logits that a registered head (`carrara ls heads`) gives for each
frame.

No head sees the spectrogram that it masks. Every stem has a head of its own; a head of several layers first sums them,
weighted by its own softmax.

Letters: B batch, F frames, D features, H units, K bins, L summed layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carrara.bench.probes.heads import REGISTRY as HEADS
from carrara.bench.probes.heads._base import HeadShape

NUM_LSTMS = 3


@dataclass(frozen=True)
class MaskHeadShape:
    """D, H, K, the fraction of units dropped, L (0: a single layer), and the registered head ("": MARBLE's)."""

    dim: int
    hidden: int
    bins: int
    dropout: float = 0.2
    num_summed: int = 0
    head: str = ""


class MaskHead(nn.Module):
    """One stem's head; its initial weights are PyTorch's own, drawn from the global generator."""

    def __init__(self, shape: MaskHeadShape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.dropout = shape.dropout
        self.mix = nn.Parameter(torch.randn(shape.num_summed)) if shape.num_summed else None
        self.inner = nn.Linear(shape.dim, hidden, bias=False)
        self.inner_norm = nn.BatchNorm1d(hidden)
        self.recurrent = nn.ModuleList(
            nn.LSTM(hidden, hidden // 2, batch_first=True, bidirectional=True) for _ in range(NUM_LSTMS)
        )
        self.middle = nn.Linear(2 * hidden, hidden, bias=False)
        self.middle_norm = nn.BatchNorm1d(hidden)
        self.outer = nn.Linear(hidden, shape.bins, bias=False)
        self.outer_norm = nn.BatchNorm1d(shape.bins)
        nn.init.ones_(self.outer_norm.bias)

    def forward(self, x: Tensor, dropout_rng: torch.Generator | None = None) -> Tensor:
        """Return the mask, `[B, F, K]`, never negative.

        Args:
            x: features `[B, F, D]`, or `[L, B, F, D]` for a head that sums layers.
            dropout_rng: draws the dropped units in training; None means no dropout.
        """
        x_BFD = x if self.mix is None else torch.tensordot(self.mix.softmax(0), x, dims=1)
        projected_BFH = torch.tanh(_normalize_frames(self.inner(x_BFD), self.inner_norm))
        x_BFH = projected_BFH
        for index, layer in enumerate(self.recurrent):
            if index and self.training and dropout_rng is not None:
                mask_BFH = torch.empty_like(x_BFH).bernoulli_(1 - self.dropout, generator=dropout_rng)
                x_BFH = x_BFH * mask_BFH / (1 - self.dropout)
            x_BFH, _ = layer(x_BFH)
        x_BFH = self.middle(torch.cat([projected_BFH, x_BFH], dim=-1))
        x_BFH = torch.relu(_normalize_frames(x_BFH, self.middle_norm))
        return torch.relu(_normalize_frames(self.outer(x_BFH), self.outer_norm))


class LogisticMaskHead(nn.Module):
    """One stem's head from the registry; its initial weights are drawn from the global generator.

    Dropout layers draw from the global generator too: in training it is seeded from `dropout_rng` and restored,
    which threads must not do at once.
    """

    def __init__(self, shape: MaskHeadShape) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(shape.num_summed)) if shape.num_summed else None
        self.dropout = shape.dropout
        build = HEADS.get(shape.head).build
        self.network = build(HeadShape(shape.dim, shape.bins, shape.hidden, shape.dropout))

    def forward(self, x: Tensor, dropout_rng: torch.Generator | None = None) -> Tensor:
        """Return the mask, `[B, F, K]`, between 0 and 1, for features as `MaskHead` takes them."""
        x_BFD = x if self.mix is None else torch.tensordot(self.mix.softmax(0), x, dims=1)
        valid_BF = torch.ones(x_BFD.shape[:2], dtype=torch.bool, device=x_BFD.device)
        if not self.dropout or not self.training or dropout_rng is None:
            return torch.sigmoid(self.network(x_BFD, valid_BF))
        with torch.random.fork_rng(devices=[x_BFD.device] if x_BFD.is_cuda else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=dropout_rng, device=dropout_rng.device)))
            return torch.sigmoid(self.network(x_BFD, valid_BF))


def build_mask_head(shape: MaskHeadShape) -> nn.Module:
    """Return a head of this shape."""
    return LogisticMaskHead(shape) if shape.head else MaskHead(shape)


def initial_heads(shape: MaskHeadShape, stems: int, seed: int) -> nn.ModuleList:
    """Return a head for each stem with initial weights drawn from a seed; the global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleList(build_mask_head(shape) for _ in range(stems))


def _normalize_frames(x_BFN: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Return the batch norm over all frames of the batch."""
    return norm(x_BFN.flatten(0, 1)).view_as(x_BFN)
