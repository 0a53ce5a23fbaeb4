"""Accuracy of tempo in beats per minute: within 4 % of the annotated one, or of it times 2, 3, 1/2 or 1/3 [gouyon2006].

`tempo_accuracy1` takes the annotated tempo only, `tempo_accuracy2` its multiples too.

Letters: U scored units, M multiples.
"""

from __future__ import annotations

import numpy as np

TOLERANCE = 0.04
MULTIPLES = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)


def tempo_accuracy1(truth_U: np.ndarray, predicted_U: np.ndarray) -> float:
    """Return the fraction of predicted tempi within 4 % of the annotated one."""
    return _accuracy(truth_U, predicted_U, MULTIPLES[:1])


def tempo_accuracy2(truth_U: np.ndarray, predicted_U: np.ndarray) -> float:
    """Return the fraction of predicted tempi within 4 % of the annotated one or of its double, triple, half, third."""
    return _accuracy(truth_U, predicted_U, MULTIPLES)


def _accuracy(truth_U: np.ndarray, predicted_U: np.ndarray, multiples: tuple[float, ...]) -> float:
    target_UM = np.asarray(truth_U, dtype=np.float64)[:, None] * np.array(multiples)
    error_UM = np.abs(np.asarray(predicted_U, dtype=np.float64)[:, None] - target_UM)
    return float((error_UM <= TOLERANCE * target_UM).any(1).mean())
