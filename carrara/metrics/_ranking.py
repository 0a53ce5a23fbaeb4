"""Scores in order with their ties: what ROC-AUC and average precision are both computed from.

Written over whole arrays, with each unit counted as often as a bootstrap draw holds it, because the grid scores 84
probes an epoch and an interval a thousand draws: scikit-learn's functions, which tests hold these equal to, take a
column at a time and about a millisecond for each.

Letters: U scored units, K tags, G draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Units by falling score, for each tag on its own.

    Attributes:
        order_UK: which unit stands at each place.
        positive_UK: whether it has the tag, 1.0 or 0.0.
        end_UK: the last place of each place's ties.
        start_UK: the first place of each place's ties.
    """

    order_UK: np.ndarray
    positive_UK: np.ndarray
    start_UK: np.ndarray
    end_UK: np.ndarray


def ranking(truth_UK: np.ndarray, score_UK: np.ndarray) -> Ranking:
    """Return the units of each tag by falling score."""
    score_UK = np.asarray(score_UK)
    order_UK = np.argsort(-score_UK, axis=0, kind="stable")
    sorted_UK = np.take_along_axis(score_UK, order_UK, axis=0)
    positive_UK = np.take_along_axis(np.asarray(truth_UK, dtype=np.float64), order_UK, axis=0)
    units = len(score_UK)
    place_U1 = np.arange(units)[:, None]
    edge = np.ones((1, sorted_UK.shape[1]), dtype=bool)
    changes = sorted_UK[1:] != sorted_UK[:-1]
    start_UK = np.maximum.accumulate(np.where(np.concatenate((edge, changes)), place_U1, 0), axis=0)
    ends = np.where(np.concatenate((changes, edge)), place_U1, units)
    end_UK = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    return Ranking(order_UK, positive_UK, start_UK, end_UK)


Measure = Callable[[Ranking, np.ndarray], np.ndarray]


def counted(measure: Measure, found: Ranking, counts_GU: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield a measure of every tag `[K]`: once for all units, or for each draw with its units' counts."""
    if counts_GU is None:
        yield measure(found, np.ones_like(found.positive_UK))
        return
    for counts_U in counts_GU:
        yield measure(found, np.asarray(counts_U, dtype=np.float64)[found.order_UK])


def macro(values_GK: np.ndarray) -> np.ndarray:
    """Return the mean over the tags that have a value, `[G]`; NaN where none has."""
    known_GK = ~np.isnan(values_GK)
    count_G = known_GK.sum(1)
    return np.where(count_G > 0, np.where(known_GK, values_GK, 0.0).sum(1) / np.maximum(count_G, 1), np.nan)
