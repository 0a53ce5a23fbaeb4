"""Accuracy: the fraction of units whose predicted class is the true one.

Letters: U scored units.
"""

from __future__ import annotations

import numpy as np


def accuracy(truth_U: np.ndarray, prediction_U: np.ndarray) -> float:
    """Return the accuracy of predicted classes."""
    return float(np.mean(np.asarray(truth_U) == np.asarray(prediction_U)))
