"""Chroma, the strength of each pitch class: from an FFT as MERT's authors clustered it, and folded from a CQT.

`ChromaSTFT` is the 264-bin feature of the first MARBLE code (the same authors' hand-crafted encoder): 22 bins a
semitone from an FFT of 512, tuning fixed at 440 Hz, each frame's maximum 1. Its window was written as 40 samples and
meant as 400, which is what it is here. Such an FFT cannot separate semitones below about 500 Hz; `fold_to_chroma` of a
CQT can. `TunedChroma` is the chromagram of the hand-crafted baseline, which first estimates each clip's tuning.

Letters: B batch, T samples, F frames, K frequencies of the FFT, M CQT bins, C chroma bins.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.framing import Framing, Spectrum, framing_preset, no_autocast
from carrara.nn.spectral.pitch_tuning import estimate_tuning

CENTRE_OCTAVE, OCTAVE_STD = 5.0, 2.0
C1 = 440.0 * 2.0 ** (-45 / 12)


def normalize_max(chroma_BFC: Tensor) -> Tensor:
    """Return the chroma with each frame's maximum scaled to 1; silent frames stay 0."""
    peak_BF1 = chroma_BFC.abs().amax(dim=-1, keepdim=True)
    return chroma_BFC / torch.where(peak_BF1 < torch.finfo(torch.float32).tiny, 1.0, peak_BF1)


