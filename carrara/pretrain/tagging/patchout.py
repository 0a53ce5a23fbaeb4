"""Structured time patchout: training leaves half of the columns of patches out, which makes long crops affordable.

Encoders.md, section 1.4: so many columns, drawn evenly, the same ones for the whole batch, after positions are added:
15, 30, 60, 90 of the 30, 61, 124, 186 columns of 5, 10, 20, 30 s.

Letters: C columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError


def see_possible(columns: int, dropped: int) -> None:
    """Raise a `UsageError` where patchout would leave nothing of a crop."""
    if dropped >= columns:
        raise UsageError(
            f"patchout {dropped} would drop every one of the {columns} columns of patches of a crop; "
            f"use {max(columns // 2, 0)}, or longer crops"
        )


def kept_columns(columns: int, dropped: int, draw: np.random.Generator) -> Tensor | None:
    """Return the columns that stay, sorted, `[C]`; none where all do.

    Raises:
        UsageError: none would stay.
    """
    see_possible(columns, dropped)
    if not dropped:
        return None
    return torch.from_numpy(np.sort(draw.choice(columns, columns - dropped, replace=False)))
