"""Clip-level encoders: the mean of a network's outputs over the windows of each clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def split_clips(samples_BT: Tensor, lengths_B: Tensor | None) -> list[Tensor]:
    """Return each clip's own samples, float32 `[T]`, without its padding."""
    lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
    return [samples_T[:length] for samples_T, length in zip(samples_BT.float(), lengths)]


def mean_over_windows(network: Callable[[Tensor], Tensor], windows: Sequence[Tensor], batch_size: int) -> Tensor:
    """Return the mean output over each clip's windows, `[B, D]`.

    Args:
        network: gives `[n, D]` for n windows.
        windows: windows of each clip, `[N, …]` with N at least 1; those of all clips share the batches.
        batch_size: windows that the network gets at once.
    """
    outputs_ND = torch.cat([network(batch) for batch in torch.cat(list(windows)).split(batch_size)])
    return torch.stack([clip_ND.mean(dim=0) for clip_ND in outputs_ND.split([len(clip) for clip in windows])])
