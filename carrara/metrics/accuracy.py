"""Accuracy: the share of units whose class is the right one.

Letters: U scored units.
"""

from __future__ import annotations

import numpy as np


def accuracy(truth_U: np.ndarray, answer_U: np.ndarray) -> float:
    """Return the share of units answered with their own class."""
    return float(np.mean(np.asarray(truth_U) == np.asarray(answer_U)))
