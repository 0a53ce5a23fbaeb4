"""Area under the receiver operating characteristic of each tag: the chance that a positive outranks a negative.

A tie counts half. A tag with no positive or no negative among the units has no area: NaN.

Letters: U scored units, K tags, G draws of a bootstrap.
"""

from __future__ import annotations

import numpy as np

from carrara.metrics._ranking import Ranking, counted, ranking


def roc_auc(truth_UK: np.ndarray, score_UK: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return the area of every tag, `[1, K]`, or `[G, K]` with each unit counted as often as each draw holds it."""
    return np.stack(list(counted(_areas, ranking(truth_UK, score_UK), counts_GU)))


def _areas(found: Ranking, weight_UK: np.ndarray) -> np.ndarray:
    positive_UK = weight_UK * found.positive_UK
    negative_UK = weight_UK - positive_UK
    passed_UK = np.cumsum(negative_UK, axis=0)
    through_UK = np.take_along_axis(passed_UK, found.end_UK, axis=0)
    before_UK = np.take_along_axis(passed_UK - negative_UK, found.start_UK, axis=0)
    negatives_K, positives_K = passed_UK[-1], positive_UK.sum(0)
    above_K = (positive_UK * (before_UK + through_UK) / 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positives_K * negatives_K > 0, 1 - above_K / (positives_K * negatives_K), np.nan)
