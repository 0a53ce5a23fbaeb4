"""The reconstruction target made of a CQT, its magnitude as in MERT or a logarithm; statistics of bins over a corpus.

With the bare magnitude, 93 % of the variance on a clip of music lies below 523 Hz and the loss grows with the square
of the gain, so a crop's loudness decides its weight. `log` is ln(1 + 100 x): 0 in silence, 40 dB of range above the
knee for ordinary music.

Letters: B batch, F frames, M bins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from carrara.core.errors import DataError, UsageError

Form = Literal["magnitude", "log"]
LOG_GAIN = 100.0
# A bin that is almost always silent would otherwise be amplified by its tiny std.
MIN_STD = 1e-3


@dataclass(frozen=True)
class CqtStatistics:
    """Mean and population standard deviation of each bin's magnitude over a corpus, `[M]` each, single precision."""

    mean_M: Tensor
    std_M: Tensor


def compute_bin_statistics(magnitudes: Iterable[Tensor]) -> CqtStatistics:
    """Return the statistics over all frames of spectra `[…, F, M]`, read one by one and summed in double precision.

    Raises:
        DataError: there is no frame.
    """
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    for magnitude in magnitudes:
        frames_NM = magnitude.detach().double().cpu().flatten(0, -2)
        count += len(frames_NM)
        total = total + frames_NM.sum(dim=0)
        squares = squares + frames_NM.square().sum(dim=0)
    if not count:
        raise DataError("statistics of a spectrum need at least one frame; give a corpus with readable audio in it")
    mean_M = total / count
    return CqtStatistics(mean_M.float(), (squares / count - mean_M.square()).clamp(min=0).sqrt().float())


def cqt_target(cqt_BFM: Tensor, form: Form) -> Tensor:
    """Return a CQT's magnitudes in the form to be predicted, `[B, F, M]`.

    Raises:
        UsageError: the form is unknown.
    """
    if form == "magnitude":
        return cqt_BFM
    if form == "log":
        return torch.log1p(LOG_GAIN * cqt_BFM)
    raise UsageError(f"there is no CQT target {form!r}; use magnitude or log")
