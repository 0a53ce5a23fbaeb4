"""Judging whole songs: window by window, masks on the stereo mixture, sums of energies, the global SDR of each stem.

A song is heard in windows of the training's length, one after the other, the last filled up with silence that does not
count. The mask made from the mono mixture goes on both channels; the mixture's phase is kept. Validation stops there;
the test may add a Wiener filter (`wiener.py`). Sums are gathered in double precision; no song is held.

Letters: B windows of a song, J stems, C channels, T samples, F frames, K bins, U songs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from carrara.bench.separation import spectrum
from carrara.bench.separation.songs import Reading, Song, Windows, load_windows
from carrara.core.errors import AudioError, DataError
from carrara.features.prefetch import prefetch
from carrara.metrics.sdr import sdr_from_sums

HELD = 4  # windows of one song
THREADS, DEPTH = 2, 1
Estimate = Callable[[Tensor], Tensor]  # spectra of the mixture [B, C, F, K] → of the stems [B, J, C, F, K]


class Ledger:
    """Σ s² and Σ (s − ŝ)² of every song and stem, `[U, J]` each."""

    def __init__(self, songs: int, stems: int) -> None:
        self.signal_UJ, self.error_UJ = np.zeros((2, songs, stems))

    def add(self, windows: Windows, estimates_BJCT: Tensor) -> None:
        """Count windows of a song with what was made of them."""
        stems_BJCT = torch.from_numpy(windows.stems_BJCT).to(estimates_BJCT.device)
        for stems_JCT, estimates_JCT, valid in zip(stems_BJCT, estimates_BJCT, windows.valid_B):
            truth_JCT = stems_JCT[..., :valid]
            off_JCT = truth_JCT - estimates_JCT[..., :valid]
            for sums_UJ, energy_JCT in ((self.signal_UJ, truth_JCT), (self.error_UJ, off_JCT)):
                sums_UJ[windows.song] += windows.channels * energy_JCT.square().sum((1, 2)).cpu().numpy()

    def sdr_UJ(self) -> np.ndarray:
        """Return the SDR of every song and stem in dB."""
        return sdr_from_sums(self.signal_UJ, self.error_UJ)


def passing(songs: Sequence[Song], reading: Reading) -> Iterator[Windows]:
    """Yield all windows of all songs, a few of one song at a time, read ahead in threads.

    Raises:
        DataError: a file cannot be read.
    """
    cuts = [
        (place, range(0, song.samples, reading.window)[low : low + HELD])
        for place, song in enumerate(songs)
        for low in range(0, -(-song.samples // reading.window), HELD)
    ]
    sources = [partial(_read, songs, place, starts, reading) for place, starts in cuts]
    yield from arrived(sources)


def arrived(sources: Sequence[Callable[[], Iterator]]) -> Iterator:
    """Yield what sources give, in order.

    Raises:
        DataError: a file cannot be read.
    """
    with closing(prefetch(sources, THREADS, DEPTH)) as items:
        for _, item in items:
            if isinstance(item, AudioError):
                raise DataError(f"{item}; repair the file, or remove it and measure with --partial")
            if item is not None:
                yield item


@torch.no_grad()
def estimated(windows: Windows, estimate: Estimate, device: str) -> Tensor:
    """Return the stems' sound that an estimate of their spectra gives, `[B, J, C, T]`."""
    spectra_BCFK = spectrum.spectrum(torch.from_numpy(windows.mixture_BCT).to(device))
    return spectrum.sound(estimate(spectra_BCFK), windows.mixture_BCT.shape[-1])


def masked(masks_BJFK: Tensor) -> Estimate:
    """Return the estimate that puts masks on the mixture."""
    # The parts of a complex number by themselves: a product of types would first make the masks complex.
    return lambda spectra_BCFK: torch.view_as_complex(
        masks_BJFK[:, :, None, ..., None] * torch.view_as_real(spectra_BCFK)[:, None]
    )


def _read(songs: Sequence[Song], song: int, starts: Sequence[int], reading: Reading) -> Iterator[Windows]:
    yield load_windows(songs, song, starts, reading)
