"""Windows of clips: the mean of a network's outputs over them, and windows as tensors for a tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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


class EqualWindows(NamedTuple):
    """Windows of a clip that differ by one column at most, as tensors: loops over them a tracer could not follow.

    Attributes:
        first_N: first column of each of N windows.
        count_N: columns of each.
        width: the most columns of one.
        window_C: the window that each column of the clip is in.
    """

    first_N: Tensor
    count_N: Tensor
    width: int
    window_C: Tensor


def divide_equally(columns: int, longest: int, device: torch.device) -> EqualWindows:
    """Return the fewest windows of at most `longest` columns; `columns` may be a tracer's symbol."""
    count = (columns + longest - 1) // longest
    edges_N = torch.arange(count + 1, device=device) * columns // count
    first_N = edges_N[:-1]
    window_C = (torch.arange(columns, device=device)[:, None] >= first_N).sum(1) - 1
    return EqualWindows(first_N, edges_N[1:] - first_N, (columns + count - 1) // count, window_C)
