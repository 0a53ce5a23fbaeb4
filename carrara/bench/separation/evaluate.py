"""Evaluates whole songs window by window: masks on the stereo mixture, sums of energies, the global SDR of each stem.

A song is split into consecutive windows of the training length; the last is padded with silence that does not count.
The mask that comes from the mono mixture is applied to both channels, with the mixture's phase. Sums are in double
precision; only a few windows are in memory.

On the test songs, one step of expectation maximisation of a multichannel Wiener filter [duong2010] may follow, with
one more source for what the stems leave, as in MARBLE's evaluation [notes/benchmark §1.9]; it makes the two channels
agree on where each stem is. The filter is the package norbert (`pip install carrara[separation]`); without it the
masks' own estimate counts. A record's `chosen` names it: `post_filter` is `norbert-<version>` or `none`. It filters a
window at a time, as MARBLE's filters 8 s.

Letters: B windows of a song, J stems, C channels, T samples, F frames, K bins, U songs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from carrara.bench.decode import prefetched
from carrara.bench.separation import spectrum
from carrara.bench.separation.songs import Song, SongWindows, WindowFormat, load_windows
from carrara.metrics.sdr import sdr_from_sums

WINDOWS_AT_ONCE = 4
WIENER_ITERATIONS = 1
NO_FILTER = "none"

StemSpectra = Callable[[Tensor, Tensor], Tensor]  # masks [B, J, F, K], mixture [B, C, F, K] → stems [B, J, C, F, K]


class SDRAccumulator:
    """Σ s² and Σ (s - ŝ)² of every song and stem, `[U, J]` each."""

    def __init__(self, songs: int, stems: int) -> None:
        self.signal_UJ, self.error_UJ = np.zeros((2, songs, stems))

    def add(self, windows: SongWindows, estimates_BJCT: Tensor) -> None:
        """Add windows of a song and the estimates of their stems."""
        stems_BJCT = torch.from_numpy(windows.stems_BJCT).to(estimates_BJCT.device)
        for stems_JCT, estimates_JCT, valid in zip(stems_BJCT, estimates_BJCT, windows.valid_B):
            truth_JCT = stems_JCT[..., :valid]
            error_JCT = truth_JCT - estimates_JCT[..., :valid]
            for sums_UJ, samples_JCT in ((self.signal_UJ, truth_JCT), (self.error_UJ, error_JCT)):
                sums_UJ[windows.song] += windows.channels * samples_JCT.square().sum((1, 2)).cpu().numpy()

    def sdr_UJ(self) -> np.ndarray:
        """Return the SDR of every song and stem in dB."""
        return sdr_from_sums(self.signal_UJ, self.error_UJ)


def iter_windows(songs: Sequence[Song], window_format: WindowFormat) -> Iterator[SongWindows]:
    """Yield all windows of all songs, a few of one song at a time, read ahead in threads.

    Raises:
        DataError: a file cannot be read.
    """

    def load(index: int, starts: Sequence[int]) -> Iterator[SongWindows]:
        yield load_windows(songs, index, starts, window_format)

    sources = [
        partial(load, index, starts[low : low + WINDOWS_AT_ONCE])
        for index, song in enumerate(songs)
        for starts in [range(0, song.samples, window_format.window)]
        for low in range(0, len(starts), WINDOWS_AT_ONCE)
    ]
    for _, windows in prefetched(sources, depth=1):
        yield windows


def apply_masks(masks_BJFK: Tensor, mixture_BCFK: Tensor) -> Tensor:
    """Return the stems' spectra, `[B, J, C, F, K]`: the mixture's, times the masks."""
    # Real and imaginary part separately: a product of mixed types would first make the masks complex.
    return torch.view_as_complex(masks_BJFK[:, :, None, ..., None] * torch.view_as_real(mixture_BCFK)[:, None])


@torch.no_grad()
def separate(windows: SongWindows, masks_BJFK: Tensor, stem_spectra: StemSpectra = apply_masks) -> Tensor:
    """Return the samples of the stems of windows, `[B, J, C, T]`."""
    mixture_BCFK = spectrum.stft(torch.from_numpy(windows.mixture_BCT).to(masks_BJFK.device))
    return spectrum.istft(stem_spectra(masks_BJFK, mixture_BCFK), windows.mixture_BCT.shape[-1])


def post_filter() -> str:
    """Return the name of the filter that is installed, or "none"."""
    try:
        return f"norbert-{version('norbert')}"
    except PackageNotFoundError:
        return NO_FILTER


def wiener_filter(masks_BJFK: Tensor, mixture_BCFK: Tensor) -> Tensor:
    """Return the stems' spectra, `[B, J, C, F, K]`, after masks and filter; without norbert after the masks alone."""
    if post_filter() == NO_FILTER:
        return apply_masks(masks_BJFK, mixture_BCFK)
    import norbert

    stems = []
    for masks_JFK, mixture_CFK in zip(masks_BJFK, mixture_BCFK):
        # The library divides the mixture in place, and needs double precision.
        mixture_FKC = mixture_CFK.permute(1, 2, 0).cpu().numpy().astype(np.complex128)
        masks_FKJ = masks_JFK.permute(1, 2, 0).cpu().numpy().astype(np.float64)
        magnitudes_FKCJ = masks_FKJ[:, :, None] * np.abs(mixture_FKC)[..., None]
        with_residual_FKCJ = norbert.residual_model(magnitudes_FKCJ, mixture_FKC)
        spectra_FKCJ = norbert.wiener(with_residual_FKCJ, mixture_FKC, WIENER_ITERATIONS, use_softmask=False)
        stems_FKCJ = spectra_FKCJ[..., : len(masks_JFK)].astype(np.complex64)
        stems.append(torch.from_numpy(stems_FKCJ).permute(3, 2, 0, 1).to(mixture_CFK.device))
    return torch.stack(stems)
