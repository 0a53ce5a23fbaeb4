"""How often 95 % intervals cover the truth and contain the score: test sets drawn again and again from known systems.

    python benchmarks/coverage.py                       # all metrics, 50 to 1,000 clips, alone and in groups
    python benchmarks/coverage.py --metrics accuracy ap --repeats 200 --units 50 200

A clip's answers come from latent normal variables. In groups, a part of their variance (--correlation, 0.3) is common
to the clips of a group; groups have unequal sizes, a fifth of the units in number. `nsynth` is accuracy on NSynth's
test shape, 53 instruments with 77 notes each. The truth is the mean score over test sets of the same size, estimated
from all repeats; where a metric's large-sample value is another (average precision is higher on few clips), a last
column has the coverage of that. `clips alone` is the coverage if groups are ignored, and `percentile` that of the plain
percentile bootstrap over groups, both on the first repeats.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

Latent = Callable[..., np.ndarray]  # shape of one unit → standard normal values [units, *shape]


@dataclass(frozen=True)
class System:
    """A system on a task: how its answers come about, and how often it can be repeated.

    Attributes:
        metric: which of the task's metrics is looked at.
        task_type, labels: the task's.
        draw: (generator, latent) → truths and predictions of one test set.
        cost: seconds of a repeat with 1,000 units, roughly; costly systems are repeated less.
    """

    metric: str
    task_type: str
    labels: tuple[str, ...]
    draw: Callable[[np.random.Generator, Latent], tuple[Sequence[Any], Sequence[Any]]]
    cost: float = 0.05


def accuracy(p: float) -> System:
    """Return a classifier that is right with probability p."""
    return System("accuracy", "multiclass", ("a", "b"), lambda rng, latent: _classes(latent() < stats.norm.ppf(p)))


def _classes(right_U: np.ndarray) -> tuple[list[int], list[int]]:
    return [1] * len(right_U), right_U.astype(int).tolist()


def _keys(rng: np.random.Generator, latent: Latent) -> tuple[list[int], list[int]]:
    right = [0.6, 0.72, 0.8, 0.86]
    return [0] * len(latent()), np.searchsorted(right, stats.norm.cdf(latent())).tolist()


def tags(metric: str, skill: float) -> System:
    """Return a tagger whose scores of positives lie `skill` standard deviations above those of negatives."""

    def draw(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # A fifth of the variance is common to a clip's tags.
        def common(count: int) -> np.ndarray:
            return np.sqrt(0.2) * latent(1) + np.sqrt(0.8) * latent(count)

        truth_UK = (common(TAGS) < stats.norm.ppf(np.linspace(0.03, 0.3, TAGS))).astype(float)
        return list(truth_UK), list(skill * truth_UK + common(TAGS))

    return System(metric, "multilabel", tuple(map(str, range(TAGS))), draw, cost=0.4)


def _numbers(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth_UE = latent(2)
    return list(truth_UE), list(truth_UE + latent(2) * [0.6, 0.9])


def _beats(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth = np.arange(0.5, 12, 0.5)
    # Tracks are followed well or badly: the fraction of beats that are right is often nearly 1.
    right_U = stats.beta.ppf(stats.norm.cdf(latent()), 2, 0.5)
    return [truth] * len(right_U), [truth + 0.2 * (rng.random(len(truth)) > right) for right in right_U]


def _stems(rng: np.random.Generator, latent: Latent) -> tuple[list[str], list[dict[str, float]]]:
    sdr_U = 5 + 3 * stats.gumbel_l.ppf(stats.norm.cdf(latent()))
    return [str(unit) for unit in range(len(sdr_U))], [{"sdr_vocals": value} for value in sdr_U]


SYSTEMS = {
    "accuracy .50": accuracy(0.5),
    "accuracy .80": accuracy(0.8),
    "accuracy .95": accuracy(0.95),
    "key score": System("key_weighted", "multiclass", KEYS, _keys),
    "roc-auc, skill": tags("roc_auc", 1.5),
    "roc-auc, noise": tags("roc_auc", 0.0),
    "ap, skill": tags("average_precision", 1.5),
    "ap, noise": tags("average_precision", 0.0),
    "r2": System("r2", "regression", ("v", "a"), _numbers),
    "beat f": System("beat_f_70ms", "beat_tracking", ("beat",), _beats, cost=0.2),
    "sdr": System("sdr_vocals", "source_separation", ("vocals",), _stems),
}
LARGE_SAMPLE = ("ap, skill", "ap, noise", "r2")


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


def measure(
    system: System, groups: Callable[[], np.ndarray | None], units: int, repeats: int, correlation: float, seed: int
) -> dict[str, Any]:
    """Return the coverage of a system's intervals, how often they contain the score, and those of two plain ones."""
    rng = np.random.default_rng(seed)
    task = Task(
        version=1, dataset="d", split_scheme="s", task_type=system.task_type, label="x", labels=system.labels,
        metrics=(system.metric,), monitor=system.metric, category="score", name="d/x",
    )  # fmt: skip
    task_type = task_types.REGISTRY.get(system.task_type)
    compared = min(repeats, 200)
    values, ends, plain = [], [], []
    for repeat in range(repeats):
        groups_U = groups()
        latent = make_latent(rng, np.arange(units) if groups_U is None else groups_U, correlation)
        truths, predictions = system.draw(rng, latent)
        names = [str(n) for n in (range(units) if groups_U is None else groups_U)]
        values.append(task_type.metrics(task, truths, predictions)[system.metric])
        own = confidence_intervals(task, task_type, truths, [predictions], names, repeat, DRAWS)[system.metric]
        ends.append((own.low, own.high))
        if repeat < compared:
            drawn = resample_metrics(task, task_type, truths, predictions, resample_counts(names, "d", repeat, DRAWS))
            alone = own
            if groups_U is not None:
                alone = confidence_intervals(task, task_type, truths, [predictions], None, repeat, DRAWS)[system.metric]
            low, high = np.nanpercentile(drawn[system.metric], (2.5, 97.5))
            plain.append((alone.low, alone.high, low, high))
    value, (low, high), by_plain = np.array(values), np.array(ends).T, np.array(plain).T
    truth = value.mean()
    return {
        "truth": truth,
        "covered": np.mean((low <= truth) & (truth <= high)),
        "contains": np.mean((low <= value) & (value <= high)),
        "width": np.mean(high - low),
        "clips alone": np.mean((by_plain[0] <= truth) & (truth <= by_plain[1])),
        "percentile": np.mean((by_plain[2] <= truth) & (truth <= by_plain[3])),
        "ends": (low, high),
    }


