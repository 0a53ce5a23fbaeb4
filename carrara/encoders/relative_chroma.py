"""Hand-crafted features of a clip's harmony that are the same in every key: `relative-chroma`.

The clip's chroma, tuned to it as in `chroma`, above the median of each frame (what is left are the notes), is averaged
over eight equal parts of the clip and divided by its RMS, so neither loudness nor tempo matters. Three views of these
8 × 12 numbers do not change when the clip is transposed:

- rotated so that the estimated tonic comes first: that of the best of the 24 major and minor profiles
  [krumhansl1982] by correlation with the mean over the clip; 96 numbers;
- the magnitudes of the two-dimensional Fourier transform over parts and pitch classes, as known from the search for
  cover songs [bertin-mahieux2012], there of patches in beats; 56 numbers, which shifts in time do not change either;
- the circular cross-correlation of each part with the parts 0 to 7 later, averaged over the parts: which intervals
  sound together and which follow; 96 numbers.

The order of the parts is kept, so that a progression differs from its chords in another order.

Letters: B batch, T samples, F frames, C 12 pitch classes, P parts, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import split_clips
from carrara.nn.spectral.chroma import TunedChroma

VARIANTS = {
    "relative-chroma": "Hand-crafted: a clip's chroma in eight parts, from its tonic and by intervals, 248 numbers",
}
_SAMPLE_RATE, _HOP = 22_050, 512
_PARTS, _CLASSES = 8, 12
_DIM = _PARTS * _CLASSES + _PARTS * (_CLASSES // 2 + 1) + _PARTS * _CLASSES
_MIN_RMS = 1e-6
# Brings the correlations, sums over 12 classes, to the size of the other numbers; probes may not standardise.
_CORRELATION_SCALE = 1 / 3
# Probe-tone ratings of C major and C minor.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


class _NoSettings(Settings):
    """Nothing can be set."""


def estimate_tonic(mean_C: Tensor) -> int:
    """Return the pitch class, 0 for C, whose major or minor profile correlates best with a mean chroma, `[C]`."""
    profiles_PC = torch.tensor([_MAJOR, _MINOR])
    profiles_PC = functional.normalize(profiles_PC - profiles_PC.mean(1, keepdim=True), dim=1)
    rotated_CPC = torch.stack([profiles_PC.roll(tonic, dims=1) for tonic in range(_CLASSES)])
    return int((rotated_CPC.to(mean_C) @ (mean_C - mean_C.mean())).amax(1).argmax())


def correlate_parts(parts_PC: Tensor) -> Tensor:
    """Return the circular cross-correlation of parts, averaged over all pairs of a distance in time, `[P, C]`.

    Row l, column i is the mean over parts p of Σ_c part[p + l, c + i] · part[p, c].
    """
    spectrum_PK = torch.fft.rfft(parts_PC, dim=1)
    products_PK = [
        (spectrum_PK[lag:] * spectrum_PK[: len(spectrum_PK) - lag].conj()).mean(0) for lag in range(len(spectrum_PK))
    ]
    return torch.fft.irfft(torch.stack(products_PK), n=parts_PC.shape[1], dim=1)


class _RelativeChroma(Encoder):
    """One layer and one frame for a whole clip."""

    def __init__(self, settings: _NoSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        self.chroma = TunedChroma(_SAMPLE_RATE, _HOP)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features, `[B, 1, 1, D]`, of each clip by itself because its tuning and peak are its own."""
        clips = []
        for samples_T in split_clips(samples_BT, lengths_B):
            peak = samples_T.abs().max()
            chroma_FC = self.chroma(samples_T / torch.where(peak > 0, peak, 1.0))
            notes_FC = (chroma_FC - chroma_FC.quantile(0.5, dim=1, keepdim=True)).clamp(min=0)
            parts_PC = functional.adaptive_avg_pool1d(notes_FC.T[None], _PARTS)[0].T
            parts_PC = parts_PC / parts_PC.square().mean().sqrt().clamp(min=_MIN_RMS)
            tonic = estimate_tonic(parts_PC.mean(0))
            parts_PC = parts_PC - parts_PC.mean()
            views = (
                parts_PC.roll(-tonic, dims=1),
                torch.fft.rfft2(parts_PC, norm="ortho").abs(),
                _CORRELATION_SCALE * correlate_parts(parts_PC),
            )
            clips.append(torch.cat([view.flatten() for view in views]))
        return torch.stack(clips)[:, None, None]


_CARD = Card(
    name="relative-chroma",
    sample_rate=_SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=_DIM,
    output_version=2,  # of 1 the CQT of the chroma was in single precision
    commercial_use=True,
    pretraining_task="none",
    input="chroma",
    network="none",
    paper="Bertin-Mahieux, Ellis: Large-Scale Cover Song Recognition Using the 2D Fourier Transform Magnitude (ISMIR "
    "2012), for one of its three parts",
)
ENCODER = EncoderFamily(_NoSettings, _RelativeChroma, {"relative-chroma": (_CARD, _NoSettings())}, has_weights=False)
