"""How often 95 % intervals of an accuracy cover the truth, by several methods, where clips come in few groups.

    python benchmarks/proportion_intervals.py                             # 10 and 20 groups
    python benchmarks/proportion_intervals.py --clips 1000 --groups 10 --accuracies .97 --repeats 10000
    python benchmarks/proportion_intervals.py --slow --repeats 500        # also the two that take long

A clip is right where a normal variable is below a quantile; a part of its variance (--correlation, 0.3) is common to
the clips of a group. Groups have unequal sizes, as in `interval_coverage.py`. Every method gets the same test sets and
the same standard errors, from draws of the groups as a record has them. `effective groups` takes the degrees of freedom
from the effective number of groups [kish1965]. The table is in docs/intervals.md.

Columns: the mean width of our intervals, how many lie all below and all above the truth, and how many of each method
cover it.

Letters: R test sets, N groups, D draws, P accuracies and Q correlations of a grid.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np
from scipy import special

from carrara.metrics.bootstrap import StandardError, wilson_interval

Ends = tuple[np.ndarray, np.ndarray]
NORMAL = float(special.ndtri(0.975))
DRAWS = 300


def draw_groups(
    rng: np.random.Generator, repeats: int, clips: int, groups: int, p: float, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many clips each group has, and how many of them are right, `[R, N]` both."""
    shares_RN = rng.dirichlet(np.full(groups, 3.0), repeats)
    size_RN = 1 + rng.multinomial(clips - groups, shares_RN)
    latent_RN = np.sqrt(correlation) * rng.standard_normal((repeats, groups))
    p_RN = special.ndtr((special.ndtri(p) - latent_RN) / np.sqrt(1 - correlation))
    return size_RN.astype(float), rng.binomial(size_RN, p_RN).astype(float)


