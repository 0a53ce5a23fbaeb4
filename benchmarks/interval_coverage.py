"""How often 95 % intervals cover the truth and contain the score: test sets drawn again and again from known systems.

    python benchmarks/interval_coverage.py --output docs/coverage.json   # docs/intervals.md, about 30 minutes
    python benchmarks/interval_coverage.py --systems "tags, noise" --units 200 --groups in-groups --repeats 500
    python benchmarks/interval_coverage.py --table docs/coverage.json    # the table again

A clip's answers come from latent normal variables. In groups, a part of their variance (--correlation, 0.3) is common
to the clips of a group; groups have unequal sizes, a fifth of the units in number. `nsynth` is accuracy on NSynth's
test shape, 53 instruments with 77 notes each. The truth is the mean score over all test sets of a line; the column
`large sample` has the coverage of the mean score on the largest test sets, which differs for average precision (it is
higher on few clips). `clips alone` is the coverage if groups are ignored, and `percentile` that of the plain percentile
bootstrap over groups, both on the first test sets (--compared). Lines are added to --output; what it has is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

from carrara.bench import task_types
from carrara.bench.interval import JACKKNIFE_GROUPS, intervals_from_counts, resample_metrics
from carrara.core.task import Task

KEYS = ("C major", "G major", "A minor", "C minor", "Gb major")
TAGS = 50
DRAWS = 300
# The jackknife's intervals have the jackknife's error, however many draws are scaled to it.
JACKKNIFE_DRAWS = 10
REPEATS = 2000
COMPARED = 100
ALONE, IN_GROUPS = "alone", "in-groups"
COLUMNS = {"truth": "truth", "width": "mean width", "covers": "covers", "below": "all below the truth",
           "above": "all above it", "contains": "contains the score", "alone": "clips alone",
           "percentile": "percentile", "large": "large sample"}  # fmt: skip

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
        right_U = (latent() < special.ndtri(p)).astype(int)
        return [1] * len(right_U), right_U.tolist()

    return System(("accuracy",), "multiclass", ("a", "b"), draw)


def _keys(rng: np.random.Generator, latent: Latent) -> tuple[list[int], list[int]]:
    ends = [0.6, 0.72, 0.8, 0.86]
    predictions = np.searchsorted(ends, special.ndtr(latent()))
    return [0] * len(predictions), predictions.tolist()


def tags(skill: float) -> System:
    """Return a tagger whose scores of positives lie `skill` standard deviations above those of negatives."""

    def draw(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # A fifth of the variance is common to a clip's tags.
        def common(count: int) -> np.ndarray:
            return np.sqrt(0.2) * latent(1) + np.sqrt(0.8) * latent(count)

        truth_UK = (common(TAGS) < special.ndtri(np.linspace(0.03, 0.3, TAGS))).astype(float)
        return list(truth_UK), list(skill * truth_UK + common(TAGS))

    return System(("roc_auc", "average_precision"), "multilabel", tuple(map(str, range(TAGS))), draw)


def _numbers(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth_UE = latent(2)
    return list(truth_UE), list(truth_UE + latent(2) * [0.6, 0.9])


def _beats(rng: np.random.Generator, latent: Latent) -> tuple[list[np.ndarray], list[np.ndarray]]:
    truth = np.arange(0.5, 12, 0.5)
    # Tracks are followed well or badly: the fraction of beats that are right is often nearly 1.
    right_U = special.betaincinv(2, 0.5, special.ndtr(latent()))
    return [truth] * len(right_U), [truth + 0.2 * (rng.random(len(truth)) > part) for part in right_U]


def _stems(rng: np.random.Generator, latent: Latent) -> tuple[list[str], list[dict[str, float]]]:
    sdr_U = 5 + 3 * stats.gumbel_l.ppf(special.ndtr(latent()))
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
    "nsynth": right(0.7),
}


def make_latent(rng: np.random.Generator, groups_U: np.ndarray, correlation: float) -> Latent:
    """Return a function that draws standard normal values for units, correlated within groups."""

    def latent(*shape: int) -> np.ndarray:
        own = rng.standard_normal((len(groups_U), *shape))
        common = rng.standard_normal((groups_U.max() + 1, *shape))[groups_U]
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    return latent


def draw_groups(rng: np.random.Generator, units: int, arrangement: str) -> np.ndarray:
    """Return each unit's group: itself, NSynth's, or a fifth as many groups as units, of unequal sizes."""
    if arrangement == ALONE:
        return np.arange(units)
    if arrangement == "nsynth":
        return np.repeat(np.arange(53), 77)
    count = units // 5
    sizes = rng.dirichlet(np.full(count, 3.0))
    groups_U = np.concatenate((np.arange(count), rng.choice(count, units - count, p=sizes)))
    return np.unique(groups_U, return_inverse=True)[1]


# A Poisson(1) number for each 16-bit one: much faster than the named generators of the records' draws.
POISSON = np.searchsorted(special.pdtr(np.arange(12), 1), (np.arange(2**16) + 0.5) / 2**16, side="right").astype(
    np.uint8
)


def draw_counts(rng: np.random.Generator, groups_U: np.ndarray, draws: int) -> np.ndarray:
    """Return how often each draw holds each unit, `[G, U]`."""
    return POISSON[rng.integers(0, 2**16, (draws, groups_U.max() + 1), dtype=np.uint16)][:, groups_U]


def measure(name: str, units: int, arrangement: str, repeats: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return by metric the ends of a system's intervals and the coverage of two plain ones."""
    system = SYSTEMS[name]
    rng = np.random.default_rng([options.seed, units, list(SYSTEMS).index(name), arrangement == ALONE])
    task = Task(
        version=1, dataset="d", split_scheme="s", task_type=system.task_type, label="x", labels=system.labels,
        metrics=system.metrics, monitor=system.metrics[0], category="score", name="d/x",
    )  # fmt: skip
    task_type = task_types.REGISTRY.get(system.task_type)
    started = time.process_time()
    values, ends, plain = [], [], []
    for repeat in range(repeats):
        groups_U = draw_groups(rng, units, arrangement)
        truths, predictions = system.draw(rng, make_latent(rng, groups_U, options.correlation))
        scaled = system.task_type == "multilabel" and groups_U.max() < JACKKNIFE_GROUPS
        compared = repeat < options.compared
        counts_GU = draw_counts(rng, groups_U, JACKKNIFE_DRAWS if scaled and not compared else DRAWS)
        names = groups_U.astype(str).tolist()
        own = intervals_from_counts(task, task_type, truths, [predictions], names, counts_GU)
        values.append(list(task_type.metrics(task, truths, predictions).values()))
        ends.append([(each.low, each.high) for each in own.values()])
        if compared:
            drawn = resample_metrics(task, task_type, truths, predictions, counts_GU)
            units_U = np.arange(len(truths))
            alone = intervals_from_counts(
                task, task_type, truths, [predictions], units_U.astype(str).tolist(), draw_counts(rng, units_U, DRAWS)
            )
            plain.append([(alone[m].low, alone[m].high, *np.nanpercentile(drawn[m], (2.5, 97.5))) for m in own])
    seconds = round(time.process_time() - started)
    result = {}
    for index, metric in enumerate(own):
        value, (low, high) = np.array(values)[:, index], np.array(ends)[:, index].T
        truth = value.mean()
        result[metric] = {
            "truth": truth,
            "width": np.mean(high - low),
            "covers": np.mean((low <= truth) & (truth <= high)),
            "below": np.mean(high < truth),
            "above": np.mean(low > truth),
            "contains": np.mean((low <= value) & (value <= high)),
            "test_sets": repeats,
            "cpu_seconds": seconds,
            "ends": (low, high),
        }
        if plain:
            low, high, low_percentile, high_percentile = np.array(plain)[:, index].T
            result[metric]["alone"] = np.mean((low <= truth) & (truth <= high))
            result[metric]["percentile"] = np.mean((low_percentile <= truth) & (truth <= high_percentile))
    return result


