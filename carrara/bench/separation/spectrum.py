"""The spectrogram that is masked: 4,096 samples at 44.1 kHz under a Hann window, one frame every 1,024.

Open-Unmix's resolution (Stöter et al. 2019), the same for every encoder, so that all share one ceiling: the features,
which come at the encoder's own frame rate, are interpolated linearly to these frames. Frame f stands at f · 1024
samples, feature frame i at i / frame rate. Sound is mirrored at the borders of a window.

Letters: B batch, T samples, F frames, K bins (2,049), C channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from carrara.audio.stems import STEM_RATE

SAMPLE_RATE = STEM_RATE
SIZE, HOP = 4096, 1024
SHIFTS = SIZE // HOP
BINS = SIZE // 2 + 1


def frames(samples: int) -> int:
    """Return how many frames a window of so many samples has."""
    return samples // HOP + 1


def spectrum(samples_BT: Tensor) -> Tensor:
    """Return the complex spectrogram `[…, F, K]` of samples `[…, T]`."""
    flat_BT = samples_BT.reshape(-1, samples_BT.shape[-1])
    found_BKF = torch.stft(flat_BT, SIZE, HOP, window=_window(samples_BT), return_complex=True)
    return found_BKF.transpose(1, 2).reshape(*samples_BT.shape[:-1], -1, BINS)


def sound(spectrum_BFK: Tensor, samples: int) -> Tensor:
    """Return the samples `[…, T]` whose spectrogram is nearest to `[…, F, K]`, from `(F - 1) · 1024` of them down.

    A window is four hops long, so frames add up as four shifted rows; `torch.istft` gives the same in three times the
    time.
    """
    window_T = _window(spectrum_BFK.real)
    frames_BFSH = (torch.fft.irfft(spectrum_BFK, n=SIZE) * window_T).unflatten(-1, (SHIFTS, HOP))
    weights_SH = window_T.square().view(SHIFTS, HOP)
    lead, count = frames_BFSH.shape[:-3], frames_BFSH.shape[-3]
    sum_BFH = frames_BFSH.new_zeros(*lead, count + SHIFTS - 1, HOP)
    weight_FH = frames_BFSH.new_zeros(count + SHIFTS - 1, HOP)
    for shift in range(SHIFTS):
        sum_BFH[..., shift : shift + count, :] += frames_BFSH[..., shift, :]
        weight_FH[shift : shift + count] += weights_SH[shift]
    whole = slice(SIZE // 2, SIZE // 2 + samples)
    return sum_BFH.flatten(-2)[..., whole] / weight_FH.flatten()[whole]


def between(times_S: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of the `wanted` frames the feature frames before and after it, and the share of the later one.

    Args:
        times_S: when each feature frame stands, in seconds, ascending.
        wanted: F; outside the feature frames the nearest one is taken.
    """
    places_F = np.interp(np.arange(wanted) * HOP / SAMPLE_RATE, times_S, np.arange(len(times_S)))
    before_F = np.minimum(np.floor(places_F).astype(np.int64), max(len(times_S) - 2, 0))
    return before_F, np.minimum(before_F + 1, len(times_S) - 1), (places_F - before_F).astype(np.float32)


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(SIZE, device=like.device, dtype=like.dtype)
