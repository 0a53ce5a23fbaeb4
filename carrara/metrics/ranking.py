"""ROC-AUC and average precision of tags, for a sample and for the draws of a bootstrap.

Both are scikit-learn's, to which tests hold them equal. They work on whole arrays with a weight for each unit, because
the probe grid computes 84 scores after each epoch and an interval a thousand: scikit-learn takes one column at a time
and about a millisecond for each.

Letters: U scored units, K tags, G draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def roc_auc(truth_UK: np.ndarray, score_UK: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return the area under the ROC curve of each tag: the chance that a positive scores above a negative.

    A tie counts half. A tag without a positive or without a negative is NaN.

    Args:
        truth_UK: 1 where the unit has the tag, else 0.
        score_UK: the higher, the likelier the tag.
        counts_GU: how often each draw holds each unit; None for the sample itself.

    Returns:
        `[1, K]`, or `[G, K]` with `counts_GU`.
    """
    return _weighted(_area, truth_UK, score_UK, counts_GU)


def average_precision(truth_UK: np.ndarray, score_UK: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of each tag: precision at each threshold, weighted by the recall that it adds.

    Not interpolated; units of equal score enter together. A tag without a positive or without a negative is NaN, as for
    `roc_auc`. Arguments and result as there.
    """
    return _weighted(_precision, truth_UK, score_UK, counts_GU)


def macro_mean(values_GK: np.ndarray) -> np.ndarray:
    """Return the mean over the tags that have a value, `[G]`; NaN where none has."""
    known_GK = ~np.isnan(values_GK)
    count_G = known_GK.sum(1)
    return np.where(count_G > 0, np.where(known_GK, values_GK, 0.0).sum(1) / np.maximum(count_G, 1), np.nan)


@dataclass(frozen=True)
class _Ranking:
    """Units of each tag by falling score.

    Attributes:
        order_UK: the unit at each rank.
        positive_UK: 1.0 where that unit has the tag, else 0.0.
        start_UK, end_UK: the first and the last rank of the units with the same score.
    """

    order_UK: np.ndarray
    positive_UK: np.ndarray
    start_UK: np.ndarray
    end_UK: np.ndarray


def _rank(truth_UK: np.ndarray, score_UK: np.ndarray) -> _Ranking:
    score_UK = np.asarray(score_UK)
    order_UK = np.argsort(-score_UK, axis=0, kind="stable")
    sorted_UK = np.take_along_axis(score_UK, order_UK, axis=0)
    positive_UK = np.take_along_axis(np.asarray(truth_UK, dtype=np.float64), order_UK, axis=0)
    units = len(score_UK)
    rank_U1 = np.arange(units)[:, None]
    edge = np.ones((1, sorted_UK.shape[1]), dtype=bool)
    changes = sorted_UK[1:] != sorted_UK[:-1]
    start_UK = np.maximum.accumulate(np.where(np.concatenate((edge, changes)), rank_U1, 0), axis=0)
    ends = np.where(np.concatenate((changes, edge)), rank_U1, units)
    end_UK = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    return _Ranking(order_UK, positive_UK, start_UK, end_UK)


def _weighted(
    metric: Callable[[_Ranking, np.ndarray], np.ndarray],
    truth_UK: np.ndarray,
    score_UK: np.ndarray,
    counts_GU: np.ndarray | None,
) -> np.ndarray:
    ranking = _rank(truth_UK, score_UK)
    if counts_GU is None:
        return metric(ranking, np.ones_like(ranking.positive_UK))[None]
    return np.stack(
        [metric(ranking, np.asarray(counts_U, dtype=np.float64)[ranking.order_UK]) for counts_U in counts_GU]
    )


def _area(ranking: _Ranking, weight_UK: np.ndarray) -> np.ndarray:
    positive_UK = weight_UK * ranking.positive_UK
    negative_UK = weight_UK - positive_UK
    negatives_so_far_UK = np.cumsum(negative_UK, axis=0)
    through_ties_UK = np.take_along_axis(negatives_so_far_UK, ranking.end_UK, axis=0)
    before_ties_UK = np.take_along_axis(negatives_so_far_UK - negative_UK, ranking.start_UK, axis=0)
    negatives_K, positives_K = negatives_so_far_UK[-1], positive_UK.sum(0)
    above_K = (positive_UK * (before_ties_UK + through_ties_UK) / 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positives_K * negatives_K > 0, 1 - above_K / (positives_K * negatives_K), np.nan)


def _precision(ranking: _Ranking, weight_UK: np.ndarray) -> np.ndarray:
    positive_UK = weight_UK * ranking.positive_UK
    true_positives_UK = np.take_along_axis(np.cumsum(positive_UK, axis=0), ranking.end_UK, axis=0)
    predicted_UK = np.take_along_axis(np.cumsum(weight_UK, axis=0), ranking.end_UK, axis=0)
    positives_K, units_K = positive_UK.sum(0), weight_UK.sum(0)
    # Units that a draw leaves out before the first one it holds have predicted nothing yet; they weigh nothing either.
    precision_UK = true_positives_UK / np.maximum(predicted_UK, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_K = (positive_UK * precision_UK).sum(0) / positives_K
    return np.where((positives_K > 0) & (positives_K < units_K), mean_K, np.nan)
