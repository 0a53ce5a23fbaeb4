"""What is kept of a window's frames: their mean, or all of them.

Letters: L rows of layers, F frames, D width.
"""

from __future__ import annotations

from torch import Tensor


def pool(layers_LFD: Tensor, kind: str) -> Tensor:
    """Return rows of features `[L, rows, D]` in float32: the mean over frames (one row), or every frame."""
    layers_LFD = layers_LFD.float()
    return layers_LFD.mean(1, keepdim=True) if kind == "mean" else layers_LFD
