"""R², the coefficient of determination, of each dimension: 1 less the squared error over the truth's own spread.

It may be negative, and is NaN where the truth does not vary.

Letters: U scored units, E dimensions, G draws of a bootstrap.
"""

from __future__ import annotations

import numpy as np


def r2(truth_UE: np.ndarray, answer_UE: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return R² of every dimension, `[1, E]`, or `[G, E]` with each unit counted as often as each draw holds it."""
    truth_UE = np.asarray(truth_UE, dtype=np.float64)
    # Taking the mean off first keeps the difference of squares below exact enough.
    centred_UE = truth_UE - truth_UE.mean(0)
    error_UE = truth_UE - np.asarray(answer_UE, dtype=np.float64)
    counts = np.ones((1, len(truth_UE))) if counts_GU is None else np.asarray(counts_GU, dtype=np.float64)
    units_G1 = counts.sum(1, keepdims=True)
    spread_GE = counts @ centred_UE**2 - (counts @ centred_UE) ** 2 / units_G1
    floor_E = 1e-12 * (centred_UE**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread_GE > floor_E, 1 - (counts @ error_UE**2) / spread_GE, np.nan)
