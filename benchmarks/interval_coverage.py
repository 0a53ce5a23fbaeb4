"""How often 95 % intervals cover the truth and contain the score: test sets drawn again and again from known systems.

    python benchmarks/interval_coverage.py                       # all metrics, 50 to 1,000 clips, alone and in groups
    python benchmarks/interval_coverage.py --systems "tags, noise" --units 200 --groups in-groups --compared 0

A clip's answers come from latent normal variables. In groups, a part of their variance (--correlation, 0.3) is common
to the clips of a group; groups have unequal sizes, a fifth of the units in number. `nsynth` is accuracy on NSynth's
test shape, 53 instruments with 77 notes each. The truth is the mean score over test sets of the same size, estimated
from all repeats; the last column has the coverage of the mean score on the largest test sets, which differs for average
precision (it is higher on few clips). `clips alone` is the coverage if groups are ignored, and `percentile` that of the
plain percentile bootstrap over groups, both on the first repeats (--compared; none are `–`).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from carrara.bench import task_types
from carrara.bench.interval import confidence_intervals, resample_metrics
from carrara.core.task import Task
from carrara.metrics.bootstrap import resample_counts

KEYS = ("C major", "G major", "A minor", "C minor", "Gb major")
TAGS = 50
DRAWS = 300
REPEATS, TAG_REPEATS = 600, 200
ARRANGEMENTS = {"alone": "–", "in-groups": "n / 5"}

Latent = Callable[..., np.ndarray]  # shape of one unit → standard normal values [units, *shape]


@dataclass(frozen=True)
class System:
    """A system on a task: how its answers come about.

    Attributes:
        metrics, task_type, labels: the task's.
        draw: (generator, latent) → truths and predictions of one test set.
    """

    metrics: tuple[str, ...]
    task_type: str
    labels: tuple[str, ...]
    draw: Callable[[np.random.Generator, Latent], tuple[Sequence[Any], Sequence[Any]]]


def right(p: float) -> System:
    """Return a classifier that is right with probability p."""

    def draw(rng: np.random.Generator, latent: Latent) -> tuple[list[int], list[int]]:
        right_U = (latent() < stats.norm.ppf(p)).astype(int)
        return [1] * len(right_U), right_U.tolist()

    return System(("accuracy",), "multiclass", ("a", "b"), draw)


def _keys(rng: np.random.Generator, latent: Latent) -> tuple[list[int], list[int]]:
    ends = [0.6, 0.72, 0.8, 0.86]
    predictions = np.searchsorted(ends, stats.norm.cdf(latent()))
    return [0] * len(predictions), predictions.tolist()


def tags(skill: float) -> System:
    """Return a tagger whose scores of positives lie `skill` standard deviations above those of negatives."""

    def draw(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # A fifth of the variance is common to a clip's tags.
        def common(count: int) -> np.ndarray:
            return np.sqrt(0.2) * latent(1) + np.sqrt(0.8) * latent(count)

        truth_UK = (common(TAGS) < stats.norm.ppf(np.linspace(0.03, 0.3, TAGS))).astype(float)
        return list(truth_UK), list(skill * truth_UK + common(TAGS))

    return System(("roc_auc", "average_precision"), "multilabel", tuple(map(str, range(TAGS))), draw)


def _numbers(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth_UE = latent(2)
    return list(truth_UE), list(truth_UE + latent(2) * [0.6, 0.9])


def _beats(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth = np.arange(0.5, 12, 0.5)
    # Tracks are followed well or badly: the fraction of beats that are right is often nearly 1.
    right_U = stats.beta.ppf(stats.norm.cdf(latent()), 2, 0.5)
    return [truth] * len(right_U), [truth + 0.2 * (rng.random(len(truth)) > part) for part in right_U]


def _stems(rng: np.random.Generator, latent: Latent) -> tuple[list[str], list[dict[str, float]]]:
    sdr_U = 5 + 3 * stats.gumbel_l.ppf(stats.norm.cdf(latent()))
    return [str(unit) for unit in range(len(sdr_U))], [{"sdr_vocals": value} for value in sdr_U]


SYSTEMS = {
    "right .50": right(0.5),
    "right .80": right(0.8),
    "right .95": right(0.95),
    "keys": System(("key_weighted",), "multiclass", KEYS, _keys),
    "numbers": System(("r2",), "regression", ("v", "a"), _numbers),
    "beats": System(("beat_f_70ms",), "beat_tracking", ("beat",), _beats),
    "stems": System(("sdr_vocals",), "source_separation", ("vocals",), _stems),
    "tags, skilled": tags(1.5),
    "tags, noise": tags(0.0),
}


def make_latent(rng: np.random.Generator, groups_U: np.ndarray, correlation: float) -> Latent:
    """Return a function that draws standard normal values for units, correlated within groups."""

    def latent(*shape: int) -> np.ndarray:
        own = rng.standard_normal((len(groups_U), *shape))
        common = rng.standard_normal((groups_U.max() + 1, *shape))[groups_U]
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    return latent


def draw_groups(rng: np.random.Generator, units: int) -> np.ndarray:
    """Return each unit's group: a fifth as many groups as units, of unequal sizes."""
    count = units // 5
    sizes = rng.dirichlet(np.full(count, 3.0))
    groups_U = np.concatenate((np.arange(count), rng.choice(count, units - count, p=sizes)))
    return np.unique(groups_U, return_inverse=True)[1]


