"""Rank the systems that a folder of records holds: records → leaderboards, a pure function.

A leaderboard has the tasks of one suite under one protocol; Pebble's and MARBLE's scores never share one. Scores are in
percent, R² too, source separation in dB; an average takes both as they are, as MARBLE's does [notes/benchmark §2.4],
and a note says so. A task counts once however many metrics it has: its score is their mean, and a system's average is
the mean over tasks. A missing score is never replaced by zero.

Systems are ranked by the average over the tasks that all of them have, so that each rank compares equal sets of tasks.
A system without any task in common with the others has no rank. A floor (`noise`, `majority`) carries no information
about the music; it is shown last and has no rank either. A partial record is shown and marked, and counts in no
average. Records of one task with other clips or of an older version of the task are left out, and a note names them.

Intervals: a record has one per metric, with the metric's draws. A task's interval combines its metrics', and an
average's its tasks', by the draws that they share: half widths add up weighted with the draws, so that metrics and
tasks on the same clips count as correlated as they are and tasks on different clips as independent [zou2008]. Where a
record has no draws, its metrics count as perfectly correlated and its task as independent of the others. A system
shares the rank of the best system of that rank if each average is inside the other's interval.

Letters: G draws.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from carrara.bench.interval import decode_draws
from carrara.bench.leaderboard.published import DEFAULT_SOURCES, PublishedSystem, published_systems
from carrara.bench.suites import MARBLE_14, MARBLE_V2, PEBBLE_2, SUITES
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.printable import count_of, output_width
from carrara.core.record import Record, Score

if TYPE_CHECKING:
    import pandas as pd

PERCENT = 100.0
ENDS = ("value", "low", "high")
# Encoders whose output contains no information about the music, so they score at chance level.
FLOORS = ("noise", "majority")
TRAINED, PARTIAL, EXCEEDED = "†", "*", "§"
PUBLISHED_SUITES = (MARBLE_14.name, MARBLE_V2.name)
PUBLISHED_ONLY = "published"  # where a protocol stands, of a leaderboard without records
# The thesis's figure 6.2 [yuan2023thesis §6]: source separation and beat tracking are in no category, since only
# encoders with frame-level features have these tasks; nor are Pebble's other tasks frame by frame.
CATEGORIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MARBLE_14.name: {
        "acoustic": ("nsynth/instrument", "mtg-jamendo/instrument", "vocalset/singer"),
        "score": ("nsynth/pitch",),
        "performance": ("vocalset/technique",),
        "high-level": (
            "giantsteps/key",
            "magnatagatune/tags",
            "mtg-jamendo/top50",
            "mtg-jamendo/genre",
            "mtg-jamendo/mood-theme",
            "gtzan/genre",
            "emomusic/emotion",
        ),
    },
    PEBBLE_2.name: {
        "acoustic": ("pebble/instruments", "pebble/instrument", "pebble/singer"),
        "score": (
            "pebble/pitch",
            "pebble/tempo",
            "pebble/meter",
            "pebble/interval",
            "pebble/scale",
            "pebble/chord-quality",
            "pebble/progression",
        ),
        "performance": ("pebble/technique",),
        "high-level": (
            "pebble/key",
            "pebble/genre",
            "pebble/tags",
            "pebble/top-tags",
            "pebble/genres",
            "pebble/moods",
            "pebble/emotion",
            "pebble/covers",
            "pebble/composer",
        ),
    },
}


@dataclass(frozen=True)
class Interval:
    """A value in percent or dB with its 95 % interval."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class TaskResult:
    """One system's result on one task: the mean of the task's metrics with its draws, and the record."""

    score: Interval
    record: Record
    draw_G: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def marks(self) -> str:
        """Return † for training on the dataset, * for a partial record, § for a run beyond the time limit."""
        # A part of a dataset is written after a slash: pebble/unlabelled.
        is_trained = any(name.partition("/")[0] == self.record.data.name for name in self.record.encoder.trained_on)
        return TRAINED * is_trained + PARTIAL * self.record.partial + EXCEEDED * self.record.exceeded_time_limit


@dataclass(frozen=True)
class System:
    """One system of a leaderboard.

    Attributes:
        name: the encoder's name; with the start of its weights' hash where two systems share the name.
        results: by task.
        is_floor: whether the encoder carries no information about the music.
        average: over the tasks that the leaderboard ranks by; None where one of them is missing or partial.
        full_average: over all tasks of the leaderboard; None where one of them is missing or partial.
        rank: from 1; systems that the intervals do not separate share it. None for floors and unranked systems.
        categories: by category the mean over its tasks, where none of them is missing or partial.
    """

    name: str
    results: dict[str, TaskResult]
    is_floor: bool = False
    average: Interval | None = None
    full_average: Interval | None = None
    rank: int | None = None
    categories: Mapping[str, Interval | None] = field(default_factory=dict)

    def complete_tasks(self) -> set[str]:
        """Return the tasks with a record that is not partial."""
        return {task for task, result in self.results.items() if not result.record.partial}