def main() -> None:
    """Print a table of coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", default=[], help="names that begin so (default: all, and nsynth)")
    parser.add_argument("--units", nargs="+", type=int, default=[50, 200, 1000], help="sizes of test sets")
    parser.add_argument("--repeats", type=int, default=1000, help="test sets of each (default 1000; tags a quarter)")
    parser.add_argument("--correlation", type=float, default=0.3, help="within groups (default 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(options.seed)
    columns = ["metric", "clips", "groups", "truth", "mean width", "covers", "contains the score", "clips alone"]
    print("| " + " | ".join([*columns, "percentile", "large sample"]) + " |")
    print("|---|---|---|---|---|---|---|---|---|---|")

    def report(
        name: str, system: System, units: int, groups: Callable[[], np.ndarray | None], label: str
    ) -> dict[str, Any]:
        started = time.perf_counter()
        repeats = options.repeats if system.cost < 0.1 else max(100, options.repeats // 4)
        result = measure(system, groups, units, repeats, options.correlation, options.seed + units)
        result["line"] = [name, f"{units:,}", label, f"{result['truth']:.3f}", f"{result['width']:.3f}"]
        result["line"] += [f"{result[key]:.3f}" for key in ("covered", "contains", "clips alone", "percentile")]
        result["seconds"] = time.perf_counter() - started
        return result

    wanted = {
        name: system
        for name, system in SYSTEMS.items()
        if not options.metrics or any(name.startswith(each) for each in options.metrics)
    }
    for name, system in wanted.items():
        for label, groups in (("–", None), ("n / 5", draw_groups)):
            results = [
                report(
                    name,
                    system,
                    units,
                    (lambda: None) if groups is None else (lambda n=units: draw_groups(rng, n)),
                    label,
                )
                for units in options.units
            ]
            for result in results:
                low, high = result["ends"]
                large = results[-1]["truth"]
                covered = f"{np.mean((low <= large) & (large <= high)):.3f}" if name in LARGE_SAMPLE else "–"
                print("| " + " | ".join([*result["line"], covered]) + " |", flush=True)
    if not options.metrics or "nsynth" in options.metrics:
        groups_U = np.repeat(np.arange(53), 77)
        result = report("accuracy .70, nsynth", accuracy(0.7), 53 * 77, lambda: groups_U, "53")
        print("| " + " | ".join([*result["line"], "–"]) + " |", flush=True)


if __name__ == "__main__":
    main()
