"""A floor that hears nothing: pseudo-random numbers that depend on a clip only through a hash of its samples.

A clip always gets the same numbers and no two clips get related ones, so whatever a probe scores on them is what the
protocol, the labels' frequencies and chance give. 64 Gaussian numbers a frame, 50 frames a second.

Letters: B batch, T samples, F frames, L layers counted with row 0, D width.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily

HOP = 320


class NoNetwork(Settings):
    """Nothing can be set."""


class Noise(Encoder):
    """Gaussian numbers drawn from a generator that is seeded by the SHA-256 of each clip's samples."""

    def __init__(self, settings: NoNetwork, card: Card) -> None:
        super().__init__()
        self.settings, self.card = settings, card

    def frames(self, samples: int) -> int:
        """Return how many frames `forward` gives for that many samples."""
        return max(samples // HOP, 1)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the numbers, `[B, 1, F, D]`; zero after each clip's own frames."""
        longest = samples_BT.shape[-1]
        lengths = [longest] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        layers_BLFD = torch.zeros(len(samples_BT), 1, self.frames(longest), self.card.dim)
        for layers_LFD, samples_T, length in zip(layers_BLFD, samples_BT.float().cpu(), lengths):
            clip = samples_T[:length].contiguous().numpy()
            seed = int.from_bytes(hashlib.sha256(clip.astype("<f4").tobytes()).digest()[:8], "little")
            generator = torch.Generator().manual_seed(seed)
            frames = self.frames(length)
            layers_LFD[0, :frames] = torch.randn(frames, self.card.dim, generator=generator)
        return layers_BLFD.to(samples_BT.device)


def network(settings: NoNetwork, card: Card, seed: int) -> Noise:
    """Return the encoder; it has no weights, so the seed changes nothing."""
    return Noise(settings, card)


CARD = Card(name="noise", sample_rate=16_000, frame_rate=50.0, num_layers=0, dim=64, commercial_use=True)
ENCODER = EncoderFamily(NoNetwork, network, {"noise": (CARD, NoNetwork())}, has_weights=False)
