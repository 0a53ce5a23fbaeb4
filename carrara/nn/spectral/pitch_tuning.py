"""How far a recording is tuned from A = 440 Hz, by librosa's estimate: a histogram of its spectral peaks' residues.

Peaks between 150 and 4000 Hz in frames of 2048 samples are refined by a parabola, and those of at least the median
strength vote in steps of a hundredth of a bin. The result shifts the bins of a chroma's CQT.

Letters: T samples, F frames, K frequencies of the FFT, P peaks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from carrara.nn.spectral.framing import Spectrum, no_autocast

MIN_HZ, MAX_HZ = 150.0, 4000.0
# Fraction of a frame's maximum from which a peak counts.
THRESHOLD = 0.1
STEPS = 100


def estimate_tuning(samples_T: Tensor, sample_rate: int, bins_per_octave: int, spectrum: Spectrum) -> float:
    """Return a clip's tuning in fractions of a bin, from −0.5 to 0.49; 0 where it has no peaks, as in silence.

    Args:
        samples_T: one clip.
        sample_rate: in Hz.
        bins_per_octave: number of bins of an octave.
        spectrum: power spectrum in which the peaks are searched.
    """
    with no_autocast(samples_T), torch.no_grad():
        blocks = [_find_peaks(power_BFK[0].sqrt(), sample_rate) for power_BFK in spectrum.blocks(samples_T[None])]
        pitch_P, strength_P = (torch.cat(parts) for parts in zip(*blocks))
        if not len(pitch_P):
            return 0.0
        # torch.median takes the lower of two middle values; librosa takes their mean.
        median = strength_P.sort().values[[(len(strength_P) - 1) // 2, len(strength_P) // 2]].mean()
        octaves_P = torch.log2(pitch_P[strength_P >= median].double() / 440.0)
        residue_P = (bins_per_octave * octaves_P).remainder(1.0)
        residue_P = torch.where(residue_P >= 0.5, residue_P - 1.0, residue_P)
        edges = torch.linspace(-0.5, 0.5, STEPS + 1, dtype=torch.float64, device=residue_P.device)
        votes = torch.bincount(torch.bucketize(residue_P, edges, right=True) - 1, minlength=STEPS)
        return float(edges[votes.argmax()])


def _find_peaks(magnitude_FK: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Return frequency in Hz and strength of the local maxima of each frame within the range of pitches, `[P]` each."""
    spacing = sample_rate / (2 * (magnitude_FK.shape[1] - 1))
    loud_FK = magnitude_FK * (magnitude_FK > THRESHOLD * magnitude_FK.amax(dim=1, keepdim=True))
    left_FK, centre_FK, right_FK = loud_FK[:, :-2], loud_FK[:, 1:-1], loud_FK[:, 2:]
    hertz_K = torch.arange(1, magnitude_FK.shape[1] - 1, device=magnitude_FK.device) * spacing
    within_K = (hertz_K >= MIN_HZ) & (hertz_K < min(MAX_HZ, sample_rate / 2))
    frame_P, bin_P = torch.nonzero((centre_FK > left_FK) & (centre_FK >= right_FK) & within_K, as_tuple=True)
    before_P, peak_P, after_P = (magnitude_FK[frame_P, bin_P + offset] for offset in (0, 1, 2))
    slope_P, curvature_P = (after_P - before_P) / 2, after_P + before_P - 2 * peak_P
    # A vertex outside the neighbouring bins is no vertex of this peak.
    shift_P = torch.where(slope_P.abs() < curvature_P.abs(), -slope_P / curvature_P, torch.zeros_like(slope_P))
    pitch_P = (bin_P + 1 + shift_P) * spacing
    return pitch_P, peak_P + 0.5 * slope_P * shift_P
