"""From the layers of a batch of windows to the rows that are kept: every frame, or their mean.

Letters: B batch, F frames, L layers counted with row 0, D width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Pool = Literal["mean", "frames"]


def pool_frames(layers_BLFD: Tensor, frames_B: list[int], pool: Pool) -> list[np.ndarray]:
    """Return for each window of a batch a float32 array `[L, rows, D]`: its own frames, or one row with their mean.

    Args:
        layers_BLFD: features, zero after each window's own frames.
        frames_B: number of each window's own frames.
        pool: what a row is.
    """
    layers_BLFD = layers_BLFD.float()
    if pool == "frames":
        return [layers_LFD[:, :frames].cpu().numpy() for layers_LFD, frames in zip(layers_BLFD, frames_B)]
    counts_B = torch.tensor(frames_B, dtype=torch.float32, device=layers_BLFD.device)
    means_BLD = layers_BLFD.sum(dim=2) / counts_B[:, None, None]
    return list(means_BLD.cpu().numpy()[:, :, None])
