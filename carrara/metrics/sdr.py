"""Source-to-distortion ratio of a whole song in dB: the global SDR of the Music Demixing Challenge 2021.

SDR = 10 log10((Σ s² + ε) / (Σ (s − ŝ)² + ε)) over all samples and both channels at 44.1 kHz, ε = 1e-7 [mitsufuji2021]
[notes/benchmark §1.9]; a benchmark reports its mean over songs. It is not the median over windows with permitted
filtering that BSSEval and museval give. A stem that is silent throughout scores 0 dB if its estimate is silent too, and
falls with the energy of the estimate otherwise. The sums can be accumulated, so a song need not be held in memory.
"""

from __future__ import annotations

import numpy as np

EPSILON = 1e-7


def sdr(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Return the global SDR of one song's stem in dB, from samples `[channels, samples]` each."""
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    return float(sdr_from_sums(np.sum(truth**2), np.sum((truth - estimate) ** 2)))


def sdr_from_sums(signal: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the SDR in dB from Σ s² and Σ (s − ŝ)², entry by entry."""
    return 10 * np.log10((np.asarray(signal) + EPSILON) / (np.asarray(error) + EPSILON))
