"""The spectrogram that is masked: windows of 4,096 samples at 44.1 kHz (Hann), one frame every 1,024.

Open-Unmix's resolution [stoter2019], the same for every encoder, so that all have the same upper bound. The features
come at the encoder's own frame rate and are interpolated linearly to these frames: frame f is at f · 1024 samples,
feature frame i at i / frame rate. Samples are mirrored at the borders of a window.

Letters: B batch, T samples, F frames, K bins (2,049), S feature frames, H samples of a hop.
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


def num_frames(samples: int) -> int:
    """Return the number of frames of a window of so many samples."""
    return samples // HOP + 1


def stft(samples_BT: Tensor) -> Tensor:
    """Return the complex spectrogram `[…, F, K]` of samples `[…, T]`."""
    flat_BT = samples_BT.reshape(-1, samples_BT.shape[-1])
    spectra_BKF = torch.stft(flat_BT, SIZE, HOP, window=_hann_window(samples_BT), return_complex=True)
    return spectra_BKF.transpose(1, 2).reshape(*samples_BT.shape[:-1], -1, BINS)


def istft(spectra_BFK: Tensor, samples: int) -> Tensor:
    """Return the samples `[…, T]` whose spectrogram is nearest to `[…, F, K]`; T is at most (F - 1) · 1024.

    A window is four hops long, so the overlap-add is a sum of four shifted rows; `torch.istft` gives the same in three
    times the time.
    """
    window_T = _hann_window(spectra_BFK.real)
    frames_BFSH = (torch.fft.irfft(spectra_BFK, n=SIZE) * window_T).unflatten(-1, (SHIFTS, HOP))
    weights_SH = window_T.square().view(SHIFTS, HOP)
    lead, count = frames_BFSH.shape[:-3], frames_BFSH.shape[-3]
    sum_BFH = frames_BFSH.new_zeros(*lead, count + SHIFTS - 1, HOP)
    weight_FH = frames_BFSH.new_zeros(count + SHIFTS - 1, HOP)
    for shift in range(SHIFTS):
        sum_BFH[..., shift : shift + count, :] += frames_BFSH[..., shift, :]
        weight_FH[shift : shift + count] += weights_SH[shift]
    unpadded = slice(SIZE // 2, SIZE // 2 + samples)
    return sum_BFH.flatten(-2)[..., unpadded] / weight_FH.flatten()[unpadded]


def interpolation_weights(times_S: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each spectrogram frame the feature frames before and after it, and the weight of the later one.

    Args:
        times_S: time of each feature frame in seconds, ascending.
        frames: F; outside the feature frames the nearest one is taken.
    """
    position_F = np.interp(np.arange(frames) * HOP / SAMPLE_RATE, times_S, np.arange(len(times_S)))
    before_F = np.minimum(np.floor(position_F).astype(np.int64), max(len(times_S) - 2, 0))
    return before_F, np.minimum(before_F + 1, len(times_S) - 1), (position_F - before_F).astype(np.float32)


def _hann_window(like: Tensor) -> Tensor:
    return torch.hann_window(SIZE, device=like.device, dtype=like.dtype)
