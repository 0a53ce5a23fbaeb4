"""Bootstrap draws that share their resamples, and 95 % intervals from them [efron1979] [field2007].

A draw takes each group of units (the clips of one song, singer, instrument or artist; a clip alone where no group is
known) a Poisson(1) number of times [hanley2006]. A group's numbers come from a generator of its own, seeded by its
name, so that tasks and systems which share clips share their resamples, however their other clips differ.

A percentile interval of such draws is too short for few groups, and for average precision it lies beside the score,
because units drawn twice raise it in every draw. So the draws give only the standard error, scaled by √(g / (g − 1))
for g groups, and the interval is centred on the score, with Student's t of g − 1 degrees of freedom
[notes/benchmark §2.6]:

- `wilson`, for a ratio between 0 and 1: Wilson's score interval with as many trials as give a proportion this standard
  error [wilson1927] [korn1998]. It stays inside 0 and 1 and has a width there too. Near one of them, in groups, the
  end on its side is Wilson's with a smaller quantile, because only this end can miss, as in [blaker2000].
- `log`, for R²: symmetric in log(1 − R²).
- `t`, for levels in dB and for differences.

Letters: U units, G draws, S training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats would take another second

from carrara.core.hashing import sha256_of_json

DRAWS, SEED = 1000, 1234
LEVEL = 0.95
MAX_COUNT = 12  # a Poisson(1) number is larger once in 6e10


@dataclass(frozen=True)
class StandardError:
    """The standard error of a score, and its degrees of freedom."""

    value: float
    freedom: float

    def margin(self) -> float:
        """Return the half width of the symmetric interval."""
        return float(special.stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.value


def resample_counts(groups: Sequence[str], dataset: str = "", seed: int = SEED, draws: int = DRAWS) -> np.ndarray:
    """Return how often each draw holds each unit, `[G, U]`; the units of one group are drawn together.

    Args:
        groups: name of each unit's group.
        dataset: its name; groups of two datasets are independent.
        seed: of all draws.
        draws: how many.
    """
    names, index_U = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    # The inverse of the distribution function, because a stream of uniform numbers is the same in every NumPy.
    steps = special.pdtr(np.arange(MAX_COUNT), 1)
    counts_NG = np.empty((len(names), draws), np.uint8)
    for row_G, name in zip(counts_NG, names.tolist()):
        rng = np.random.default_rng(int(sha256_of_json([seed, dataset, name])[:16], 16))
        row_G[:] = np.searchsorted(steps, rng.random(draws), side="right")
    return np.ascontiguousarray(counts_NG[index_U].T)


def centre_draws(draw_G: np.ndarray, value: float, groups: int) -> np.ndarray:
    """Return draws moved to the score, their bias removed, and scaled for the small number of groups."""
    finite = np.isfinite(draw_G)
    if groups < 2 or not finite.any():
        return np.full(len(draw_G), np.nan)
    return value + (draw_G - draw_G[finite].mean()) * math.sqrt(groups / (groups - 1))


def jackknife_error(deleted_N: np.ndarray) -> float:
    """Return the standard error of a score from its values without each of N groups [efron1982]."""
    finite = deleted_N[np.isfinite(deleted_N)]
    return math.sqrt((len(finite) - 1) * float(np.var(finite))) if len(finite) > 1 else math.nan


def scale_draws(draw_G: np.ndarray, value: float, error: float) -> np.ndarray:
    """Return centred draws scaled to this standard error; as they are where either spread is 0 or unknown."""
    finite = draw_G[np.isfinite(draw_G)]
    spread = float(np.std(finite)) if len(finite) else 0.0
    return value + (draw_G - value) * (error / spread) if error > 0 and spread > 0 else draw_G


def standard_error(draw_G: np.ndarray, groups: int, seed_values: Sequence[Sequence[float]] = ()) -> StandardError:
    """Return the standard error of centred draws, with the spread of the training seeds.

    Args:
        draw_G: from `centre_draws`, of the mean over the seeds, or of a difference of such means.
        groups: how many groups were drawn from.
        seed_values: for each system the scores of its training seeds; a single seed adds nothing.

    Returns:
        The error over units and seeds; its degrees of freedom are Welch's and Satterthwaite's [welch1947].
    """
    finite = draw_G[np.isfinite(draw_G)]
    parts = [(float(np.var(finite)) if len(finite) else math.nan, groups - 1)]
    parts += [
        (float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in seed_values if len(values) > 1
    ]
    variance = sum(part for part, _ in parts)
    weight = sum(part**2 / freedom for part, freedom in parts if part > 0)
    freedom = variance**2 / weight if weight > 0 else float(groups - 1)
    return StandardError(math.sqrt(variance), freedom)


def wilson_interval(value: float, error: StandardError, groups: int, grouped: bool = False) -> tuple[float, float]:
    """Return Wilson's interval of a ratio between 0 and 1 with this standard error.

    Where all groups agree, so that the error is 0, the trials are the groups.

    Args:
        value: the ratio.
        error: its standard error.
        groups: how many groups were drawn from.
        grouped: whether groups hold several units. No interval lies above a ratio near 1, or below one near 0, so that
            all misses are intervals on the other side of it, and the quantile of Student for few groups leaves fewer
            than 5 %. Where an interval about 1 reaches down to its upper end, that end takes the normal quantile
            instead, or Student's one-sided one where that is larger; the lower end likewise. Units alone keep Student's
            on both, because their ratio moves in steps.
    """
    trials = value * (1 - value) / error.value**2 if error.value > 0 and 0 < value < 1 else groups
    freedom = error.freedom if error.value > 0 else groups - 1
    student = float(special.stdtrit(freedom, (1 + LEVEL) / 2))
    low, high = _solve_wilson(value, trials, student)
    if grouped:
        quantile = min(student, max(float(special.ndtri((1 + LEVEL) / 2)), float(special.stdtrit(freedom, LEVEL))))
        narrow_low, narrow_high = _solve_wilson(value, trials, quantile)
        # So far an interval about 0 reaches up; one about 1 reaches down to 1 less this.
        reach = student**2 / (trials + student**2)
        low, high = min(narrow_low, max(low, reach)), max(narrow_high, min(high, 1 - reach))
    return min(value, low), max(value, high)


def _solve_wilson(value: float, trials: float, quantile: float) -> tuple[float, float]:
    """Return the ratios p for which |value − p| is the quantile times √(p (1 − p) / trials)."""
    centre = (value + quantile**2 / (2 * trials)) / (1 + quantile**2 / trials)
    half = (
        quantile / (1 + quantile**2 / trials) * math.sqrt(value * (1 - value) / trials + (quantile / (2 * trials)) ** 2)
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def log_interval(value: float, draw_G: np.ndarray, groups: int, seed_values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of R² that is symmetric in log(1 − R²), from draws as they come."""
    if not value < 1:
        return value, value
    # Draws and seeds of a perfect fit have no logarithm; they count as nearly perfect.
    nearly = 1e-9 * (1 - value)
    logs_G = centre_draws(np.log(np.maximum(1 - draw_G, nearly)), math.log(1 - value), groups)
    seeds = np.log(np.maximum(1 - np.asarray(seed_values), nearly)).tolist()
    margin = standard_error(logs_G, groups, [seeds]).margin()
    return 1 - (1 - value) * math.exp(margin), 1 - (1 - value) * math.exp(-margin)
