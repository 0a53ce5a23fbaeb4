"""R², the coefficient of determination.

Letters: U scored units, E dimensions, G draws of a bootstrap.
"""

from __future__ import annotations

import numpy as np


def r2(truth_UE: np.ndarray, prediction_UE: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return R² of each dimension: 1 less the squared error over the truth's own variation; NaN where it has none.

    Args:
        truth_UE, prediction_UE: values.
        counts_GU: how often each draw holds each unit; None for the sample itself.

    Returns:
        `[1, E]`, or `[G, E]` with `counts_GU`.
    """
    truth_UE = np.asarray(truth_UE, dtype=np.float64)
    # Taking the mean off first keeps the difference of squares below exact enough.
    centred_UE = truth_UE - truth_UE.mean(0)
    error_UE = truth_UE - np.asarray(prediction_UE, dtype=np.float64)
    counts = np.ones((1, len(truth_UE))) if counts_GU is None else np.asarray(counts_GU, dtype=np.float64)
    units_G1 = counts.sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a draw may hold no unit
        variation_GE = counts @ centred_UE**2 - (counts @ centred_UE) ** 2 / units_G1
    rounding_E = 1e-12 * (centred_UE**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(variation_GE > rounding_E, 1 - (counts @ error_UE**2) / variation_GE, np.nan)