@dataclass(frozen=True)
class Leaderboard:
    """Systems on the tasks of one suite under one protocol, best first.

    Attributes:
        suite: name of the suite that the tasks are from, or of their dataset.
        protocol: name of the protocol, with its settings where they differ from the defaults.
        tasks: in the suite's order.
        ranked_tasks: those that ranks are by.
        better: by task, which way is better: higher or lower.
        scales: by task, ratio (shown in percent) or dB.
        systems: ranked ones first, floors last.
        left_out: records of other clips or of an older version of a task.
        published: systems whose scores others printed, with `sources`, the tables that print them.
    """

    suite: str
    protocol: str
    tasks: tuple[str, ...]
    ranked_tasks: tuple[str, ...]
    better: Mapping[str, str]
    scales: Mapping[str, str]
    systems: tuple[System, ...]
    left_out: tuple[Record, ...] = ()
    published: tuple[PublishedSystem, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return what the scores are, such as `Pebble scores, constrained protocol`."""
        name = SUITES[self.suite].title if self.suite in SUITES else f"{self.suite[:1].upper()}{self.suite[1:]}"
        protocol = self.protocol if self.protocol == PUBLISHED_ONLY else f"{self.protocol} protocol"
        return f"{name} scores, {protocol}"

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame of numbers with a row for each system: rank, average and tasks.

        The columns have two levels: `frame["pebble/key"]["value"]`, `frame["average"]["low"]`. Values are in percent
        or dB; what is missing is NaN. The average is over the tasks that ranks are by.
        """
        import pandas as pd

        rows = {}
        for system in self.systems:
            intervals = {task: result.score for task, result in system.results.items()}
            average = system.average or Interval(math.nan, math.nan, math.nan)
            row = {("rank", ""): float(system.rank or math.nan)}
            for name, interval in {"average": average, **intervals}.items():
                row |= {(name, end): getattr(interval, end) for end in ("value", "low", "high")}
            rows[system.name] = row
        names = ["average", *self.tasks]
        columns = [("rank", ""), *((name, end) for name in names for end in ("value", "low", "high"))]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=pd.MultiIndex.from_tuples(columns))
        return frame.rename_axis("system")

    def __str__(self) -> str:
        from carrara.bench.leaderboard.tables import to_text

        return to_text(self, output_width())

    def __repr__(self) -> str:
        size = f"{count_of(len(self.systems), 'system')} on {count_of(len(self.tasks), 'task')}"
        return f"<{self.title}: {size}; print() shows them>"

    def _repr_html_(self) -> str:
        from carrara.bench.leaderboard.tables import to_html

        return to_html(self, {})

    @property
    def averaged_tasks(self) -> tuple[str, ...]:
        """Return the tasks that an average may be over: those where higher is better."""
        return tuple(task for task in self.tasks if self.better.get(task, "higher") == "higher")

    def categories(self) -> dict[str, tuple[str, ...]]:
        """Return by category its tasks, for those categories that some system has complete."""
        complete = [*(system.complete_tasks() for system in self.systems), *(set(s.tasks) for s in self.published)]
        return {
            category: tasks
            for category, tasks in complete_categories(self.suite, self.tasks).items()
            if any(set(tasks) <= available for available in complete)
        }


