"""Fusion: several encoders as one, `a+b` (their features side by side) or `a+b:late` (their predictions combined).

It encodes nothing itself: `carrara bench` extracts the features of each part (`carrara/bench/fusion.py`). Its card has
the layers of the deepest part, the sample rate and frame rate of the part with the fewest frames, and the data and
weights of all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.core.hashing import sha256_of_json
from carrara.encoders._base import Card, Encoder
from carrara.encoders._hub.spec import LATE


class FusedEncoder(Encoder):
    """Several encoders; `is_late` says that predictions are combined, not features."""

    def __init__(self, parts: list[Encoder]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.is_late = False
        cards = [part.card for part in parts]
        rates = [card.frame_rate for card in cards]
        has_frames = all(rate is not None for rate in rates)
        self.slowest = rates.index(min(rate or 0 for rate in rates)) if has_frames else 0
        uses = [card.commercial_use for card in cards]
        self.card = Card(
            name="+".join(card.name for card in cards),
            sample_rate=cards[self.slowest].sample_rate,
            frame_rate=rates[self.slowest] if has_frames else None,
            num_layers=max(card.num_layers for card in cards),
            dim=sum(card.dim for card in cards),
            parameters=sum(card.parameters for card in cards),
            license=" + ".join(dict.fromkeys(card.license for card in cards if card.license)),
            commercial_use=False if False in uses else None if None in uses else True,
            trained_on=tuple(dict.fromkeys(name for card in cards for name in card.trained_on)),
        )

    def members(self) -> list[Encoder]:
        """Return the parts."""
        return [part for part in self.parts if isinstance(part, Encoder)]

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of samples at the card's rate: those of the part with the fewest."""
        return self.members()[self.slowest].num_frames(samples)

    def layer_of(self, part: int, layer: int) -> int:
        """Return the layer of a part that is as deep as a layer of the fusion."""
        deepest = self.card.num_layers
        return round(layer * self.members()[part].card.num_layers / deepest) if deepest else 0

    def hash_weights(self) -> str:
        """Return the hash of the parts' names, settings, output versions and weights."""
        return sha256_of_json(
            [
                [part.card.name, part.settings.model_dump(mode="json"), part.card.output_version, part.hash_weights()]
                for part in self.members()
            ]
        )

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Refuse: the parts have rates of their own.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.card.name}: a fusion is for `carrara bench`; use one of its parts here")


def fuse(parts: list[Encoder], is_late: bool, device: str | torch.device = "cpu") -> FusedEncoder:
    """Return the fusion of encoders in evaluation mode.

    Raises:
        UsageError: a part is given twice, or is a fusion itself.
    """
    names = [part.card.name for part in parts]
    if len(set(names)) < len(names) or any(isinstance(part, FusedEncoder) for part in parts):
        raise UsageError(f"{'+'.join(names)}: give different encoders, each once")
    fused = FusedEncoder(parts)
    fused.is_late = is_late
    if is_late:
        fused.card = fused.card.model_copy(update={"name": fused.card.name + LATE})
    return fused.eval().to(device)