def measure_lines(options: argparse.Namespace, lines: dict[str, Any]) -> Iterator[str]:
    """Measure the lines that are missing, largest test sets first; yield the key of each."""
    for name in options.systems or SYSTEMS:
        arrangements = ["nsynth"] if name == "nsynth" else options.groups
        for arrangement in arrangements:
            large: dict[str, float] = {}
            for units in [53 * 77] if name == "nsynth" else sorted(options.units, reverse=True):
                keys = {metric: f"{name}, {metric}, {units}, {arrangement}" for metric in SYSTEMS[name].metrics}
                if not set(keys.values()) <= lines.keys():
                    for metric, line in measure(name, units, arrangement, options.repeats, options).items():
                        low, high = line.pop("ends")
                        truth = large.get(metric, line["truth"])
                        line["large"] = np.mean((low <= truth) & (truth <= high))
                        numbers = {key: round(float(value), 4) for key, value in line.items()}
                        lines[keys[metric]] = {"system": name, "metric": metric, "clips": units,
                                               "groups": arrangement, **numbers}  # fmt: skip
                        yield keys[metric]
                for metric, key in keys.items():
                    large.setdefault(metric, lines[key]["truth"])


def table_row(line: dict[str, Any]) -> str:
    """Return a line as a row of a Markdown table."""
    groups = {ALONE: "–", IN_GROUPS: "n / 5"}.get(line["groups"], "53")
    numbers = [f"{line[key]:.3f}" if key in line else "–" for key in COLUMNS]
    cells = [line["system"], line["metric"], f"{line['clips']:,}", groups, *numbers, f"{line['test_sets']:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def table_head() -> str:
    """Return the head of the table."""
    columns = ["system", "metric", "clips", "groups", *COLUMNS.values(), "test sets"]
    return "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"


def main() -> None:
    """Print a table of coverages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[], help="default: all")
    parser.add_argument("--units", nargs="+", type=int, default=[50, 200, 1000], help="sizes of test sets")
    parser.add_argument("--groups", nargs="+", choices=(ALONE, IN_GROUPS), default=[ALONE, IN_GROUPS])
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"test sets a line (default {REPEATS})")
    parser.add_argument("--compared", type=int, default=COMPARED, help=f"of them also with plain ones ({COMPARED})")
    parser.add_argument("--correlation", type=float, default=0.3, help="within groups (default 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to add lines to")
    parser.add_argument("--table", type=Path, help="print the table of this JSON file and end")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    source = options.table or options.output
    lines = json.loads(source.read_text()) if source and source.exists() else {}
    print(table_head())
    if options.table:
        print("\n".join(map(table_row, lines.values())))
        return
    for key in measure_lines(options, lines):
        print(table_row(lines[key]), flush=True)
        if options.output:
            options.output.write_text(json.dumps(lines, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
