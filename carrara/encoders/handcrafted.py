"""Hand-crafted statistics of a whole clip: moments of its chroma and of its mel cepstra [castellon2021].

The clip at 22,050 Hz is divided by its peak; chroma (from a CQT tuned to the clip) and 20 MFCC are computed every 512
samples with reflecting edges, as in librosa 0.8; then the mean and the population std over time of the features, of
their first and of their second differences are concatenated: 72 and 120 numbers [notes/encoders §3]. Where both are
used together, the cepstra, of some hundreds of decibels beside a chroma between 0 and 1, are divided by 100: a probe
that may not standardize its input would otherwise depend on them alone.

Letters: B batch, T samples, F frames, C features of a frame, D dimension.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import split_clips
from carrara.nn.spectral.chroma import TunedChroma
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mfcc import MFCC

VARIANTS = {
    "chroma": "Hand-crafted: mean and std of a clip's chroma and of its first and second differences, 72 numbers",
    "mfcc": "Hand-crafted: mean and std of a clip's MFCC and of their first and second differences, 120 numbers",
    "chroma-mfcc": "Hand-crafted: the chroma and the MFCC statistics concatenated, 192 numbers",
}
_SAMPLE_RATE, _HOP = 22_050, 512
_NUM_ORDERS = 3
_MFCC_SCALE = 0.01  # beside chroma


class HandcraftedSettings(Settings):
    """Which features are summarized, in this order."""

    features: tuple[Literal["chroma", "mfcc"], ...]


def feature_moments(features_FC: Tensor) -> Tensor:
    """Return mean and population std over time of features and of their first and second differences, `[6 C]`.

    The order is mean, std of the features, of the first differences, of the second; a clip with too few frames for a
    difference gets zeros for it.
    """
    parts = []
    for order in range(_NUM_ORDERS):
        if len(features_FC) > order:
            difference_FC = features_FC.diff(n=order, dim=0)
        else:
            difference_FC = torch.zeros_like(features_FC[:1])
        parts += [difference_FC.mean(dim=0), difference_FC.std(dim=0, correction=0)]
    return torch.cat(parts)


class _Handcrafted(Encoder):
    """Chroma and MFCC statistics: one layer and one frame for a whole clip."""

    settings: HandcraftedSettings

    def __init__(self, settings: HandcraftedSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        # Of version 1 the chroma's CQT was in single precision, and silent frames showed its rounding.
        version = 2 if "chroma" in settings.features else 1
        self.settings, self.card = settings, card.model_copy(update={"output_version": version})
        self.chroma = TunedChroma(_SAMPLE_RATE, _HOP)
        self.mfcc = MFCC(_SAMPLE_RATE, framing=framing_preset("librosa-0.8", hop=_HOP))

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the statistics, `[B, 1, 1, D]`, of each clip by itself because its tuning and peak are its own."""
        clips = []
        for samples_T in split_clips(samples_BT, lengths_B):
            peak = samples_T.abs().max()
            samples_T = samples_T / torch.where(peak > 0, peak, 1.0)
            parts = []
            for name in self.settings.features:
                features_FC = self.chroma(samples_T) if name == "chroma" else self.mfcc(samples_T[None])[0]
                scale = _MFCC_SCALE if name == "mfcc" and len(self.settings.features) > 1 else 1.0
                parts.append(scale * feature_moments(features_FC))
            clips.append(torch.cat(parts))
        return torch.stack(clips)[:, None, None]


def _variant(name: str, dim: int, features: tuple[Literal["chroma", "mfcc"], ...]) -> tuple[Card, HandcraftedSettings]:
    card = Card(
        name=name,
        sample_rate=_SAMPLE_RATE,
        frame_rate=None,
        num_layers=0,
        dim=dim,
        commercial_use=True,
        pretraining_task="none",
        input=", ".join("MFCC" if feature == "mfcc" else feature for feature in features),
        network="none",
        paper="Castellon, Donahue, Liang: Codified audio language modeling learns useful representations for music "
        "information retrieval (ISMIR 2021)",
        benchmark_setup="JukeMIR: the whole clip; mean and std over frames of the features and of their first and "
        "second differences; samples divided by the clip's peak",
    )
    return card, HandcraftedSettings(features=features)


ENCODER = EncoderFamily(
    HandcraftedSettings,
    _Handcrafted,
    {
        "chroma": _variant("chroma", 72, ("chroma",)),
        "mfcc": _variant("mfcc", 120, ("mfcc",)),
        "chroma-mfcc": _variant("chroma-mfcc", 192, ("chroma", "mfcc")),
    },
    has_weights=False,
)
