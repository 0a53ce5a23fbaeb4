"""Hand-crafted statistics of a whole clip: moments of its chroma and of its mel cepstra (Castellon et al., JukeMIR).

The clip at 22,050 Hz is divided by its largest sample; chroma (from a CQT tuned to the clip) and 20 MFCC are taken
every 512 samples with reflecting edges, as librosa 0.8 had them; then the mean and the population deviation over time
of the features, of their first and of their second differences stand side by side: 72 and 120 numbers. Where both are
given together, the cepstra, of some hundreds of decibels beside a chroma between 0 and 1, are divided by 100: a probe
that is not allowed to standardise its input would hear nothing but them.

Letters: B batch, T samples, F frames, C features a frame, L layers counted with row 0, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.nn.spectral.chroma import TunedChroma
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mfcc import MFCC

VARIANTS = {
    "chroma": "Hand-crafted: mean and deviation of a clip's chroma and of its two differences, 72 numbers.",
    "mfcc": "Hand-crafted: mean and deviation of a clip's MFCC and of their two differences, 120 numbers.",
    "chroma-mfcc": "Hand-crafted: the chroma and the MFCC statistics side by side, 192 numbers.",
}
SAMPLE_RATE, HOP = 22_050, 512
ORDERS = 3
TOGETHER = 0.01


class Statistics(Settings):
    """Which features are summed up, in this order."""

    features: tuple[Literal["chroma", "mfcc"], ...]


def moments(features_FC: Tensor) -> Tensor:
    """Return mean and population deviation over time of the features and of their differences, `[6 C]`.

    The order is mean, deviation of the features, of the first differences, of the second; a clip with too few frames
    to have a difference gets zeros for it.
    """
    parts = []
    for order in range(ORDERS):
        # The difference of a clip that has none left would be refused.
        steps_FC = features_FC.diff(n=order, dim=0) if len(features_FC) > order else torch.zeros_like(features_FC[:1])
        parts += [steps_FC.mean(dim=0), steps_FC.std(dim=0, correction=0)]
    return torch.cat(parts)


class Handcrafted(Encoder):
    """Chroma and MFCC statistics: one row and one frame for a whole clip."""

    def __init__(self, settings: Statistics, card: Card) -> None:
        super().__init__()
        self.settings: Statistics = settings
        self.card = card
        self.chroma = TunedChroma(SAMPLE_RATE, HOP)
        self.mfcc = MFCC(SAMPLE_RATE, framing=preset("librosa-0.8", hop=HOP))

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the statistics, `[B, 1, 1, D]`, each clip by itself because its tuning and loudness are its own."""
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        clips = [samples_T[:length] for samples_T, length in zip(samples_BT.float(), lengths)]
        return torch.stack([self._statistics(clip) for clip in clips])[:, None, None]

    def _statistics(self, samples_T: Tensor) -> Tensor:
        peak = samples_T.abs().max()
        samples_T = samples_T / torch.where(peak > 0, peak, 1.0)
        features = {"chroma": lambda: self.chroma(samples_T), "mfcc": lambda: self.mfcc(samples_T[None])[0]}
        scale = {"chroma": 1.0, "mfcc": 1.0 if len(self.settings.features) == 1 else TOGETHER}
        return torch.cat([scale[name] * moments(features[name]()) for name in self.settings.features])


def network(settings: Statistics, card: Card, seed: int) -> Handcrafted:
    """Return the encoder; it has no weights, so the seed changes nothing."""
    return Handcrafted(settings, card)


def _variant(name: str, width: int, features: tuple[Literal["chroma", "mfcc"], ...]) -> tuple[Card, Statistics]:
    card = Card(
        name=name,
        sample_rate=SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=width,
        commercial_use=True,
        paper="Castellon, Donahue, Liang: Codified audio language modeling learns useful representations for music "
        "information retrieval (ISMIR 2021)",
        benchmark_setup="JukeMIR: the whole clip; mean and deviation over frames of the features and of their first and "
        "second differences; samples divided by the clip's peak",
    )
    return card, Statistics(features=features)


ENCODER = EncoderFamily(
    Statistics,
    network,
    {
        "chroma": _variant("chroma", 72, ("chroma",)),
        "mfcc": _variant("mfcc", 120, ("mfcc",)),
        "chroma-mfcc": _variant("chroma-mfcc", 192, ("chroma", "mfcc")),
    },
    has_weights=False,
)
