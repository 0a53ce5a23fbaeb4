"""Constant-Q transform of batches of clips of any length, exact at every bin.

MERT reconstructs 336 bins (48 an octave, C1 to C8) a frame; done as one bank of 65,536 taps that is a third of the
whole network's arithmetic. Here each kernel costs what its own length asks for. Kernels of a few hops are matrix
products on the clip cut at the hops, so no frame is copied. Long kernels are narrow in frequency: the clip is
transformed once, each kernel takes the stretch of the spectrum where it is not negligible, the stretch is folded to
the frame rate (which is decimation by the hop) and a short inverse FFT gives all frames at once. Nothing is resampled.

Frame i is centred on sample i × hop, so take the hop from the network's stride and cut the target to the network's
frames. A kernel at 32.7 Hz hears two seconds: near the ends of a crop the bass sees the padding.

Letters: B batch, T samples, F frames, M bins, N samples of an FFT, D frames in N samples (N = D × hop).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.cqt_kernels import kernels, response, taps
from carrara.nn.spectral.framing import float32, pad

C1 = 32.7
# Kernels up to so many hops are matrix products, longer ones go through the FFT: measured on 2 cores with AVX2. The
# least number of taps keeps the stretches of spectrum within the spectrum where hops are tiny.
SHORT_HOPS, SHORT_TAPS = 3, 256
# A Hann kernel is below 1e-5 of its peak this many of its own cycles (rate / length) away from its centre.
LOBES = 32
PLANS_KEPT = 8
# More clips at once fall out of a CPU's cache (measured: 1.4 times slower in eights than in twos).
CLIPS_AT_ONCE_ON_CPU = 2
FOLDS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class Stretch:
    """Long kernels with equally wide stretches of spectrum: where each starts, and its response `[M, folds, D]`."""

    starts_M: Tensor
    response_MRD: Tensor


class CQT(nn.Module):
    """Samples `[B, T]` to CQT magnitudes `[B, T // hop + 1, bins]`, in single precision under autocast too."""

    def __init__(
        self,
        sample_rate: int,
        hop: int,
        bins: int = 336,
        bins_per_octave: int = 48,
        lowest: float = C1,
        padding: Literal["zeros", "reflect"] = "zeros",
    ) -> None:
        """Prepare the short kernels; the long ones wait for the length of the first clip.

        Args:
            sample_rate: of the samples, in Hz.
            hop: samples from one frame to the next.
            bins: number of bins.
            bins_per_octave: how many of them make an octave.
            lowest: centre frequency of the first, in Hz.
            padding: what lies beyond the clips' ends.

        Raises:
            UsageError: the highest bin lies above half the sample rate, or the hop is below 2 samples.
        """
        super().__init__()
        if hop < 2:
            raise UsageError(f"a CQT cannot hop by {hop} samples; use 2 or more")
        self.kernels = kernels(sample_rate, bins, bins_per_octave, lowest)
        self.hop, self.bins, self.padding = hop, bins, padding
        self.long = sum(length > max(SHORT_HOPS * hop, SHORT_TAPS) for length in self.kernels.lengths)
        self.margin = math.ceil(self.kernels.reach / hop)
        self.short: list[tuple[str, int]] = []
        for number, bounds in enumerate(_octaves(self.kernels.lengths, self.long)):
            self.short.append((f"taps_{number}", math.ceil(self.kernels.lengths[bounds.start] / 2)))
            self.register_buffer(f"taps_{number}", self._chunks(bounds), persistent=False)
        self.plans: dict[tuple[int, torch.device], list[Stretch]] = {}

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the magnitudes, `[B, F, M]`; the gain of a clip goes through linearly.

        Raises:
            UsageError: the clips are empty.
        """
        with float32(samples_BT), torch.no_grad():
            samples_BT = samples_BT.float()
            count, first = samples_BT.shape[-1] // self.hop + 1, 0
            if self.padding == "reflect":
                edge = self.margin * self.hop
                samples_BT, first = pad(samples_BT, edge, edge, "reflect"), self.margin
            elif samples_BT.shape[-1] == 0:
                raise UsageError("a clip of no samples has no spectrum; leave empty clips out")
            parts = [self._through_fft(samples_BT, first, count)] if self.long else []
            parts += [self._product(samples_BT, name, left, first, count) for name, left in self.short]
            return torch.cat(parts, dim=-1)

    def _chunks(self, bounds: range) -> Tensor:
        """Return the taps of some short kernels cut at the hops, `[chunks, hop, 2 M]`."""
        left = math.ceil(self.kernels.lengths[bounds.start] / 2)
        chunks = math.ceil(2 * left / self.hop)
        placed = torch.zeros(len(bounds), 2, chunks * self.hop, dtype=torch.float64)
        for row, bin in enumerate(bounds):
            length = self.kernels.lengths[bin]
            start = left - math.ceil(length / 2)
            placed[row, :, start : start + length] = taps(self.kernels, bin)
        return placed.view(-1, chunks, self.hop).permute(1, 2, 0).float().contiguous()

    def _product(self, samples_BT: Tensor, name: str, left: int, first: int, count: int) -> Tensor:
        """Return the magnitudes of the short kernels of one buffer, `[B, F, M]`, from frame `first` on."""
        taps_CHM = self.get_buffer(name)
        rows = count + len(taps_CHM) - 1
        start = first * self.hop - left
        right = start + rows * self.hop - samples_BT.shape[-1]
        # Negative padding cuts: only the samples that these frames hear are laid out.
        rows_BRH = nn.functional.pad(samples_BT, (-start, right)).view(len(samples_BT), rows, self.hop)
        sums_BFM = rows_BRH[:, :count] @ taps_CHM[0]
        for chunk in range(1, len(taps_CHM)):
            sums_BFM += rows_BRH[:, chunk : chunk + count] @ taps_CHM[chunk]
        return torch.linalg.vector_norm(sums_BFM.unflatten(-1, (-1, 2)), dim=-1)

    def _through_fft(self, samples_BT: Tensor, first: int, count: int) -> Tensor:
        """Return the magnitudes of the long kernels, `[B, F, M]`, from frame `first` on; long clips in blocks."""
        hop, margin = self.hop, self.margin
        largest = _smooth(max(16 * margin, 1024))
        # One block is enough where the zeros after the clip also serve as the zeros before it.
        if (needed := math.ceil(samples_BT.shape[-1] / hop) + margin) <= largest:
            frames = _smooth(needed)
            block_BN = nn.functional.pad(samples_BT, (0, frames * hop - samples_BT.shape[-1]))
            return self._block(block_BN, frames)[:, first : first + count]
        step = largest - 2 * margin
        blocks = math.ceil(count / step)
        left = (margin - first) * hop
        right = ((blocks - 1) * step + largest) * hop - left - samples_BT.shape[-1]
        padded_BT = nn.functional.pad(samples_BT, (left, right))
        parts = [
            self._block(block_BN, largest)[:, margin : margin + step]
            for block_BN in padded_BT.unfold(-1, largest * hop, step * hop).unbind(dim=1)
        ]
        return torch.cat(parts, dim=1)[:, :count]

    def _block(self, block_BN: Tensor, frames: int) -> Tensor:
        """Return the circular transform of blocks of `frames` hops, `[B, D, M]`, in the long kernels' bins."""
        plan = self._plan(frames, block_BN.device)
        if block_BN.device.type != "cpu":
            return self._folded(block_BN, frames, plan)
        return torch.cat([self._folded(clips_BN, frames, plan) for clips_BN in block_BN.split(CLIPS_AT_ONCE_ON_CPU)])

    def _folded(self, block_BN: Tensor, frames: int, plan: list[Stretch]) -> Tensor:
        """Return the same of a few blocks: each kernel's stretch of the spectrum folded to the frame rate."""
        spectrum_BK = torch.fft.rfft(block_BN)
        # Kernels near 0 Hz reach into negative frequencies, which are the mirror of the positive ones.
        spectrum_BK = torch.cat([spectrum_BK[:, 1 : frames + 1].flip(-1).conj(), spectrum_BK], dim=-1)
        parts = []
        for stretch in plan:
            folds = stretch.response_MRD.shape[1]
            bands_BMRD = spectrum_BK.unfold(-1, folds * frames, 1)[:, stretch.starts_M].unflatten(-1, (folds, frames))
            folded_BMD = (bands_BMRD * stretch.response_MRD).sum(dim=2)
            parts.append(torch.fft.ifft(folded_BMD).abs())
        return torch.cat(parts, dim=1).transpose(1, 2)

    def _plan(self, frames: int, device: torch.device) -> list[Stretch]:
        """Return the long kernels' responses at an FFT of that many hops, from the last few that were made."""
        key = (frames, device)
        if key not in self.plans:
            # Constants made inside inference mode could not be used in training afterwards.
            with torch.inference_mode(False):
                self.plans[key] = [self._stretch(bounds, frames, device) for bounds in self._folded_alike()]
            while len(self.plans) > PLANS_KEPT:
                self.plans.pop(next(iter(self.plans)))
        return self.plans[key]

    def _folds(self, bin: int) -> int:
        """Return how many frame rates wide the stretch of a kernel's spectrum is."""
        wanted = 2 * LOBES * self.hop / self.kernels.lengths[bin]
        return next(width for width in FOLDS if width >= wanted)

    def _folded_alike(self) -> list[range]:
        folds = [self._folds(bin) for bin in range(self.long)]
        return [_between(folds, width) for width in sorted(set(folds))]

    def _stretch(self, bounds: range, frames: int, device: torch.device) -> Stretch:
        size, width = frames * self.hop, self._folds(bounds.start) * frames
        cycles = size / self.kernels.sample_rate
        centres_M = torch.tensor([round(self.kernels.frequencies[bin] * cycles) for bin in bounds])
        starts_M = (centres_M - width // 2).clamp(-frames, size // 2 + 1 - width)
        values = response(self.kernels, bounds, starts_M, width, size) / self.hop
        values_MRD = values.to(torch.complex64).unflatten(-1, (-1, frames))
        return Stretch((starts_M + frames).to(device), values_MRD.to(device))


def _between(values: list[int], wanted: int) -> range:
    """Return where in a list of neighbours the wanted value stands."""
    first = values.index(wanted)
    return range(first, first + values.count(wanted))


def _octaves(lengths: tuple[int, ...], first: int) -> list[range]:
    """Return the bins from `first` on in runs whose lengths differ by less than a factor of two."""
    runs = []
    while first < len(lengths):
        end = next((bin for bin in range(first, len(lengths)) if 2 * lengths[bin] <= lengths[first]), len(lengths))
        runs.append(range(first, end))
        first = end
    return runs


def _smooth(least: int) -> int:
    """Return the smallest even number from `least` on with no prime factor above 5, which FFTs are fast on."""
    number = least + least % 2
    while True:
        rest = number
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number += 2
