"""One point of the search in training: a head for each stem, their Adam, their course, their best weights.

All stems of a point share its layer, learning rate, schedule and best epoch, chosen by the mean SDR; in MARBLE, where
each stem is a run of its own, each could choose for itself. Losses of the heads add up, and no head touches another.

Letters: B mixtures, F frames, D width, J stems, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from carrara.bench.probes.lr_schedule import ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.probes.rng import initial_generator
from carrara.bench.separation.head import Head, HeadShape, drawn

Features = Mapping[int, Tensor]  # the encoder's row → [B, F, D]
COPIES = 5  # value, gradient, two moments, best


@dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        features: of the mixtures, by the encoder's row.
        mixture_BFK: their magnitudes.
        stems_BJFK: the magnitudes of their stems.
        share: of the step's mixtures that are in this part; the shares of a step add up to 1.
        last: whether it closes its step.
    """

    features: Features
    mixture_BFK: Tensor
    stems_BJFK: Tensor
    share: float
    last: bool


class Member:
    """A point of the search with its heads."""

    def __init__(self, spec: ProbeSpec, shape: HeadShape, stems: int, course: ProbeHistory, device: str) -> None:
        self.spec, self.course = spec, course
        seed = initial_generator(spec.seed, spec.layer, spec.learning_rate).initial_seed()
        self.heads = drawn(shape, stems, seed).to(device)
        self.adam = torch.optim.Adam(self.heads.parameters(), lr=spec.learning_rate, fused=True)
        self.drops = torch.Generator(device).manual_seed(seed)
        self.best: dict[str, Tensor] | None = None
        self.loss_sum = torch.zeros((), device=device)

    def learn(self, part: Part) -> None:
        """Take a part of a step; with the last part the weights move."""
        self.heads.train()
        x = self._heard(part.features)
        for place, head in enumerate(self.heads):
            masked_BFK = head(x, self.drops) * part.mixture_BFK
            loss = torch.nn.functional.mse_loss(masked_BFK, part.stems_BJFK[:, place]) * part.share
            loss.backward()
            self.loss_sum += loss.detach()
        if part.last:
            self.adam.step()
            self.adam.zero_grad(set_to_none=False)

    @torch.no_grad()
    def masks(self, features: Features) -> Tensor:
        """Return the masks for windows, `[B, J, F, K]`."""
        self.heads.eval()
        x = self._heard(features)
        return torch.stack([head(x) for head in self.heads], dim=1)

    def epoch_over(self, steps: int, score: float) -> None:
        """Take an epoch's validation score, and with it the next learning rate."""
        if self.course.update(self.loss_sum.item() / steps, score):
            self.best = {name: tensor.clone() for name, tensor in self.heads.state_dict().items()}
        for group in self.adam.param_groups:
            group["lr"] = self.course.plateau.learning_rate
        self.loss_sum.zero_()

    def finish(self) -> None:
        """Put back the best epoch's weights and let go of what only training needs."""
        if self.best is not None:
            self.heads.load_state_dict(self.best)
            self.best = self.heads.state_dict()
        self.heads.zero_grad(set_to_none=True)
        del self.adam

    def _heard(self, features: Features) -> Tensor:
        if len(self.spec.sources) == 1:
            return features[int(self.spec.sources[0])]
        return torch.stack([features[int(source)] for source in self.spec.sources])

    def release(self) -> None:
        """Let go of everything but the course."""
        del self.heads
        self.best = None


def shape_of(spec: ProbeSpec, width: int, hidden: int, dropout: float, bins: int) -> HeadShape:
    """Return the shape of a point's heads."""
    return HeadShape(width, hidden, bins, dropout, len(spec.sources) if len(spec.sources) > 1 else 0)


def bytes_held(shape: HeadShape, stems: int) -> int:
    """Return how much memory a point takes while it is trained."""
    with torch.device("meta"):
        head = Head(shape)
    return 4 * COPIES * stems * sum(parameter.numel() for parameter in head.parameters())


def rows_of(specs: Sequence[ProbeSpec]) -> list[int]:
    """Return the encoder's rows that any of the points hears, ascending."""
    return sorted({int(source) for spec in specs for source in spec.sources})
