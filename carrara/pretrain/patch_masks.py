"""Which patches of a crop are masked in joint embedding, drawn from (seed, epoch, item); as many in every crop.

At random as in M2D [niizumi2023], or as rectangles as in I-JEPA [assran2023]. There rectangles overlap freely, and all
crops of a batch are cut to the fewest patches; here the last rectangle drawn is cut, so that every crop has the same
number by itself and a step does not depend on how its batch is divided.

Letters: B batch, M masked patches, K visible patches, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from carrara.pretrain.recipes.joint_embedding import PatchMaskSettings

PATCH_DRAW = 7  # distinguishes these draws from the others of a run
ASPECT = (0.75, 1.5)  # of a rectangle: rows to columns [assran2023 §A.1]


def num_masked(patches: int, settings: PatchMaskSettings) -> int:
    """Return how many of a crop's patches are masked; at least one is, and one is not."""
    return min(max(round(settings.ratio * patches), 1), patches - 1)


def draw_masked_patches(
    draws_B: Sequence[tuple[int, int, int]], columns: int, rows: int, settings: PatchMaskSettings
) -> tuple[Tensor, Tensor]:
    """Return the masked patches of each crop `[B, M]`, and the visible ones `[B, K]`, both sorted.

    Args:
        draws_B: (seed, epoch, item) of each crop, which determine its draws.
        columns, rows: patches of a crop, which are numbered column by column.
        settings: how many patches, and in which form.
    """
    count, patches = num_masked(columns * rows, settings), np.arange(columns * rows)
    masked_BM = np.empty((len(draws_B), count), dtype=np.int64)
    visible_BK = np.empty((len(draws_B), len(patches) - count), dtype=np.int64)
    for index, draw in enumerate(draws_B):
        rng = np.random.default_rng([*draw, PATCH_DRAW])
        if settings.shape == "rectangles":
            masked_M = _draw_rectangles(columns, rows, count, settings, rng)
        else:
            masked_M = rng.permutation(len(patches))[:count]
        masked_BM[index] = np.sort(masked_M)
        visible_BK[index] = np.setdiff1d(patches, masked_M)
    return torch.from_numpy(masked_BM), torch.from_numpy(visible_BK)


def _draw_rectangles(
    columns: int, rows: int, count: int, settings: PatchMaskSettings, rng: np.random.Generator
) -> np.ndarray:
    """Return `count` patches of the union of rectangles; those of the last one are cut at its end in time."""
    grid_CR = np.arange(columns * rows).reshape(columns, rows)
    chosen: list[int] = []
    while len(chosen) < count:
        area = rng.uniform(settings.min_area, settings.max_area) * columns * rows
        height = min(max(round((area * rng.uniform(*ASPECT)) ** 0.5), 1), rows)
        width = min(max(round(area / height), 1), columns)
        left, low = rng.integers(columns - width + 1), rng.integers(rows - height + 1)
        block = grid_CR[left : left + width, low : low + height].ravel()
        chosen += [patch for patch in block.tolist() if patch not in chosen]
    return np.array(chosen[:count])
