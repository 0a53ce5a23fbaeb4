"""Percentile bootstrap [efron1979]: draws of units and of training seeds with replacement, and 95 % intervals.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

import math

import numpy as np

DRAWS = 1000
LOW, HIGH = 2.5, 97.5


def resample_counts(units: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Return how often each draw with replacement holds each unit, `[G, U]`."""
    rng = np.random.default_rng([seed, units])
    picks_GU = rng.integers(0, units, (draws, units))
    return np.stack([np.bincount(picks_U, minlength=units) for picks_U in picks_GU])


def mean_over_seeds(value_SG: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return in each draw the mean over S seeds picked with replacement, `[G]`."""
    seeds, draws = value_SG.shape
    picks_GS = rng.integers(0, seeds, (draws, seeds))
    return np.take_along_axis(value_SG.T, picks_GS, 1).mean(1)


def percentile_interval(value_G: np.ndarray) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of the finite draws; NaN where there is none."""
    finite = value_G[np.isfinite(value_G)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, (LOW, HIGH))
    return float(low), float(high)
