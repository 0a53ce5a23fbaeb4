"""Chroma, the strength of each pitch class: from an FFT as MERT's authors clustered it, and folded from a CQT.

`ChromaSTFT` is the 264-bin feature found in the first MARBLE code (the same authors' hand-crafted encoder): 22 bins a
semitone from an FFT of 512, tuning taken as 440 Hz, each frame's maximum 1. Its window was written as 40 samples and
meant as 400, which is what it is here. Such an FFT cannot tell semitones apart below about 500 Hz; `fold` of a CQT can.
`TunedChroma` is the chromagram of the hand-crafted baseline, which first estimates each clip's tuning.

Letters: B batch, T samples, F frames, K frequencies of the FFT, M CQT bins, C chroma bins.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import Framing, Spectrum, float32, preset
from carrara.nn.spectral.pitch_tuning import estimate

MIDDLE_OCTAVE, OCTAVES_WIDE = 5.0, 2.0
C1 = 440.0 * 2.0 ** (-45 / 12)


def loudest_to_one(chroma_BFC: Tensor) -> Tensor:
    """Return the chroma with each frame's largest value at 1; silent frames stay 0."""
    peak_BF1 = chroma_BFC.abs().amax(dim=-1, keepdim=True)
    return chroma_BFC / torch.where(peak_BF1 < torch.finfo(torch.float32).tiny, 1.0, peak_BF1)


def bank(sample_rate: int, size: int, chroma: int) -> Tensor:
    """Return Ellis's chroma filters over the bins of an FFT of that size, `[K, C]`, in double precision; C first.

    Each FFT bin is a Gaussian bump around its pitch class, as wide as the bin and of unit L2 norm, weighted by a
    Gaussian over octaves around 440 Hz. The bin at 0 Hz is given a pitch 1.5 octaves below the next.
    """
    hertz_K = torch.arange(1, size, dtype=torch.float64) * (sample_rate / size)
    pitch_K = chroma * torch.log2(hertz_K / (440.0 / 16))
    pitch_K = torch.cat([pitch_K[:1] - 1.5 * chroma, pitch_K])
    width_K = torch.cat([(pitch_K[1:] - pitch_K[:-1]).clamp(min=1.0), torch.ones(1, dtype=torch.float64)])
    # The distance to each class the short way round the circle.
    half = round(chroma / 2)
    apart_KC = (pitch_K[:, None] - torch.arange(chroma) + half).remainder(chroma) - half
    bumps_KC = nn.functional.normalize(torch.exp(-0.5 * (2 * apart_KC / width_K[:, None]) ** 2), dim=1)
    octave_K1 = torch.exp(-0.5 * ((pitch_K / chroma - MIDDLE_OCTAVE) / OCTAVES_WIDE) ** 2)[:, None]
    # Class 0 so far is A; C is three semitones above.
    return (bumps_KC * octave_K1).roll(-3 * (chroma // 12), dims=1)[: size // 2 + 1]


class ChromaSTFT(nn.Module):
    """Samples `[B, T]` to chroma `[B, F, C]` from an FFT, each frame's maximum 1, in single precision."""

    bank_KC: Tensor

    def __init__(self, sample_rate: int = 16_000, chroma: int = 264, framing: Framing | None = None) -> None:
        """Prepare the filters; without `framing` windows of 400 samples every 320 in an FFT of 512, zeros outside.

        Raises:
            UsageError: the number of classes is not a multiple of 12.
        """
        super().__init__()
        if chroma % 12:
            raise UsageError(f"{chroma} chroma bins do not divide into 12 semitones; use a multiple of 12")
        framing = framing or preset("librosa", window=400, hop=320, size=512)
        self.spectrum = Spectrum(framing)
        self.register_buffer("bank_KC", bank(sample_rate, framing.size, chroma).float(), persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the chroma of every frame; the clip's gain does not matter.

        Raises:
            UsageError: the clips are empty.
        """
        with float32(samples_BT):
            return loudest_to_one(self.spectrum(samples_BT, self.bank_KC))


@lru_cache(maxsize=16)
def folding(bins: int, bins_per_octave: int, chroma: int, lowest: float) -> Tensor:
    """Return how much of each CQT bin goes to each chroma bin, `[M, C]`, single precision; C first.

    A CQT bin and a chroma bin each span one step of their scale around their centre; the weight is the overlap, as
    part of the CQT bin. Where the steps divide oddly (36 to 12) that is a plain sum around each semitone.

    Raises:
        UsageError: more chroma bins than CQT bins an octave.
    """
    if chroma > bins_per_octave:
        raise UsageError(f"{bins_per_octave} CQT bins an octave do not make {chroma} chroma bins; use at most as many")
    # The class of the lowest bin, rounded so that a tuned CQT folds as an untuned one.
    first = round(math.log2(lowest / C1) * chroma)
    centre_M = torch.arange(bins, dtype=torch.float64) * (chroma / bins_per_octave) + first
    half = chroma / bins_per_octave / 2
    apart_MC = ((centre_M[:, None] - torch.arange(chroma) + chroma / 2).remainder(chroma) - chroma / 2).abs()
    overlap_MC = (torch.minimum(apart_MC + half, torch.tensor(0.5)) - (apart_MC - half).clamp(min=-0.5)).clamp(min=0.0)
    return (overlap_MC / (2 * half)).float()


def fold(cqt_BFM: Tensor, bins_per_octave: int, chroma: int = 12, lowest: float = C1) -> Tensor:
    """Return the chroma of CQT magnitudes, `[B, F, C]`, each frame's maximum 1; C first.

    Args:
        cqt_BFM: magnitudes.
        bins_per_octave: of the CQT.
        chroma: classes an octave, usually 12 or 36.
        lowest: frequency of the first CQT bin, in Hz.

    Raises:
        UsageError: more chroma bins than CQT bins an octave.
    """
    with float32(cqt_BFM):
        weights_MC = folding(cqt_BFM.shape[-1], bins_per_octave, chroma, lowest).to(cqt_BFM.device)
        return loudest_to_one(cqt_BFM.float() @ weights_MC)


# A tuning is one of 100 hundredths of a bin; building a transform costs as much as a clip of 2 s (measured).
@lru_cache(maxsize=100)
def tuned(sample_rate: int, hop: int, tuning: float, device: torch.device) -> CQT:
    """Return the CQT of seven octaves from C1 in 36 bins, shifted by parts of a bin; every tuning is kept."""
    lowest = C1 * 2.0 ** (tuning / 36)
    return CQT(sample_rate, hop, bins=252, bins_per_octave=36, lowest=lowest, padding="reflect").to(device)


class TunedChroma(nn.Module):
    """One clip to its 12 chroma from a CQT tuned to it: seven octaves from C1, 36 bins each, folded to semitones.

    Edges reflect, as they did in the librosa (0.8) that the hand-crafted baseline was published with.
    """

    def __init__(self, sample_rate: int = 22_050, hop: int = 512) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop
        self.spectrum = Spectrum(preset("librosa-0.8", hop=hop))

    def forward(self, samples_T: Tensor) -> Tensor:
        """Return the chroma of every frame, `[F, 12]`.

        Raises:
            UsageError: the clip is empty.
        """
        tuning = estimate(samples_T, self.sample_rate, 36, self.spectrum)
        cqt = tuned(self.sample_rate, self.hop, tuning, samples_T.device)
        return fold(cqt(samples_T[None]), 36)[0]