def build_leaderboards(records: Iterable[Record], suite: str | None = None) -> list[Leaderboard]:
    """Return a leaderboard for every suite and protocol among the records, in the order of their names.

    With a suite, a leaderboard has all of that suite's tasks and no others. Without one, it has the tasks that any
    system has.

    Raises:
        UsageError: there is no such suite.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(
            f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} `carrara ls suites` shows every suite."
        )
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        own = next((name for name, each in SUITES.items() if record.task.name in each.tasks), record.data.name)
        if suite is None or record.task.name in SUITES[suite].tasks:
            grouped.setdefault((suite or own, record.protocol.name), []).append(record)
    return [_build(*key, group, suite is not None) for key, group in sorted(grouped.items())]


def build_leaderboard(records: Iterable[Record], suite: str | None = None) -> Leaderboard:
    """Return the one leaderboard of the records.

    Raises:
        UsageError: there are no records, or those of several suites or protocols.
    """
    leaderboards = build_leaderboards(records, suite)
    if len(leaderboards) != 1:
        titles = "; ".join(leaderboard.title for leaderboard in leaderboards) or "no records"
        raise UsageError(f"one leaderboard needs records of one suite and one protocol, not {titles}; name a suite")
    return leaderboards[0]


def add_published(
    leaderboards: Iterable[Leaderboard], sources: Sequence[str] = DEFAULT_SOURCES, suite: str | None = None
) -> list[Leaderboard]:
    """Return the leaderboards, those of MARBLE's tasks with published systems beside their own.

    Published systems have no rank and change none. Without any leaderboard, the published systems make one of the
    suite (by default marble-14), of the tasks that they have.

    Raises:
        UsageError: none of the leaderboards is of these tasks, or there is no such table.
    """
    leaderboards = list(leaderboards)
    if not leaderboards and (suite or MARBLE_14.name) in PUBLISHED_SUITES:
        known = {task for system in published_systems(sources) for task in system.tasks}
        tasks = tuple(task for task in SUITES[suite or MARBLE_14.name].tasks if task in known)
        leaderboards = [Leaderboard(suite or MARBLE_14.name, PUBLISHED_ONLY, tasks, (), {}, {}, ())]
    if not any(leaderboard.suite in PUBLISHED_SUITES for leaderboard in leaderboards):
        titles = "; ".join(leaderboard.title for leaderboard in leaderboards) or f"the suite {suite}"
        names = " and ".join(PUBLISHED_SUITES)
        raise UsageError(f"published scores are of the suites {names} only, but the records are of {titles}")
    for index, leaderboard in enumerate(leaderboards):
        if leaderboard.suite in PUBLISHED_SUITES:
            systems = [each for each in published_systems(sources) if set(each.tasks) & set(leaderboard.tasks)]
            systems.sort(key=lambda each: -(each.average(leaderboard.averaged_tasks) or 0))
            decibel_tasks = [
                task
                for task in leaderboard.tasks
                if any(metric.startswith("sdr_") for each in systems for metric in each.tasks.get(task, ()))
            ]
            scales = {**leaderboard.scales, **dict.fromkeys(decibel_tasks, "dB")}
            leaderboards[index] = replace(
                leaderboard, published=tuple(systems), scales=scales, sources=tuple(dict.fromkeys(sources))
            )
    return leaderboards


def name_systems(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """Return what each (encoder, weights) is called: the encoder's name, with its hash where several share the name."""
    systems = dict.fromkeys((record.encoder.name, record.encoder.weights_sha256) for record in records)
    names = [name for name, _ in systems]
    return {(name, weights): name if names.count(name) == 1 else f"{name}@{weights[:8]}" for name, weights in systems}