def score_groups(size_RN: np.ndarray, right_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy and its standard error as a ratio of sums over groups, `[R]` both."""
    groups = right_RN.shape[-1]
    value_R = right_RN.sum(-1) / size_RN.sum(-1)
    share_RN = (right_RN - value_R[..., None] * size_RN) / size_RN.sum(-1, keepdims=True)
    return value_R, np.sqrt(groups / (groups - 1) * (share_RN**2).sum(-1))


def draw_errors(rng: np.random.Generator, size_RN: np.ndarray, right_RN: np.ndarray) -> np.ndarray:
    """Return the standard error that a record's draws give, `[R]`; 0 where all groups agree."""
    repeats, groups = right_RN.shape
    error_R = np.empty(repeats)
    for start in range(0, repeats, 100):
        size_rN1, right_rN1 = (each[start : start + 100, :, None] for each in (size_RN, right_RN))
        counts_rDN = rng.poisson(1, (len(size_rN1), DRAWS, groups)).astype(float)
        with np.errstate(invalid="ignore"):
            drawn_rD = ((counts_rDN @ right_rN1) / (counts_rDN @ size_rN1))[..., 0]
        error_R[start : start + 100] = np.nanstd(drawn_rD, axis=1) * np.sqrt(groups / (groups - 1))
    return np.where(error_R > 1e-9, error_R, 0)


def quick_intervals(size_RN: np.ndarray, value_R: np.ndarray, error_R: np.ndarray) -> dict[str, Ends]:
    """Return each method's intervals from the score, its standard error and the sizes of the groups."""
    groups = size_RN.shape[1]
    student = special.stdtrit(groups - 1, 0.975)
    with np.errstate(divide="ignore", invalid="ignore"):
        trials_R = np.where(error_R > 0, value_R * (1 - value_R) / error_R**2, groups)
    hits_R, misses_R = (part_R * trials_R * (NORMAL / student) ** 2 for part_R in (value_R, 1 - value_R))
    exact = special.betaincinv(hits_R, misses_R + 1, 0.025), special.betaincinv(hits_R + 1, misses_R, 0.975)
    more_R = trials_R + student**2
    centre_R = (value_R * trials_R + student**2 / 2) / more_R
    effective_R = size_RN.sum(1) ** 2 / (size_RN**2).sum(1)
    scores = list(zip(value_R.tolist(), error_R.tolist(), effective_R.tolist()))
    return {
        "ours": as_ends([wilson_interval(v, StandardError(e, groups - 1), groups, grouped=True) for v, e, _ in scores]),
        "effective groups": as_ends(
            [wilson_interval(v, StandardError(e, count - 1), count, grouped=True) for v, e, count in scores]
        ),
        "Wilson, Student": solve_wilson(value_R, trials_R, student),
        "Wilson, normal": solve_wilson(value_R, trials_R, NORMAL),
        "Agresti-Coull": symmetric(centre_R, student * np.sqrt(centre_R * (1 - centre_R) / more_R)),
        "Clopper-Pearson": (np.where(hits_R > 0, exact[0], 0), np.where(misses_R > 0, exact[1], 1)),
        "Jeffreys": (
            special.betaincinv(hits_R + 0.5, misses_R + 0.5, 0.025),
            special.betaincinv(hits_R + 0.5, misses_R + 0.5, 0.975),
        ),
        "plain Student": symmetric(value_R, student * error_R),
    }


def as_ends(pairs: list[tuple[float, float]]) -> Ends:
    """Return lower and upper ends apart."""
    low_R, high_R = np.array(pairs).T
    return low_R, high_R


def symmetric(centre_R: np.ndarray, half_R: np.ndarray) -> Ends:
    """Return the ends of intervals of these half widths."""
    return centre_R - half_R, centre_R + half_R


def solve_wilson(value_R: np.ndarray, trials_R: np.ndarray, quantile: np.ndarray | float) -> Ends:
    """Return the ends of Wilson's intervals."""
    shrunk_R = 1 + quantile**2 / trials_R
    half_R = quantile * np.sqrt(value_R * (1 - value_R) / trials_R + (quantile / (2 * trials_R)) ** 2)
    return symmetric((value_R + quantile**2 / (2 * trials_R)) / shrunk_R, half_R / shrunk_R)


def bootstrap_t(rng: np.random.Generator, size_RN: np.ndarray, right_RN: np.ndarray) -> Ends:
    """Return studentised bootstrap intervals over groups, in logits [hall1988]."""
    groups, ends = right_RN.shape[1], []
    value_R, error_R = score_groups(size_RN, right_RN)
    for size_N, right_N, value, error in zip(size_RN, right_RN, value_R, error_R):
        if error == 0:
            low, high = solve_wilson(value, np.array(groups), special.stdtrit(groups - 1, 0.975))
        else:
            pick_DN = rng.integers(0, groups, (DRAWS, groups))
            drawn_D, error_D = score_groups(size_N[pick_DN], right_N[pick_DN])
            with np.errstate(divide="ignore", invalid="ignore"):
                t_D = (special.logit(drawn_D) - special.logit(value)) / (error_D / (drawn_D * (1 - drawn_D)))
            t_D = np.where(error_D > 0, t_D, np.where(drawn_D > value, np.inf, -np.inf))
            upper, lower = np.quantile(t_D, (0.975, 0.025), method="nearest")
            scale = error / (value * (1 - value))
            low, high = special.expit(special.logit(value) - np.array([upper, lower]) * scale)
        ends.append((float(low), float(high)))
    return as_ends(ends)


def beta_binomial(size_RN: np.ndarray, right_RN: np.ndarray) -> Ends:
    """Return profile likelihood intervals of a beta-binomial model, with Student's quantile."""
    p_P, rho_Q = special.expit(np.linspace(-4, 9, 131)), special.expit(np.linspace(-6, 2.5, 35))
    alpha_PQ, beta_PQ = (np.outer(share_P, (1 - rho_Q) / rho_Q) for share_P in (p_P, 1 - p_P))

    @functools.lru_cache(maxsize=5000)
    def likelihood_PQ(size: float, right: float) -> np.ndarray:
        return special.betaln(alpha_PQ + right, beta_PQ + size - right) - special.betaln(alpha_PQ, beta_PQ)

    ends = []
    for size_N, right_N in zip(size_RN.tolist(), right_RN.tolist()):
        profile_P = np.sum(list(map(likelihood_PQ, size_N, right_N)), axis=0).max(1)
        inside_P = 2 * (profile_P.max() - profile_P) <= special.stdtrit(len(right_N) - 1, 0.975) ** 2
        ends.append((p_P[inside_P][0], p_P[inside_P][-1]))
    return as_ends(ends)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[50, 200, 1000, 1000])
    parser.add_argument(
        "--groups", type=int, nargs="+", default=[10, 10, 10, 20], help="one number for each of --clips"
    )
    parser.add_argument("--accuracies", type=float, nargs="+", default=[0.5, 0.8, 0.9, 0.95, 0.97, 0.99])
    parser.add_argument("--correlation", type=float, default=0.3, help="within groups (default 0.3)")
    parser.add_argument("--repeats", type=int, default=10000, help="test sets a line (default 10,000)")
    parser.add_argument("--slow", action="store_true", help="bootstrap-t and a beta-binomial likelihood too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_head_printed = False
    for clips, groups in zip(options.clips, options.groups, strict=True):
        for p in options.accuracies:
            rng = np.random.default_rng([options.seed, clips, groups])
            size_RN, right_RN = draw_groups(rng, options.repeats, clips, groups, p, options.correlation)
            value_R, _ = score_groups(size_RN, right_RN)
            methods = quick_intervals(size_RN, value_R, draw_errors(rng, size_RN, right_RN))
            if options.slow:
                methods["bootstrap-t"] = bootstrap_t(rng, size_RN, right_RN)
                methods["beta-binomial"] = beta_binomial(size_RN, right_RN)
            if not is_head_printed:
                columns = ["accuracy", "clips", "groups", "mean width", "all below", "all above", *methods]
                print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
                is_head_printed = True
            low_R, high_R = methods["ours"]
            numbers = [np.mean(high_R - low_R), np.mean(high_R < p), np.mean(low_R > p)]
            numbers += [np.mean((low_R <= p) & (p <= high_R)) for low_R, high_R in methods.values()]
            cells = [f"{p:.2f}", f"{clips:,}", str(groups), *(f"{number:.3f}" for number in numbers)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
