"""Constant-Q transform of batches of clips of any length, exact at every bin.

Brown's transform [brown1991] in the convention of nnAudio's `CQT1992v2`, on which MERT is trained: Q = 1 / (2^(1/b) −
1) cycles in each kernel, length ceil(Q × rate / frequency), periodic Hann window, unit L1 norm, then times the square
root of the length. (librosa 0.10 and later uses a Q that is larger by about 1.5 / b of itself.)

MERT reconstructs 336 bins (48 an octave, C1 to C8) a frame; done as one bank of 65,536 taps that is a third of the
whole network's arithmetic. Here each kernel costs what its own length requires. Kernels of a few hops are matrix
products on the clip split at the hops, so no frame is copied. Long kernels are narrow in frequency: the clip is
transformed once, each kernel takes the band of the spectrum where it is not negligible, the band is folded to the
frame rate (which is decimation by the hop) and a short inverse FFT gives all frames at once. Nothing is resampled. A
kernel's spectrum is three Dirichlet kernels, so any band of it is computed directly, whatever the FFT's length.

Frame i is centred on sample i × hop, so take the hop from the network's stride and cut the target to the network's
frames. A kernel at 32.7 Hz is two seconds long: near the ends of a crop the bass depends on the padding.

Letters: B batch, T samples, F frames, M bins, L taps of a kernel, N samples of an FFT, K frequencies, D frames in N
samples (N = D × hop), R folds of a band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.nn.spectral.framing import no_autocast, pad_edges

C1 = 32.7
# Kernels up to so many hops are matrix products, longer ones go through the FFT: measured on 2 cores with AVX2. The
# minimum number of taps keeps the bands within the spectrum where hops are tiny.
SHORT_HOPS, SHORT_TAPS = 3, 256
# A Hann kernel is below 1e-5 of its peak this many of its own cycles (rate / length) away from its centre.
LOBES = 32
# Hops by which `MatrixCQT` extends long kernels: where their spectra end, they ring on.
RINGING_HOPS = 8
# Of the long kernels' spectra that all transforms keep. Those of one tuning are 10 MB and take as long to make as two
# minutes of audio to transform (measured), and hand-crafted chroma has 100 tunings.
PLAN_BYTES = 256 * 2**20
# More clips at once fall out of a CPU's cache (measured: 1.4 times slower in eights than in twos).
CPU_CLIPS = 2
FOLDS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class CqtKernels:
    """Centre frequencies in Hz (ascending) and lengths in samples of the bins' kernels, at a sample rate in Hz."""

    frequencies: tuple[float, ...]
    lengths: tuple[int, ...]
    sample_rate: int

    @property
    def reach(self) -> int:
        """Samples that the longest kernel extends to each side of its centre."""
        return self.lengths[0] // 2 + 1


def make_kernels(sample_rate: int, bins: int, bins_per_octave: int, lowest: float) -> CqtKernels:
    """Return the bins' frequencies and lengths.

    Raises:
        UsageError: the highest bin lies above half the sample rate.
    """
    frequencies = tuple(lowest * 2.0 ** (bin / bins_per_octave) for bin in range(bins))
    if frequencies[-1] > sample_rate / 2:
        most = math.floor(math.log2(sample_rate / 2 / lowest) * bins_per_octave) + 1
        raise UsageError(
            f"the highest of {bins} CQT bins is at {frequencies[-1]:.0f} Hz, above half the sample rate of "
            f"{sample_rate} Hz; take at most {most} bins, or a higher sample rate"
        )
    quality = 1.0 / (2.0 ** (1.0 / bins_per_octave) - 1.0)
    lengths = tuple(math.ceil(quality * sample_rate / frequency) for frequency in frequencies)
    return CqtKernels(frequencies, lengths, sample_rate)