def complete_categories(suite: str, tasks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return a suite's categories, those of which no task is missing."""
    categories = CATEGORIES.get(suite, {})
    return {category: members for category, members in categories.items() if set(members) <= set(tasks)}


def mean_interval(
    intervals: Sequence[Interval], draws: Sequence[np.ndarray | None] = ()
) -> tuple[Interval, np.ndarray | None]:
    """Return the mean of values, and its draws as standard scores `[G]`, None if a value has none.

    Args:
        intervals: of the values.
        draws: of each value as standard scores `[G]`, from `decode_draws`. Values without them are independent, and
            their half widths, down and up, add in quadrature; so are values whose numbers of draws differ.
    """
    count = len(intervals)
    if not draws or len({len(draw_G) for draw_G in draws if draw_G is not None}) > 1:
        draws = [None] * count
    # Draws without a value are stored as 0: without a mean square of 1 again they would narrow the interval.
    draws = [draw_G if draw_G is None else draw_G / (math.sqrt(np.mean(draw_G**2)) or 1) for draw_G in draws]
    value = sum(each.value for each in intervals) / count

    def half_width(widths: Sequence[float]) -> float:
        drawn = [width * draw_G for width, draw_G in zip(widths, draws) if draw_G is not None]
        together = [math.sqrt(float(np.mean(np.sum(drawn, axis=0) ** 2)))] if drawn else []
        alone = [width for width, draw_G in zip(widths, draws) if draw_G is None]
        return math.hypot(*together, *alone) / count

    down = half_width([each.value - each.low for each in intervals])
    up = half_width([each.high - each.value for each in intervals])
    mean_G = None
    if drawn := [(each.high - each.low) * draw_G for each, draw_G in zip(intervals, draws) if draw_G is not None]:
        sum_G = np.sum(drawn, axis=0)
        mean_G = sum_G / sum_G.std() if len(drawn) == count and sum_G.std() > 0 else None
    return Interval(value, value - down, value + up), mean_G


def task_result(record: Record) -> TaskResult:
    """Return a record's score, the mean of its task's metrics, with its interval and draws."""
    scores = [record.scores[name] for name in record.task.task["metrics"]]
    intervals = [to_interval(score) for score in scores]
    draws = [decode_draws(score.draws) for score in scores]
    if any(draw_G is None for draw_G in draws):
        value, low, high = (sum(getattr(each, end) for each in intervals) / len(intervals) for end in ENDS)
        return TaskResult(Interval(value, low, high), record)
    interval, mean_G = mean_interval(intervals, draws)
    return TaskResult(interval, record, mean_G)


def to_interval(score: Score) -> Interval:
    """Return a recorded score in percent, or in dB where that is its scale."""
    unit = PERCENT if score.scale == "ratio" else 1.0
    return Interval(unit * score.value, unit * score.low, unit * score.high)


def _build(suite: str, protocol: str, records: list[Record], has_all_tasks: bool) -> Leaderboard:
    current, left_out = _split_by_task_version(records)
    suite_tasks = SUITES[suite].tasks if suite in SUITES else ()
    present = {record.task.name for record in current}
    ordered = [task for task in suite_tasks if has_all_tasks or task in present]
    tasks = (*ordered, *sorted(present - set(ordered)))
    first_scores = {record.task.name: record.scores[record.task.task["metrics"][0]] for record in current}
    better = {task: score.better for task, score in first_scores.items()}
    scales = {task: score.scale for task, score in first_scores.items()}

    results: dict[tuple[str, str], dict[str, TaskResult]] = {}
    for record in current:
        key = record.encoder.name, record.encoder.weights_sha256
        results.setdefault(key, {})[record.task.name] = task_result(record)
    names = name_systems(current)
    systems = tuple(System(names[key], own, key[0] in FLOORS) for key, own in results.items())
    unranked = Leaderboard(suite, protocol, tasks, (), better, scales, systems, tuple(left_out))

    ranked_tasks = _shared_tasks(systems, unranked.averaged_tasks)
    averaged = []
    for system in systems:
        categories = complete_categories(suite, system.complete_tasks())
        averaged.append(
            replace(
                system,
                average=_average(system, ranked_tasks),
                full_average=_average(system, unranked.averaged_tasks),
                categories={name: _average(system, members) for name, members in categories.items()},
            )
        )
    return replace(unranked, ranked_tasks=ranked_tasks, systems=tuple(_rank(averaged)))


def _split_by_task_version(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records of each task's newest version and clips, and the others."""
    newest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: (not record.partial, record.task.version, record.run.date)):
        newest[record.task.name] = record
    current: list[Record] = []
    left_out: list[Record] = []
    for record in records:
        task = newest[record.task.name].task
        # A partial record has fewer clips and so another fingerprint: it stays, is marked, and counts in no average.
        same = record.task.version == task.version and (record.partial or record.task.fingerprint == task.fingerprint)
        (current if same else left_out).append(record)
    return current, left_out


def _shared_tasks(systems: Sequence[System], tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that all systems but floors have; where that is none, those of the systems with more tasks."""
    task_sets = [system.complete_tasks() & set(tasks) for system in systems if not system.is_floor]
    while task_sets:
        if shared := set.intersection(*task_sets):
            return tuple(task for task in tasks if task in shared)
        fewest = min(map(len, task_sets))
        task_sets = [task_set for task_set in task_sets if len(task_set) > fewest]
    return ()


def _average(system: System, tasks: Sequence[str]) -> Interval | None:
    """Return a system's average over some tasks; None where there are none, or one is missing or partial."""
    if not tasks or not system.complete_tasks() >= set(tasks):
        return None
    results = [system.results[task] for task in tasks]
    return mean_interval([result.score for result in results], [result.draw_G for result in results])[0]


def _rank(systems: Sequence[System]) -> list[System]:
    """Return the systems with their ranks: ranked ones best first, then those with too few tasks, then floors."""

    def key(system: System) -> tuple[bool, bool, float, str]:
        value = system.average.value if system.average else -math.inf
        return system.is_floor, system.average is None, -value, system.name

    ranked: list[System] = []
    leader, rank = None, 0
    for position, system in enumerate(sorted(systems, key=key), start=1):
        average = system.average
        if average and not system.is_floor:
            if not (leader and leader.contains(average.value) and average.contains(leader.value)):
                leader, rank = average, position
            system = replace(system, rank=rank)
        ranked.append(system)
    return ranked
