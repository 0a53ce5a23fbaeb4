"""Compare two systems on the same test clips: differences, intervals and p values by task.

Paired bootstrap: each draw takes groups of test units (song, singer, instrument, artist; a clip alone where no group is
known), the same for both systems, and computes both systems' scores. The draws of the difference give its standard
error, the spread of training seeds adds to it, and Student's t gives its 95 % interval and p
(`carrara/metrics/bootstrap.py`). Tasks whose p stays below 5 % after Holm's correction over all compared tasks
[holm1979] are better or worse; the others are undecided, which is not the same as equal. Tasks measured on other clips,
or in another version, are listed as not comparable.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import special

from carrara.bench import task_types
from carrara.bench.interval import resample_metrics
from carrara.bench.leaderboard.ranking import PERCENT, Interval, name_systems
from carrara.bench.predictions import predictions_path, read_groups, read_predictions, to_metric_input
from carrara.bench.suites import SUITES
from carrara.core.errors import CarraraError, StoreError, UsageError, did_you_mean
from carrara.core.printable import count_of, output_width
from carrara.core.record import Record
from carrara.core.settings import parse_settings
from carrara.core.task import Task
from carrara.metrics.bootstrap import DRAWS, SEED, StandardError, centre_draws, resample_counts, standard_error

if TYPE_CHECKING:
    import pandas as pd

    from carrara.bench.task_types._base import TaskType

LEVEL = 0.05
VERDICTS = ("better", "worse", "undecided")


@dataclass(frozen=True)
class ScoreDraws:
    """A system's score on a task: with each training seed `[S]`, and their mean in each draw of units `[G]`."""

    by_seed: Sequence[float]
    draw_G: np.ndarray


@dataclass(frozen=True)
class PairedDifference:
    """Two systems' scores on one task, the difference (first minus second) with its 95 % interval, and its p."""

    first: float
    second: float
    difference: Interval
    p: float


@dataclass(frozen=True)
class TaskComparison:
    """Two systems on one task, in percent or dB.

    Attributes:
        task, protocol: their names.
        first, second, difference, p: as in `PairedDifference`.
        n: how many clips, tracks or notes were scored.
        scale: ratio (shown in percent) or dB.
        better: whether `higher` or `lower` scores are better.
        partial: whether a record has fewer clips than the task.
        groups: how many independent groups the scored units are of.
        resampled: what a group is: clip, song, singer, instrument, artist.
        p_holm: p after Holm's correction over the compared tasks.
        verdict: on the first system against the second.
    """

    task: str
    protocol: str
    first: float
    second: float
    difference: Interval
    p: float
    n: int
    scale: str
    better: str
    partial: bool
    groups: int = 0
    resampled: str = "clip"
    p_holm: float = 1.0
    verdict: Literal["better", "worse", "undecided"] = "undecided"


@dataclass(frozen=True)
class NotComparable:
    """A task that both systems have and that cannot be compared, with the reason."""

    task: str
    protocol: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two systems, the tasks that both have, and those that cannot be compared."""

    first: str
    second: str
    tasks: tuple[TaskComparison, ...]
    not_comparable: tuple[NotComparable, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame of numbers with a row for each task: both scores, difference, low, high, p, verdict."""
        import pandas as pd

        columns = [self.first, self.second, "difference", "low", "high", "p", "p_holm", "verdict", "n"]
        rows = [
            [each.first, each.second, *vars(each.difference).values(), each.p, each.p_holm, each.verdict, each.n]
            for each in self.tasks
        ]
        index = pd.MultiIndex.from_tuples(
            [(each.task, each.protocol) for each in self.tasks], names=["task", "protocol"]
        )
        return pd.DataFrame(rows, index=index, columns=columns)

    def __str__(self) -> str:
        from carrara.bench.leaderboard.tables import frame_to_text

        title = f"{self.first} against {self.second}"
        return frame_to_text(title, comparison_frame(self), comparison_notes(self), output_width())

    def __repr__(self) -> str:
        counts = ", ".join(f"{sum(t.verdict == name for t in self.tasks)} {name}" for name in VERDICTS)
        return (
            f"<{self.first} against {self.second} on {count_of(len(self.tasks), 'task')}: {counts}; print() shows them>"
        )

    def _repr_html_(self) -> str:
        return comparison_frame(self).to_html(border=0)