def _no_groups(units: int) -> None:
    return None


def measure(
    system: System, groups: Callable[[], np.ndarray | None], units: int, repeats: int, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Return by metric the coverage of a system's intervals, how often they contain the score, and two plain ones'."""
    rng = np.random.default_rng(options.seed + units)
    task = Task(
        version=1, dataset="d", split_scheme="s", task_type=system.task_type, label="x", labels=system.labels,
        metrics=system.metrics, monitor=system.metrics[0], category="score", name="d/x",
    )  # fmt: skip
    task_type = task_types.REGISTRY.get(system.task_type)
    values, ends, plain = [], [], []
    for repeat in range(repeats):
        groups_U = groups()
        latent = make_latent(rng, np.arange(units) if groups_U is None else groups_U, options.correlation)
        truths, predictions = system.draw(rng, latent)
        names = [str(n) for n in (range(units) if groups_U is None else groups_U)]
        values.append(list(task_type.metrics(task, truths, predictions).values()))
        own = confidence_intervals(task, task_type, truths, [predictions], names, repeat, DRAWS)
        ends.append([(each.low, each.high) for each in own.values()])
        if repeat < options.compared:
            drawn = resample_metrics(task, task_type, truths, predictions, resample_counts(names, "d", repeat, DRAWS))
            alone = own
            if groups_U is not None:
                alone = confidence_intervals(task, task_type, truths, [predictions], None, repeat, DRAWS)
            plain.append([(alone[m].low, alone[m].high, *np.nanpercentile(drawn[m], (2.5, 97.5))) for m in own])
    result = {}
    for index, metric in enumerate(own):
        value, (low, high) = np.array(values)[:, index], np.array(ends)[:, index].T
        by_plain = np.array(plain)[:, index].T if plain else np.full((4, 1), np.nan)
        truth = value.mean()
        result[metric] = {
            "truth": truth,
            "covers": np.mean((low <= truth) & (truth <= high)),
            "contains": np.mean((low <= value) & (value <= high)),
            "width": np.mean(high - low),
            "alone": np.mean((by_plain[0] <= truth) & (truth <= by_plain[1])) if plain else np.nan,
            "percentile": np.mean((by_plain[2] <= truth) & (truth <= by_plain[3])) if plain else np.nan,
            "ends": (low, high),
        }
    return result


def main() -> None:
    """Print a table of coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=[], help=f"of {', '.join(SYSTEMS)}, nsynth (default: all)")
    parser.add_argument("--units", nargs="+", type=int, default=[50, 200, 1000], help="sizes of test sets")
    parser.add_argument("--groups", nargs="+", choices=ARRANGEMENTS, default=list(ARRANGEMENTS), help="default: both")
    parser.add_argument("--repeats", type=int, help=f"test sets a line (default {REPEATS}; of tags {TAG_REPEATS})")
    parser.add_argument("--compared", type=int, default=100, help="of them also with plain intervals (default 100)")
    parser.add_argument("--correlation", type=float, default=0.3, help="within groups (default 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(options.seed)
    columns = ["system", "metric", "clips", "groups", "truth", "mean width", "covers", "contains the score"]
    columns += ["clips alone", "percentile", "large sample", "test sets"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")

    def report(
        name: str, system: System, groups: Callable[[int], np.ndarray | None], label: str, sizes: list[int]
    ) -> None:
        repeats = options.repeats or (TAG_REPEATS if system.task_type == "multilabel" else REPEATS)
        results = [measure(system, partial(groups, units), units, repeats, options) for units in sizes]
        for metric in system.metrics:
            large = results[-1][metric]["truth"]
            for units, by_metric in zip(sizes, results):
                result = by_metric[metric]
                low, high = result["ends"]
                numbers = [
                    f"{result[key]:.3f}" for key in ("truth", "width", "covers", "contains", "alone", "percentile")
                ]
                numbers.append(f"{np.mean((low <= large) & (large <= high)):.3f}")
                numbers = ["–" if number == "nan" else number for number in [*numbers, f"{repeats:,}"]]
                print("| " + " | ".join([name, metric, f"{units:,}", label, *numbers]) + " |", flush=True)

    for name, system in SYSTEMS.items():
        if not options.systems or name in options.systems:
            for arrangement in options.groups:
                groups = partial(draw_groups, rng) if arrangement == "in-groups" else _no_groups
                report(name, system, groups, ARRANGEMENTS[arrangement], options.units)
    if not options.systems or "nsynth" in options.systems:
        report("right .70", right(0.7), lambda units: np.repeat(np.arange(53), 77), "53", [53 * 77])


if __name__ == "__main__":
    main()
