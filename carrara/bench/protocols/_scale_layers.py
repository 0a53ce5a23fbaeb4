"""Features standardised over the training clips' rows, dimension by dimension, as rows are read.

Letters: R rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from carrara.bench.split_data import SplitData

BLOCK_ROWS = 8192
S = TypeVar("S", bound=SplitData)


@dataclass(frozen=True)
class LayerScaling:
    """What is subtracted from the rows of a layer and what divides them, `[D]`."""

    mean_D: np.ndarray
    std_D: np.ndarray


@dataclass(frozen=True)
class ScaledMatrix:
    """A layer's matrix, standardised in float32 when rows are taken."""

    matrix: Any
    scaling: LayerScaling

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows and of dimensions."""
        return len(self.matrix), len(self.scaling.mean_D)

    @property
    def dtype(self) -> Any:
        """Return the type of the numbers."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows_R: Any) -> np.ndarray:
        x_RD = np.asarray(self.matrix[rows_R], dtype=np.float32)
        return ((x_RD - self.scaling.mean_D) / self.scaling.std_D).astype(np.float32)


def measure_layers(split: SplitData) -> dict[str, LayerScaling]:
    """Return each layer's mean and standard deviation over the rows of a split; 1 for a constant dimension's."""
    rows_R = np.concatenate(split.rows_U)
    blocks = [rows_R[low : low + BLOCK_ROWS] for low in range(0, len(rows_R), BLOCK_ROWS)]
    scaling = {}
    for name, matrix in split.layers.items():
        mean_D = sum(np.asarray(matrix[rows_B], np.float64).sum(0) for rows_B in blocks) / len(rows_R)
        squares_D = sum(((np.asarray(matrix[rows_B], np.float64) - mean_D) ** 2).sum(0) for rows_B in blocks)
        std_D = np.sqrt(squares_D / len(rows_R))
        std_D[std_D <= np.finfo(np.float32).eps * np.abs(mean_D)] = 1.0
        scaling[name] = LayerScaling(mean_D, std_D)
    return scaling


def scale_layers(split: S, scaling: Mapping[str, LayerScaling]) -> S:
    """Return the split with the layers standardised that `scaling` names, without a copy of their rows."""
    layers = {
        name: ScaledMatrix(matrix, scaling[name]) if name in scaling else matrix
        for name, matrix in split.layers.items()
    }
    return replace(split, layers=layers)