def compare_systems(
    records: Iterable[Record], first: str, second: str, results: Path | str, suite: str | None = None
) -> Comparison:
    """Return the comparison of two systems over the tasks that both have.

    Args:
        records: those of the folder of results.
        first, second: systems, named as on the leaderboard: the encoder's name, or name@start of its weights' hash
            where several share the name.
        results: the folder, which also holds the predictions on the test clips.
        suite: compare only its tasks.

    Raises:
        UsageError: no such system or suite, or no task that both have.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(
            f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} `carrara ls suites` shows every suite."
        )
    records = [record for record in records if suite is None or record.task.name in SUITES[suite].tasks]
    names = name_systems(records)
    by_system: dict[str, dict[tuple[str, str], Record]] = {}
    for record in sorted(records, key=lambda record: (record.task.version, record.run.date)):
        name = names[record.encoder.name, record.encoder.weights_sha256]
        by_system.setdefault(name, {})[record.protocol.name, record.task.name] = record
    for name in (first, second):
        if name not in by_system:
            known = ", ".join(sorted(by_system)) or "none"
            raise UsageError(f"no system {name!r} in {results}.{did_you_mean(name, by_system)} The systems: {known}.")
    if first == second:
        raise UsageError(f"{first!r} is given twice; give two systems to compare")
    order = [task for each in SUITES.values() for task in each.tasks]
    shared = sorted(
        set(by_system[first]) & set(by_system[second]),
        key=lambda key: (key[0], order.index(key[1]) if key[1] in order else len(order), key[1]),
    )
    if not shared:
        raise UsageError(f"{first} and {second} have no task in common in {results}; `carrara bench` measures more")
    compared = [compare_records(by_system[first][key], by_system[second][key], Path(results)) for key in shared]
    return Comparison(
        first,
        second,
        tuple(add_verdicts([each for each in compared if isinstance(each, TaskComparison)])),
        tuple(each for each in compared if isinstance(each, NotComparable)),
    )


def paired_difference(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    first_S: Sequence[Sequence[Any]],
    second_S: Sequence[Sequence[Any]],
    groups: Sequence[str] | None = None,
    seed: int = SEED,
    draws: int = DRAWS,
) -> PairedDifference:
    """Return how two systems' scores on a task differ, in the metrics' own scale.

    Args:
        task: the task.
        task_type: its type, which computes the metrics.
        truths: one per scored unit.
        first_S, second_S: each system's predictions: for each training seed, one per scored unit.
        groups: the name of each unit's group; None means that every unit is independent.
        seed: seed of the draws.
        draws: number of draws.
    """
    groups = list(map(str, range(len(truths)))) if groups is None else groups
    counts_GU = resample_counts(groups, task.dataset, seed, draws)
    first, second = (draw_scores(task, task_type, truths, each_S, counts_GU) for each_S in (first_S, second_S))
    return subtract_draws(first, second, len(set(groups)))


def draw_scores(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Any],
    predictions_S: Sequence[Sequence[Any]],
    counts_GU: np.ndarray,
) -> ScoreDraws:
    """Return a system's scores on the test units and on draws of them.

    Args:
        task, task_type, truths: as of `paired_difference`.
        predictions_S: for each training seed, one per scored unit.
        counts_GU: how often each draw takes each unit, `[G, U]`.
    """
    by_seed = [task_score(task, task_type.metrics(task, truths, predictions)) for predictions in predictions_S]
    draws_S = [task_score(task, resample_metrics(task, task_type, truths, each, counts_GU)) for each in predictions_S]
    return ScoreDraws(by_seed, np.mean(draws_S, axis=0))


def subtract_draws(first: ScoreDraws, second: ScoreDraws, groups: int) -> PairedDifference:
    """Return the difference of two systems' scores on the same draws over a number of groups."""
    values = [float(np.mean(each.by_seed)) for each in (first, second)]
    difference = values[0] - values[1]
    error = standard_error(
        centre_draws(first.draw_G - second.draw_G, difference, groups), groups, [first.by_seed, second.by_seed]
    )
    margin = error.margin()
    interval = Interval(difference, difference - margin, difference + margin)
    return PairedDifference(values[0], values[1], interval, two_sided_p(difference, error, groups))


def two_sided_p(difference: float, error: StandardError, groups: int) -> float:
    """Return the two-sided p value of no difference.

    Where all groups differ by the same amount, so that there is no error, it is the sign test's.
    """
    if error.value > 0:
        return float(2 * special.stdtr(error.freedom, -abs(difference) / error.value))  # Student's t, upper tail
    return 0.5 ** (groups - 1) if difference else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's step-down correction, in the order given [holm1979]."""
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[index]))
        corrected[index] = highest
    return corrected


def add_verdicts(tasks: Sequence[TaskComparison]) -> list[TaskComparison]:
    """Return the comparisons with p corrected over all of them and the verdicts that follow."""
    decided = []
    for task, p_holm in zip(tasks, holm([task.p for task in tasks])):
        difference = task.difference.value
        verdict: Literal["better", "worse", "undecided"] = "undecided"
        if p_holm < LEVEL and difference != 0:
            verdict = "better" if (difference > 0) == (task.better == "higher") else "worse"
        decided.append(replace(task, p_holm=p_holm, verdict=verdict))
    return decided