def kernel_taps(kernels: CqtKernels, bin: int) -> Tensor:
    """Return one kernel's taps, `[2, L]` (real, imaginary), in double precision; tap ceil(L / 2) is its centre."""
    length = kernels.lengths[bin]
    step = torch.arange(length, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi / length * step)
    angle = (2 * math.pi * kernels.frequencies[bin] / kernels.sample_rate) * (step - math.ceil(length / 2))
    return torch.stack([torch.cos(angle), torch.sin(angle)]) * hann * (math.sqrt(length) / hann.sum())


def kernel_spectra(kernels: CqtKernels, bins: range, starts: Tensor, count: int, fft_size: int) -> Tensor:
    """Return the conjugate spectra of kernels over `count` bins of an FFT, `[M, K]` complex double.

    Args:
        kernels: all kernels.
        bins: which of them.
        starts: `[M]`, the first FFT bin of each band; negative ones are negative frequencies.
        count: FFT bins of each band.
        fft_size: length of the FFT, in samples.
    """
    length_M1 = torch.tensor([kernels.lengths[bin] for bin in bins], dtype=torch.float64)[:, None]
    centre_M1 = torch.tensor([kernels.frequencies[bin] for bin in bins], dtype=torch.float64)[:, None]
    frequency_MK = (starts[:, None] + torch.arange(count)).double() / fft_size
    # Half the angle a sample between each frequency and the kernel's own.
    half_MK = math.pi * (frequency_MK - centre_M1 / kernels.sample_rate)
    lobe_M1 = math.pi / length_M1
    hann_MK = 0.5 * _dirichlet(half_MK, length_M1) + 0j
    for sign in (-1, 1):
        phase_M1 = torch.polar(torch.ones_like(lobe_M1), sign * lobe_M1)
        hann_MK += 0.25 * phase_M1 * _dirichlet(half_MK + sign * lobe_M1, length_M1)
    delay_M1 = length_M1 - 1 - 2 * torch.ceil(length_M1 / 2)
    # The taps' weights sum to half the length, by which the unit L1 norm divides.
    return torch.polar(2.0 / length_M1.sqrt().expand_as(half_MK), half_MK * delay_M1) * hann_MK.conj()


def _dirichlet(half: Tensor, length: Tensor) -> Tensor:
    """Return sin(length × half) / sin(half), with its limit where the denominator vanishes."""
    denominator = torch.sin(half)
    vanishing = denominator.abs() < 1e-12
    return torch.where(vanishing, length, torch.sin(length * half) / torch.where(vanishing, 1.0, denominator))


@dataclass(frozen=True)
class _Band:
    """Long kernels with equally wide bands of the spectrum: start of each, and its spectrum `[M, folds, D]`."""

    starts_M: Tensor
    spectra_MRD: Tensor


# The spectra by transform, number of hops and device, the last used last.
_plans: dict[tuple[Any, ...], list[_Band]] = {}


