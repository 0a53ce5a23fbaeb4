"""The filter after the masks: one step of expectation maximisation of a multichannel Wiener filter, by norbert.

MARBLE's evaluation ends so, with a source more for what the stems leave (benchmark.md 1.9); the step makes the two
channels agree on where each stem stands. norbert (Liutkus and Stöter 2019; MIT) is an optional extra:
`pip install carrara[separation]`. Without it the masks' own estimate counts. A record's `chosen` says which:
`post_filter` is `norbert-<version>` or `none`. The filter hears a window of a song at a time, as MARBLE's hears 8 s.

Letters: B windows, J stems, C channels, F frames, K bins.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from carrara.bench.separation.evaluate import Estimate, masked

ITERATIONS = 1
NONE = "none"


def post_filter() -> str:
    """Return the name of the filter that can be used here."""
    try:
        return f"norbert-{version('norbert')}"
    except PackageNotFoundError:
        return NONE


def filtered(masks_BJFK: Tensor) -> Estimate:
    """Return the estimate that puts masks on the mixture and then filters, where there is a filter."""
    if post_filter() == NONE:
        return masked(masks_BJFK)
    return lambda spectra_BCFK: torch.stack(
        [_filtered(spectra_CFK, masks_JFK) for spectra_CFK, masks_JFK in zip(spectra_BCFK, masks_BJFK)]
    )


def _filtered(spectra_CFK: Tensor, masks_JFK: Tensor) -> Tensor:
    """Return the stems' spectra, `[J, C, F, K]`."""
    import norbert

    # The library divides the mixture in place, and asks for double precision.
    mixture_FKC = spectra_CFK.permute(1, 2, 0).cpu().numpy().astype(np.complex128)
    masks_FKJ = masks_JFK.permute(1, 2, 0).cpu().numpy().astype(np.float64)
    magnitudes_FKCJ = masks_FKJ[:, :, None] * np.abs(mixture_FKC)[..., None]
    with_rest_FKCJ = norbert.residual_model(magnitudes_FKCJ, mixture_FKC)
    found_FKCJ = norbert.wiener(with_rest_FKCJ, mixture_FKC, ITERATIONS, use_softmask=False)
    stems_FKCJ = found_FKCJ[..., : len(masks_JFK)].astype(np.complex64)
    return torch.from_numpy(stems_FKCJ).permute(3, 2, 0, 1).to(spectra_CFK.device)