def task_score(task: Task, metrics: dict[str, Any]) -> Any:
    """Return the task's score from its metrics, values or draws alike: the mean over `task.metrics`."""
    return sum(metrics[name] for name in task.metrics) / len(task.metrics)


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """Return the comparison as a DataFrame of strings, one row for each task."""
    import pandas as pd

    several = len({task.protocol for task in comparison.tasks}) > 1
    rows = {}
    for task in comparison.tasks:
        name = f"{task.task} ({task.protocol})" if several else task.task
        difference = f"{task.difference.value:+.1f} [{task.difference.low:+.1f}, {task.difference.high:+.1f}]"
        scores = [f"{task.first:.1f}", f"{task.second:.1f}", difference, f"{task.p:.3f}", f"{task.p_holm:.3f}"]
        rows[f"{name}{' (dB)' * (task.scale == 'dB')}{'*' * task.partial}"] = [*scores, task.verdict]
    columns = [comparison.first, comparison.second, "difference", "p", "p (Holm)", f"{comparison.first} is"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=object)


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return sentences with the verdicts, the method, and the tasks that are not comparable."""
    notes = []
    for verdict in VERDICTS:
        names = [task.task for task in comparison.tasks if task.verdict == verdict]
        if names:
            count = f"{len(names)} of {len(comparison.tasks)} tasks"
            notes.append(f"{comparison.first} is {verdict} on {count}: {', '.join(names)}.")
    notes.append(
        "Differences with 95 % intervals of the paired bootstrap over the test clips; p two-sided, corrected over the "
        "tasks by Holm; decided below 0.05. Undecided is not equal."
    )
    if grouped := [task for task in comparison.tasks if task.groups < task.n]:
        counts = ", ".join(f"{task.task} ({task.n:,} in {task.groups:,} {task.resampled}s)" for task in grouped)
        notes.append(f"Resampled by group, whose clips are no independent evidence: {counts}.")
    if any(task.partial for task in comparison.tasks):
        notes.append("* a partial record: fewer clips than the task has.")
    return notes + [
        f"Not comparable: {each.task} ({each.protocol}): {each.reason}." for each in comparison.not_comparable
    ]


def compare_records(first: Record, second: Record, results: Path) -> TaskComparison | NotComparable:
    """Return the comparison of two records of one task and protocol, or why they cannot be compared."""
    name, protocol = first.task.name, first.protocol.name
    if first.task.version != second.task.version:
        return NotComparable(name, protocol, f"versions {first.task.version} and {second.task.version} of the task")
    if first.task.fingerprint != second.task.fingerprint:
        return NotComparable(name, protocol, "the fingerprints differ: other settings of the task or another index")
    try:
        predictions = [read_predictions(predictions_path(record, results)) for record in (first, second)]
        group_of = read_groups(predictions_path(first, results))
    except StoreError as problem:
        return NotComparable(name, protocol, str(problem))
    units = [frozenset(clips) for by_seed in predictions for clips in by_seed.values()]
    if len(set(units)) > 1:
        count = len(frozenset.union(*units) - frozenset.intersection(*units))
        return NotComparable(name, protocol, f"{count} test clips were measured with one system and not with the other")
    ids = sorted(units[0])
    truths, other_truths = ([next(iter(by_seed.values()))[unit][0] for unit in ids] for by_seed in predictions)
    if truths != other_truths:
        return NotComparable(name, protocol, "the truths of some test clips differ")
    try:
        task = parse_settings(Task, first.task.task, "the record")
        first_S, second_S = (
            [[to_metric_input(clips[unit][1]) for unit in ids] for clips in by_seed.values()] for by_seed in predictions
        )
        task_type = task_types.REGISTRY.get(task.task_type)
        groups = [group_of[unit] for unit in ids]
        inputs = [to_metric_input(truth) for truth in truths]
        raw = paired_difference(task, task_type, inputs, first_S, second_S, groups)
    except (CarraraError, ArithmeticError, LookupError, TypeError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        return NotComparable(name, protocol, f"its predictions cannot be scored ({reason}); run this task again")
    return to_task_comparison(first, second, raw, ids, groups)


def to_task_comparison(
    first: Record, second: Record, raw: PairedDifference, units: Sequence[str], groups: Sequence[str]
) -> TaskComparison:
    """Return a paired difference of two records in percent or dB, with what was scored and not yet a verdict."""
    score = first.scores[first.task.task["metrics"][0]]
    unit = PERCENT if score.scale == "ratio" else 1.0
    return TaskComparison(
        first.task.name,
        first.protocol.name,
        unit * raw.first,
        unit * raw.second,
        Interval(unit * raw.difference.value, unit * raw.difference.low, unit * raw.difference.high),
        raw.p,
        n=len(units),
        groups=len(set(groups)),
        resampled=score.resampled or score.unit,
        scale=score.scale,
        better=score.better,
        partial=first.partial or second.partial,
    )