def _count_bytes(plans: list[list[_Band]]) -> int:
    return sum(band.spectra_MRD.nbytes for plan in plans for band in plan)


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
        double_long: bool = False,
    ) -> None:
        """Prepare the short kernels; the long ones depend on the length of the clips.

        Args:
            sample_rate: in Hz.
            hop: samples from one frame to the next.
            bins: number of bins.
            bins_per_octave: number of bins of an octave.
            lowest: centre frequency of the first bin, in Hz.
            padding: values beyond the clips' ends.
            double_long: whether the long kernels' FFTs run in double precision (except on MPS, which has none). In
                single precision a loud note's rounding, 1e-7 of it, reaches all silent frames of its block, and MKL
                rounds otherwise with another number of threads.

        Raises:
            UsageError: the highest bin lies above half the sample rate, or the hop is below 2 samples.
        """
        super().__init__()
        if hop < 2:
            raise UsageError(f"a CQT cannot hop by {hop} samples; use 2 or more")
        self.kernels = make_kernels(sample_rate, bins, bins_per_octave, lowest)
        self.hop, self.bins, self.padding = hop, bins, padding
        self.double_long = double_long
        lengths = self.kernels.lengths
        self.num_long = sum(length > max(SHORT_HOPS * hop, SHORT_TAPS) for length in lengths)
        self.margin = math.ceil(self.kernels.reach / hop)
        self.largest_block = _fast_fft_length(max(16 * self.margin, 1024))  # in hops
        # Short kernels in groups whose lengths differ by less than a factor of two: name of the taps, half length.
        self.short: list[tuple[str, int]] = []
        first = self.num_long
        while first < bins:
            end = next((bin for bin in range(first, bins) if 2 * lengths[bin] <= lengths[first]), bins)
            name = f"taps_{len(self.short)}"
            self.short.append((name, math.ceil(lengths[first] / 2)))
            self.register_buffer(name, self._chunked_taps(range(first, end)), persistent=False)
            first = end
        self.identity = (sample_rate, bins, bins_per_octave, lowest, hop)

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the magnitudes, `[B, F, M]`; they are linear in a clip's gain.

        Raises:
            UsageError: the clips are empty.
        """
        with no_autocast(samples_BT), torch.no_grad():
            samples_BT = samples_BT.float()
            count, first = samples_BT.shape[-1] // self.hop + 1, 0
            if self.padding == "reflect":
                edge = self.margin * self.hop
                samples_BT, first = pad_edges(samples_BT, edge, edge, "reflect"), self.margin
            elif samples_BT.shape[-1] == 0:
                raise UsageError("a clip of no samples has no spectrum; leave empty clips out")
            parts = [self._long_magnitudes(samples_BT, first, count)] if self.num_long else []
            parts += [self._short_magnitudes(samples_BT, name, left, first, count) for name, left in self.short]
            return torch.cat(parts, dim=-1)

    def _chunked_taps(self, bins: range) -> Tensor:
        """Return the taps of some short kernels split at the hops, `[chunks, hop, 2 M]`."""
        left = math.ceil(self.kernels.lengths[bins.start] / 2)
        chunks = math.ceil(2 * left / self.hop)
        taps = torch.zeros(len(bins), 2, chunks * self.hop, dtype=torch.float64)
        for row, bin in enumerate(bins):
            length = self.kernels.lengths[bin]
            start = left - math.ceil(length / 2)
            taps[row, :, start : start + length] = kernel_taps(self.kernels, bin)
        return taps.view(-1, chunks, self.hop).permute(1, 2, 0).float().contiguous()

    def _short_magnitudes(self, samples_BT: Tensor, name: str, left: int, first: int, count: int) -> Tensor:
        """Return the magnitudes of the short kernels of one buffer, `[B, F, M]`, from frame `first` on."""
        taps_CHM = self.get_buffer(name)
        rows = count + len(taps_CHM) - 1
        start = first * self.hop - left
        right = start + rows * self.hop - samples_BT.shape[-1]
        # Negative padding cuts: only the samples of these frames are laid out.
        rows_BRH = nn.functional.pad(samples_BT, (-start, right)).view(len(samples_BT), rows, self.hop)
        sums_BFM = rows_BRH[:, :count] @ taps_CHM[0]
        for chunk in range(1, len(taps_CHM)):
            sums_BFM += rows_BRH[:, chunk : chunk + count] @ taps_CHM[chunk]
        return torch.linalg.vector_norm(sums_BFM.unflatten(-1, (-1, 2)), dim=-1)

    def _long_magnitudes(self, samples_BT: Tensor, first: int, count: int) -> Tensor:
        """Return the magnitudes of the long kernels, `[B, F, M]`, from frame `first` on; long clips in blocks."""
        hop, margin, largest = self.hop, self.margin, self.largest_block
        # One block is enough where the zeros after the clip also serve as the zeros before it.
        if (needed := math.ceil(samples_BT.shape[-1] / hop) + margin) <= largest:
            frames = _fast_fft_length(needed)
            block_BN = nn.functional.pad(samples_BT, (0, frames * hop - samples_BT.shape[-1]))
            return self._block_magnitudes(block_BN, frames)[:, first : first + count]
        step = largest - 2 * margin
        blocks = math.ceil(count / step)
        left = (margin - first) * hop
        right = ((blocks - 1) * step + largest) * hop - left - samples_BT.shape[-1]
        padded_BT = nn.functional.pad(samples_BT, (left, right))
        parts = [
            self._block_magnitudes(block_BN, largest)[:, margin : margin + step]
            for block_BN in padded_BT.unfold(-1, largest * hop, step * hop).unbind(dim=1)
        ]
        return torch.cat(parts, dim=1)[:, :count]

    def _block_magnitudes(self, block_BN: Tensor, frames: int) -> Tensor:
        """Return the circular transform of blocks of `frames` hops in the long kernels' bins, `[B, D, M]`."""
        plan = self._plan(frames, block_BN.device)
        clips = block_BN.split(CPU_CLIPS) if block_BN.device.type == "cpu" else [block_BN]
        return torch.cat([self._fold_bands(clips_BN, frames, plan) for clips_BN in clips])

    def _fold_bands(self, block_BN: Tensor, frames: int, plan: list[_Band]) -> Tensor:
        """Return each kernel's band of the spectrum folded to the frame rate and transformed back, `[B, D, M]`."""
        is_double = self.double_long and block_BN.device.type != "mps"
        spectrum_BK = torch.fft.rfft(block_BN.double() if is_double else block_BN)
        # Kernels near 0 Hz reach into negative frequencies, which are the mirror of the positive ones.
        spectrum_BK = torch.cat([spectrum_BK[:, 1 : frames + 1].flip(-1).conj(), spectrum_BK], dim=-1)
        parts = []
        for band in plan:
            folds = band.spectra_MRD.shape[1]
            bands_BMRD = spectrum_BK.unfold(-1, folds * frames, 1)[:, band.starts_M].unflatten(-1, (folds, frames))
            folded_BMD = (bands_BMRD * band.spectra_MRD).sum(dim=2)
            parts.append(torch.fft.ifft(folded_BMD).abs().float())
        return torch.cat(parts, dim=1).transpose(1, 2)

    def long_kernels(self) -> Tensor:
        """Return what a long clip's block is convolved with for each long kernel's bin, `[M, N]` complex double.

        Number 0 is the centre; the others follow circularly.
        """
        kernels = []
        for band in self._plan(self.largest_block, torch.device("cpu")):
            size = self.largest_block * self.hop
            for start, spectrum_RD in zip(band.starts_M - self.largest_block, band.spectra_MRD.to(torch.complex128)):
                spectrum_N = torch.zeros(size, dtype=torch.complex128)
                spectrum_N[(start + torch.arange(spectrum_RD.numel())) % size] = self.hop * spectrum_RD.flatten()
                kernels.append(torch.fft.ifft(spectrum_N))
        return torch.stack(kernels)

    def _plan(self, frames: int, device: torch.device) -> list[_Band]:
        """Return the long kernels' spectra at an FFT of that many hops; the last that were used are kept."""
        key = (*self.identity, frames, device)
        plan = _plans.pop(key, None)
        if plan is None:
            plan = self._make_plan(frames, device)
            while _plans and _count_bytes([plan, *_plans.values()]) > PLAN_BYTES:
                _plans.pop(next(iter(_plans)), None)
        _plans[key] = plan
        return plan

    def _make_plan(self, frames: int, device: torch.device) -> list[_Band]:
        kernels, size = self.kernels, frames * self.hop
        # Width of each kernel's band, in frame rates.
        widths = (2 * LOBES * self.hop / length for length in kernels.lengths[: self.num_long])
        folds = [next(fold for fold in FOLDS if fold >= width) for width in widths]
        bands = []
        # Constants made inside inference mode could not be used in training afterwards.
        with torch.inference_mode(False):
            for fold in sorted(set(folds)):
                first = folds.index(fold)
                bins, width = range(first, first + folds.count(fold)), fold * frames
                cycles = size / kernels.sample_rate
                centres_M = torch.tensor([round(kernels.frequencies[bin] * cycles) for bin in bins])
                starts_M = (centres_M - width // 2).clamp(-frames, size // 2 + 1 - width)
                spectra_MK = kernel_spectra(kernels, bins, starts_M, width, size) / self.hop
                spectra_MRD = spectra_MK.to(torch.complex64).unflatten(-1, (-1, frames))
                bands.append(_Band((starts_M + frames).to(device), spectra_MRD.to(device)))
        return bands


def _fast_fft_length(minimum: int) -> int:
    """Return the smallest even number from `minimum` on with no prime factor above 5, for which FFTs are fast."""
    number = minimum + minimum % 2
    while True:
        rest = number
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number += 2


class MatrixCQT(nn.Module):
    """The magnitudes of a `CQT` with zeros beyond the clips' ends, by matrix products only, for runtimes without FFTs.

    Long kernels are in double precision, and end where those of `CQT` do in frequency: of clips that are shorter than
    its largest block the ends differ by less than a bin of their FFT.
    """

    def __init__(self, cqt: CQT) -> None:
        """Prepare all kernels, in groups whose lengths differ by less than a factor of two."""
        super().__init__()
        self.hop = cqt.hop
        self.groups: list[tuple[str, int]] = []
        lengths, long_MN, first = cqt.kernels.lengths, cqt.long_kernels(), 0
        while first < cqt.num_long:
            end = next((bin for bin in range(first, cqt.num_long) if 2 * lengths[bin] <= lengths[first]), cqt.num_long)
            left = math.ceil(lengths[first] / 2) + RINGING_HOPS * self.hop
            chunks = math.ceil(2 * left / self.hop)
            taps_ML = long_MN[first:end, (left - torch.arange(chunks * self.hop)) % long_MN.shape[1]]
            taps_MCH2 = torch.view_as_real(taps_ML).unflatten(1, (chunks, self.hop))
            self._add_group(taps_MCH2.permute(1, 2, 0, 3).flatten(2).contiguous(), left)
            first = end
        for name, left in cqt.short:
            self._add_group(cqt.get_buffer(name), left)

    def _add_group(self, taps_CHM: Tensor, left: int) -> None:
        name = f"taps_{len(self.groups)}"
        self.register_buffer(name, taps_CHM)
        self.groups.append((name, left))

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the magnitudes, `[B, F, M]`."""
        count, parts = samples_BT.shape[-1] // self.hop + 1, []
        for name, left in self.groups:
            taps_CHM = self.get_buffer(name)
            chunks = len(taps_CHM)
            padded_BT = nn.functional.pad(samples_BT.to(taps_CHM.dtype), (left, chunks * self.hop))
            # Gathered by number: a tracer would take a reshape for one of this length only.
            row_R1 = torch.arange(count + chunks - 1, device=samples_BT.device)[:, None]
            rows_BRH = padded_BT[:, row_R1 * self.hop + torch.arange(self.hop, device=samples_BT.device)]
            products_BRCM = (rows_BRH @ taps_CHM.transpose(0, 1).flatten(1)).unflatten(-1, (chunks, -1))
            chunk_C = torch.arange(chunks, device=samples_BT.device)
            frame_F1 = torch.arange(count, device=samples_BT.device)[:, None]
            sums_BFM = products_BRCM.flatten(1, 2)[:, (frame_F1 + chunk_C) * chunks + chunk_C].sum(2)
            parts.append(sums_BFM.unflatten(-1, (-1, 2)).square().sum(-1).sqrt().float())
        return torch.cat(parts, dim=-1)