def chroma_filter_bank(sample_rate: int, fft_size: int, chroma: int) -> Tensor:
    """Return librosa's chroma filters over the bins of an FFT, `[K, C]`, in double precision; class 0 is C.

    Each FFT bin is a Gaussian around its pitch class, as wide as the bin and of unit L2 norm, weighted by a Gaussian
    over octaves around 440 Hz. The bin at 0 Hz gets a pitch 1.5 octaves below the next.
    """
    hertz_K = torch.arange(1, fft_size, dtype=torch.float64) * (sample_rate / fft_size)
    pitch_K = chroma * torch.log2(hertz_K / (440.0 / 16))
    pitch_K = torch.cat([pitch_K[:1] - 1.5 * chroma, pitch_K])
    width_K = torch.cat([(pitch_K[1:] - pitch_K[:-1]).clamp(min=1.0), torch.ones(1, dtype=torch.float64)])
    # The distance to each class the short way round the circle.
    half = round(chroma / 2)
    distance_KC = (pitch_K[:, None] - torch.arange(chroma) + half).remainder(chroma) - half
    bumps_KC = nn.functional.normalize(torch.exp(-0.5 * (2 * distance_KC / width_K[:, None]) ** 2), dim=1)
    octave_K1 = torch.exp(-0.5 * ((pitch_K / chroma - CENTRE_OCTAVE) / OCTAVE_STD) ** 2)[:, None]
    # Class 0 so far is A; C is three semitones above.
    return (bumps_KC * octave_K1).roll(-3 * (chroma // 12), dims=1)[: fft_size // 2 + 1]


class ChromaSTFT(nn.Module):
    """Samples `[B, T]` to chroma `[B, F, C]` from an FFT, each frame's maximum 1, in single precision."""

    bank_KC: Tensor

    def __init__(self, sample_rate: int = 16_000, chroma: int = 264, framing: Framing | None = None) -> None:
        """Prepare the filters; the default `framing` has 400 samples every 320 in an FFT of 512, zeros outside.

        Raises:
            UsageError: the number of classes is not a multiple of 12.
        """
        super().__init__()
        if chroma % 12:
            raise UsageError(f"{chroma} chroma bins do not divide into 12 semitones; use a multiple of 12")
        framing = framing or framing_preset("librosa", window=400, hop=320, fft_size=512)
        self.spectrum = Spectrum(framing)
        bank_KC = chroma_filter_bank(sample_rate, framing.fft_size, chroma).float()
        self.register_buffer("bank_KC", bank_KC, persistent=False)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the chroma of every frame; the clip's gain does not matter.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT):
            return normalize_max(self.spectrum(samples_BT, self.bank_KC))


@lru_cache(maxsize=16)
def fold_matrix(bins: int, bins_per_octave: int, chroma: int, lowest: float) -> Tensor:
    """Return the weight of each CQT bin in each chroma bin, `[M, C]`, single precision; class 0 is C.

    A CQT bin and a chroma bin each span one step of their scale around their centre; the weight is the overlap, as a
    fraction of the CQT bin. Where the steps divide oddly (36 to 12) that is a plain sum around each semitone.

    Raises:
        UsageError: there are more chroma bins than CQT bins an octave.
    """
    if chroma > bins_per_octave:
        raise UsageError(f"{bins_per_octave} CQT bins an octave do not make {chroma} chroma bins; use at most as many")
    # The class of the lowest bin, rounded so that a tuned CQT folds as an untuned one.
    first = round(math.log2(lowest / C1) * chroma)
    centre_M = torch.arange(bins, dtype=torch.float64) * (chroma / bins_per_octave) + first
    half = chroma / bins_per_octave / 2
    distance_MC = (centre_M[:, None] - torch.arange(chroma) + chroma / 2).remainder(chroma) - chroma / 2
    distance_MC = distance_MC.abs()
    overlap_MC = torch.minimum(distance_MC + half, torch.tensor(0.5)) - (distance_MC - half).clamp(min=-0.5)
    return (overlap_MC.clamp(min=0.0) / (2 * half)).float()


def fold_to_chroma(cqt_BFM: Tensor, bins_per_octave: int, chroma: int = 12, lowest: float = C1) -> Tensor:
    """Return the chroma of CQT magnitudes, `[B, F, C]`, each frame's maximum 1; class 0 is C.

    Args:
        cqt_BFM: magnitudes.
        bins_per_octave: bins of the CQT in an octave.
        chroma: classes of an octave, usually 12 or 36.
        lowest: frequency of the first CQT bin, in Hz.

    Raises:
        UsageError: there are more chroma bins than CQT bins an octave.
    """
    with no_autocast(cqt_BFM):
        weights_MC = fold_matrix(cqt_BFM.shape[-1], bins_per_octave, chroma, lowest).to(cqt_BFM.device)
        return normalize_max(cqt_BFM.float() @ weights_MC)


# A tuning is one of 100 hundredths of a bin; building a transform costs as much as a clip of 2 s (measured).
@lru_cache(maxsize=100)
def _tuned_cqt(sample_rate: int, hop: int, tuning: float, device: torch.device) -> CQT:
    """Return the CQT of seven octaves from C1 in 36 bins, shifted by a fraction of a bin.

    In double precision, because each frame of the chroma is divided by its maximum: a frame of silence would show the
    rounding of the louder ones, which depends on the number of threads.
    """
    lowest = C1 * 2.0 ** (tuning / 36)
    cqt = CQT(sample_rate, hop, bins=252, bins_per_octave=36, lowest=lowest, padding="reflect", double_long=True)
    return cqt.to(device)


class TunedChroma(nn.Module):
    """One clip to its 12 chroma from a CQT tuned to it: seven octaves from C1, 36 bins each, folded to semitones.

    Edges reflect, as in the librosa (0.8) with which the hand-crafted baseline was published.
    """

    def __init__(self, sample_rate: int = 22_050, hop: int = 512) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop
        self.spectrum = Spectrum(framing_preset("librosa-0.8", hop=hop))

    def forward(self, samples_T: Tensor) -> Tensor:
        """Return the chroma of every frame, `[F, 12]`.

        Raises:
            UsageError: the clip is empty.
        """
        tuning = estimate_tuning(samples_T, self.sample_rate, 36, self.spectrum)
        cqt = _tuned_cqt(self.sample_rate, self.hop, tuning, samples_T.device)
        return fold_to_chroma(cqt(samples_T[None]), 36)[0]
