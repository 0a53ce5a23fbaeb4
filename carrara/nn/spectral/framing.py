"""Framing and power spectra: the window, its edges and the number of frames as parameters, with the named conventions.

"The same" spectrogram exists in several framings that differ at the edges of a clip and, by a symmetric or a periodic
window, inside it. Weights trained on one give slightly wrong features on another, so models name their convention:
`essentia` (what MAEST, MusiCNN and EffNet-Discogs were trained on), `maest-torch`, `maest-hf`, `musicnn`, `librosa`
(0.10 and later), `librosa-0.8` (reflecting edges) and `kaldi`.

Letters: B batch, T samples, F frames, W samples of a window, K frequencies of the FFT, M bands or bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError, did_you_mean

# Samples of a block of frames: on a CPU what stays in its cache (measured: twice the speed of one block of 4096
# frames), elsewhere what keeps the device busy.
CPU_BLOCK, DEVICE_BLOCK = 2**18, 2**25


@dataclass(frozen=True)
class Framing:
    """How a clip is split into frames.

    Attributes:
        window: samples of the window.
        hop: samples from one frame to the next.
        fft_size: length of the FFT, at least `window`.
        window_type: "hann", or "povey" (Kaldi's: symmetric Hann to the power 0.85).
        symmetric: whether the window's denominator is W − 1 (symmetric) or W (periodic).
        padding: values beyond the clip's ends: "zeros", "reflect", or "none" (only frames that fit inside).
        keep_last: whether a centred framing keeps the frame past the last whole hop: T // hop + 1 frames or T // hop.
        preemphasis: coefficient of Kaldi's pre-emphasis within each frame; 0 for none.
        remove_mean: whether each frame's mean is subtracted first.
    """

    window: int
    hop: int
    fft_size: int
    window_type: Literal["hann", "povey"] = "hann"
    symmetric: bool = False
    padding: Literal["zeros", "reflect", "none"] = "zeros"
    keep_last: bool = True
    preemphasis: float = 0.0
    remove_mean: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.fft_size:
            raise UsageError(
                f"a window of {self.window} samples needs an FFT of that size or more, not {self.fft_size}"
            )
        if self.hop < 1:
            raise UsageError(f"a hop of {self.hop} samples does not move; use 1 or more")

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of a clip of `samples` samples (at least 1)."""
        if self.padding == "none":
            return max(samples - self.window, 0) // self.hop + 1
        return max(samples // self.hop + self.keep_last, 1)


PRESETS = {
    "essentia": Framing(512, 256, 512, symmetric=True, keep_last=False),
    "maest-torch": Framing(512, 256, 512, padding="reflect"),
    "maest-hf": Framing(512, 256, 512),
    "musicnn": Framing(512, 256, 512, padding="reflect"),
    "librosa": Framing(2048, 512, 2048),
    "librosa-0.8": Framing(2048, 512, 2048, padding="reflect"),
    "kaldi": Framing(400, 160, 512, "povey", True, "none", preemphasis=0.97, remove_mean=True),
}


def framing_preset(
    name: str, window: int | None = None, hop: int | None = None, fft_size: int | None = None
) -> Framing:
    """Return a named convention, with other lengths where given (in samples).

    Without `fft_size` a given `window` is its own FFT length, or for "kaldi" the next power of two.

    Raises:
        UsageError: there is no such convention, or the lengths do not fit together.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no framing {name!r}.{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    framing = PRESETS[name]
    if window is not None and fft_size is None:
        fft_size = 2 ** math.ceil(math.log2(window)) if name == "kaldi" else window
    return replace(
        framing, window=window or framing.window, hop=hop or framing.hop, fft_size=fft_size or framing.fft_size
    )


def no_autocast(samples: Tensor) -> AbstractContextManager:
    """Return a context without autocast on the device of `samples`."""
    return torch.autocast(samples.device.type, enabled=False)


def make_window(framing: Framing) -> Tensor:
    """Return the window, `[W]`, in double precision."""
    denominator = framing.window - 1 if framing.symmetric else framing.window
    angle = torch.arange(framing.window, dtype=torch.float64) * (2 * math.pi / max(denominator, 1))
    hann = 0.5 - 0.5 * torch.cos(angle)
    return hann**0.85 if framing.window_type == "povey" else hann


def pad_edges(samples_BT: Tensor, left: int, right: int, mode: Literal["zeros", "reflect", "none"]) -> Tensor:
    """Return the clips padded at both ends.

    A reflection repeats no end sample and continues back and forth where the clip is shorter than the padding; a clip
    of one sample reflects into a constant. "none" means zeros too: it only fills up a first frame.

    Raises:
        UsageError: the clips are empty.
    """
    length = samples_BT.shape[-1]
    if length == 0:
        raise UsageError("a clip of no samples has no spectrum; leave empty clips out")
    if mode != "reflect":
        return nn.functional.pad(samples_BT, (left, right))
    if max(left, right) < length:
        return nn.functional.pad(samples_BT[:, None], (left, right), mode="reflect")[:, 0]
    period = max(2 * (length - 1), 1)
    index = torch.arange(-left, length + right, device=samples_BT.device).remainder(period)
    return samples_BT[:, torch.minimum(index, period - index) if length > 1 else index]


def split_frames(samples_BT: Tensor, framing: Framing) -> Tensor:
    """Return the frames of each clip before windowing, `[B, F, W]`, as a view of the padded clips.

    A clip shorter than one window of a framing without padding gets zeros at its end.
    """
    length, count = samples_BT.shape[-1], framing.num_frames(samples_BT.shape[-1])
    # A window shorter than the FFT is in its middle, as in librosa, which moves its first sample.
    left = 0 if framing.padding == "none" else framing.fft_size // 2 - (framing.fft_size - framing.window) // 2
    right = max((count - 1) * framing.hop + framing.window - left - length, 0)
    padded_BT = pad_edges(samples_BT, left, right, framing.padding)
    return padded_BT.unfold(-1, framing.window, framing.hop)[:, :count]


class Spectrum(nn.Module):
    """Power spectrum of each frame in single precision, under autocast too; long clips in blocks of frames."""

    window_W: Tensor

    def __init__(self, framing: Framing, persistent: bool = False) -> None:
        super().__init__()
        self.framing = framing
        self.register_buffer("window_W", make_window(framing).float(), persistent=persistent)

    def forward(self, samples_BT: Tensor, bank_KM: Tensor | None = None) -> Tensor:
        """Return the power `[B, F, K]`, or its bands `[B, F, M]` where a filter bank is given.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT):
            blocks = self.blocks(samples_BT)
            return torch.cat([power if bank_KM is None else power @ bank_KM for power in blocks], dim=1)

    def blocks(self, samples_BT: Tensor) -> Iterator[Tensor]:
        """Yield the power of successive blocks of frames, `[B, some F, K]`, so that memory stays flat."""
        limit = CPU_BLOCK if samples_BT.device.type == "cpu" else DEVICE_BLOCK
        count = max(limit // (max(len(samples_BT), 1) * self.framing.window), 1)
        for frames_BFW in split_frames(samples_BT.float(), self.framing).split(count, dim=1):
            if self.framing.remove_mean:
                frames_BFW = frames_BFW - frames_BFW.mean(dim=-1, keepdim=True)
            if self.framing.preemphasis:
                # The sample before the frame counts as equal to the first, as in Kaldi.
                before_BFW = torch.cat([frames_BFW[..., :1], frames_BFW[..., :-1]], dim=-1)
                frames_BFW = frames_BFW - self.framing.preemphasis * before_BFW
            spectrum_BFK = torch.fft.rfft(frames_BFW * self.window_W, n=self.framing.fft_size)
            yield torch.view_as_real(spectrum_BFK).square().sum(dim=-1)
