"""ROC-AUC and average precision of tags, for a sample and for the draws of a bootstrap.

Both are scikit-learn's, to which tests hold them equal. They work on whole arrays with a weight for each unit, because
the probe grid computes 84 scores after each epoch and an interval a thousand: scikit-learn takes one column at a time
and about a millisecond for each. A sample is scored for all tags at once, draws tag by tag for many draws at once.

Letters: U scored units, K tags, J positives of a tag, G draws of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CACHE_BYTES = 2**19


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
    return _weighted(_area, _drawn_area, truth_UK, score_UK, counts_GU)


def average_precision(truth_UK: np.ndarray, score_UK: np.ndarray, counts_GU: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of each tag: precision at each threshold, weighted by the recall that it adds.

    Not interpolated; units of equal score enter together. A tag without a positive or without a negative is NaN, as for
    `roc_auc`. Arguments and result as there.
    """
    return _weighted(_precision, _drawn_precision, truth_UK, score_UK, counts_GU)


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
    sample_metric: Callable[[_Ranking], np.ndarray],
    drawn_metric: Callable[[_RankedTag, np.ndarray], np.ndarray],
    truth_UK: np.ndarray,
    score_UK: np.ndarray,
    counts_GU: np.ndarray | None,
) -> np.ndarray:
    ranking = _rank(truth_UK, score_UK)
    if counts_GU is None:
        return sample_metric(ranking)[None]
    draws, units = counts_GU.shape
    tags = [_RankedTag.of(ranking, tag) for tag in range(ranking.order_UK.shape[1])]
    values_GK = np.empty((draws, len(tags)))
    # Sums of counts in the smallest type that holds them, of few draws at a time, so that they stay in the cache.
    largest = units * int(counts_GU.max(initial=0))
    counts_type = np.min_scalar_type(largest)
    step = max(1, CACHE_BYTES // (counts_type.itemsize * units))
    for low in range(0, draws, step):
        counts_UG = np.ascontiguousarray(np.asarray(counts_GU[low : low + step], dtype=counts_type).T)
        for tag, ranked in enumerate(tags):
            values_GK[low : low + step, tag] = drawn_metric(ranked, counts_UG[ranked.order_U])
    return values_GK


@dataclass(frozen=True)
class _RankedTag:
    """Units of one tag by falling score, for many draws at once.

    Attributes:
        order_U: the unit at each rank.
        rank_J: the ranks of the tag's positives.
        end_J: the last rank of the units with the same score as each positive.
        before_J, through_J: positives above each positive's score, and at or above it.
        start_J: the first rank of the units with the same score.
    """

    order_U: np.ndarray
    rank_J: np.ndarray
    start_J: np.ndarray
    end_J: np.ndarray
    before_J: np.ndarray
    through_J: np.ndarray

    @classmethod
    def of(cls, ranking: _Ranking, tag: int) -> _RankedTag:
        rank_J = np.flatnonzero(ranking.positive_UK[:, tag])
        start_J, end_J = ranking.start_UK[rank_J, tag], ranking.end_UK[rank_J, tag]
        before_J, through_J = np.searchsorted(rank_J, start_J), np.searchsorted(rank_J, end_J, side="right")
        return cls(ranking.order_UK[:, tag], rank_J, start_J, end_J, before_J, through_J)


def _sums_from_zero(weight_UG: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, … rows, `[U + 1, G]`."""
    sums = np.zeros((len(weight_UG) + 1, weight_UG.shape[1]), dtype=weight_UG.dtype)
    np.cumsum(weight_UG, axis=0, dtype=weight_UG.dtype, out=sums[1:])
    return sums


def _drawn_area(tag: _RankedTag, weight_UG: np.ndarray) -> np.ndarray:
    positive_JG = weight_UG[tag.rank_J]
    units_UG, positives_JG = _sums_from_zero(weight_UG), _sums_from_zero(positive_JG)
    before_JG = (units_UG[tag.start_J] - positives_JG[tag.before_J]).astype(np.float64)
    through_JG = units_UG[tag.end_J + 1] - positives_JG[tag.through_J]
    positives_G = positives_JG[-1].astype(np.float64)
    pairs_G = positives_G * (units_UG[-1] - positives_G)
    above_G = (positive_JG * (before_JG + through_JG) / 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs_G > 0, 1 - above_G / pairs_G, np.nan)


def _drawn_precision(tag: _RankedTag, weight_UG: np.ndarray) -> np.ndarray:
    positive_JG = weight_UG[tag.rank_J]
    units_UG, positives_JG = _sums_from_zero(weight_UG), _sums_from_zero(positive_JG)
    # A positive that a draw leaves out may have nothing above it; it weighs nothing either.
    precision_JG = positives_JG[tag.through_J] / np.maximum(units_UG[tag.end_J + 1], 1.0, dtype=np.float64)
    total_G = positives_JG[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_G = (positive_JG * precision_JG).sum(0) / total_G
    return np.where((total_G > 0) & (total_G < units_UG[-1]), mean_G, np.nan)


def _area(ranking: _Ranking) -> np.ndarray:
    positive_UK = ranking.positive_UK
    negative_UK = 1 - positive_UK
    negatives_so_far_UK = np.cumsum(negative_UK, axis=0)
    through_ties_UK = np.take_along_axis(negatives_so_far_UK, ranking.end_UK, axis=0)
    before_ties_UK = np.take_along_axis(negatives_so_far_UK - negative_UK, ranking.start_UK, axis=0)
    negatives_K, positives_K = negatives_so_far_UK[-1], positive_UK.sum(0)
    above_K = (positive_UK * (before_ties_UK + through_ties_UK) / 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positives_K * negatives_K > 0, 1 - above_K / (positives_K * negatives_K), np.nan)


def _precision(ranking: _Ranking) -> np.ndarray:
    positive_UK = ranking.positive_UK
    true_positives_UK = np.take_along_axis(np.cumsum(positive_UK, axis=0), ranking.end_UK, axis=0)
    positives_K = positive_UK.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_K = (positive_UK * true_positives_UK / (ranking.end_UK + 1)).sum(0) / positives_K
    return np.where((positives_K > 0) & (positives_K < len(positive_UK)), mean_K, np.nan)
