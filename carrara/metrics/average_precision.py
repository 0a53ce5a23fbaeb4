"""Average precision of each tag: precision at each threshold, weighted by the recall that the threshold adds.

Scikit-learn's definition, without interpolation; units of one score enter together. A tag with no positive or no
negative among the units is NaN, so that it leaves the macro mean together with its ROC-AUC.

Letters: U scored units, K tags, G draws of a bootstrap.
"""

from __future__ import annotations

import numpy as np

from carrara.metrics._ranking import Ranking, counted, ranking


def average_precision(truth_UK: np.ndarray, score_UK: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of every tag, `[1, K]`, or `[G, K]` with each unit counted as each draw holds it."""
    return np.stack(list(counted(_precisions, ranking(truth_UK, score_UK), counts_GU)))


def _precisions(found: Ranking, weight_UK: np.ndarray) -> np.ndarray:
    positive_UK = weight_UK * found.positive_UK
    hits_UK = np.take_along_axis(np.cumsum(positive_UK, axis=0), found.end_UK, axis=0)
    answers_UK = np.take_along_axis(np.cumsum(weight_UK, axis=0), found.end_UK, axis=0)
    positives_K, units_K = positive_UK.sum(0), weight_UK.sum(0)
    # Units that a draw leaves out before the first one it holds have no answers yet; they weigh nothing either.
    precision_UK = hits_UK / np.maximum(answers_UK, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_K = (positive_UK * precision_UK).sum(0) / positives_K
    return np.where((positives_K > 0) & (positives_K < units_K), mean_K, np.nan)
