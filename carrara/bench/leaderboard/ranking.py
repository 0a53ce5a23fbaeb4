"""The board: from records to ranked systems, a pure function of a folder of records (style.md 4.5).

A board is of one family of rows under one protocol; Pebble's scores stand in no table with MARBLE's. Scores are in
percent, R² too, separation in dB; an average takes both as they are, as MARBLE's does, and a note says so. A row of the
benchmark counts once however many metrics it has: its cell is their mean, and a system's average the plain mean of its
cells (benchmark.md 2.4). What is missing is missing, never zero: only systems with every row have an average and a
rank; beside it stands the average over the rows that all have. A partial record is shown, marked, and counts in
neither. Records of one row that answer different questions (another version, other clips) are not compared: the newest
question stays, a note names what is left out.

Intervals: a record has one a metric. A cell's is the mean of its metrics' bounds, which is exact for metrics that move
together and too wide otherwise, never too narrow. An average's has the cells' half widths added in quadrature, as if
rows were independent; rows asked of the same clips are not quite. Systems share a rank where each one's average lies
inside the other's interval, seen from the best of those who share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from carrara.bench.leaderboard.levels import complete
from carrara.bench.leaderboard.notes import notes
from carrara.bench.leaderboard.published import Published
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError, did_you_mean
from carrara.core.record import Record, Score

PERCENT = 100.0


@dataclass(frozen=True)
class Span:
    """A value in percent, or in dB, with its 95 % interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Cell:
    """One system on one row: the cell's own span, each metric's, and what must be marked."""

    span: Span
    scores: dict[str, Span]
    record: Record
    trained: bool
    partial: bool
    walled: bool = False


@dataclass(frozen=True)
class System:
    """One line of the board.

    Attributes:
        name: the encoder's name; with the start of its weights' hash where two share a name.
        cells: by task, whichever there are.
        average: over all tasks of the board; none unless all are there and whole.
        common: over the tasks that every system of the board has; none where there is none.
        rank: among the systems with an average, from 1; those that cannot be told apart share it.
        levels: by level its rows' mean, of the levels of which no row is missing or partial.
    """

    name: str
    cells: dict[str, Cell]
    average: Span | None = None
    common: Span | None = None
    rank: int | None = None
    levels: Mapping[str, Span] = field(default_factory=dict)

    def whole(self) -> set[str]:
        """Return the tasks with a cell that is not partial."""
        return {task for task, cell in self.cells.items() if not cell.partial}


@dataclass(frozen=True)
class Board:
    """Systems of one family of rows and one protocol, best first.

    Attributes:
        family: name of the suite that the rows are from, or of their dataset.
        tasks: the rows, in the suite's order; `common` those that every system has.
        better: by task, which way is better: higher or lower.
        notes: what a reader must know, a sentence each.
        scales: by task, ratio (shown in percent) or dB.
        published: systems whose scores others printed; they stand beside the board, outside of its ranks.
    """

    family: str
    protocol: str
    tasks: tuple[str, ...]
    common: tuple[str, ...]
    better: Mapping[str, str]
    systems: tuple[System, ...]
    notes: tuple[str, ...]
    scales: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    @property
    def title(self) -> str:
        """Return what the scores are: `Pebble scores, constrained protocol`."""
        name = SUITES[self.family].title if self.family in SUITES else f"{self.family[:1].upper()}{self.family[1:]}"
        return f"{name} scores, {self.protocol} protocol"

    def levels(self) -> dict[str, tuple[str, ...]]:
        """Return the rows of each level that any of the systems has whole."""
        whole = [*(system.whole() for system in self.systems), *(set(system.rows) for system in self.published)]
        return {
            level: rows
            for level, rows in complete(self.family, self.tasks).items()
            if any(set(rows) <= have for have in whole)
        }


def boards(records: Iterable[Record], suite: str | None = None) -> list[Board]:
    """Return a board for every family of rows and protocol among the records, in the order of their names.

    With a suite, only its rows, and all of them: a system must have each to be ranked. Without one, the rows of a board
    are those that any of its systems has.

    Raises:
        UsageError: there is no such suite.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(
            f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} `carrara ls suites` shows every suite."
        )
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if suite is None or record.task.name in SUITES[suite].tasks:
            grouped.setdefault((suite or family(record), record.protocol.name), []).append(record)
    return [_board(*key, found, suite) for key, found in sorted(grouped.items())]


def board(records: Iterable[Record], suite: str | None = None) -> Board:
    """Return the one board of the records.

    Raises:
        UsageError: there are no records, or those of several families or protocols.
    """
    found = boards(records, suite)
    if len(found) != 1:
        several = "; ".join(one.title for one in found) or "no records"
        raise UsageError(f"one board needs records of one family and one protocol, not {several}; name a suite")
    return found[0]


def family(record: Record) -> str:
    """Return the name of the suite that a record's row is from, or else of its dataset."""
    return next((suite.name for suite in SUITES.values() if record.task.name in suite.tasks), record.data.name)


def _board(name: str, protocol: str, records: list[Record], suite: str | None) -> Board:
    kept, left = _comparable(records)
    order = SUITES[name].tasks if name in SUITES else ()
    present = {record.task.name for record in kept}
    named = [task for task in order if suite is not None or task in present]
    tasks = (*named, *sorted(present - set(named)))
    firsts = {record.task.name: record.scores[record.task.task["scores"][0]] for record in kept}
    better = {task: score.better for task, score in firsts.items()}
    scales = {task: score.scale for task, score in firsts.items()}
    averaged = [task for task in tasks if better.get(task, "higher") == "higher"]
    systems = _systems(kept)
    whole = [system.whole() for system in systems]
    common = tuple(task for task in averaged if all(task in have for have in whole))
    ranked = tuple(_ranked([_averaged(system, name, averaged, common) for system in systems]))
    found = Board(name, protocol, tasks, common, better, ranked, (), scales)
    return replace(found, notes=tuple(notes(found, averaged, left)))


def _comparable(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return the records that answer the newest question asked under their task's name, and the others."""
    newest: dict[str, Record] = {}
    for record in sorted(records, key=lambda one: (not one.partial, one.task.version, one.run.date)):
        newest[record.task.name] = record
    kept: list[Record] = []
    left: list[Record] = []
    for record in records:
        asked = newest[record.task.name].task
        # A partial record was asked of fewer clips: never the same question, but marked and not ranked.
        same = record.task.version == asked.version and (record.partial or record.task.fingerprint == asked.fingerprint)
        (kept if same else left).append(record)
    return kept, left


def _systems(records: list[Record]) -> list[System]:
    cells: dict[tuple[str, str], dict[str, Cell]] = {}
    for record in records:
        cells.setdefault((record.encoder.name, record.encoder.weights_sha256), {})[record.task.name] = _cell(record)
    names = [name for name, _ in cells]
    return [
        System(name if names.count(name) == 1 else f"{name}@{weights[:8]}", found)
        for (name, weights), found in cells.items()
    ]


def _cell(record: Record) -> Cell:
    scores = {name: _span(score) for name, score in record.scores.items()}
    own = [scores[name] for name in record.task.task["scores"]]
    value, low, high = (sum(getattr(span, end) for span in own) / len(own) for end in ("value", "low", "high"))
    # A part of a dataset is written after a stroke: pebble/unlabelled.
    trained = any(name.partition("/")[0] == record.data.name for name in record.encoder.trained_on)
    return Cell(Span(value, low, high), scores, record, trained, record.partial, record.exceeded_time_limit)


def _span(score: Score) -> Span:
    unit = PERCENT if score.scale == "ratio" else 1.0
    return Span(unit * score.value, unit * score.low, unit * score.high)


def _averaged(system: System, family: str, tasks: Sequence[str], common: Sequence[str]) -> System:
    whole = system.whole()

    def over(rows: Sequence[str]) -> Span:
        return mean([system.cells[task].span for task in rows])

    return replace(
        system,
        average=over(tasks) if tasks and whole >= set(tasks) else None,
        common=over(common) if common else None,
        levels={level: over(rows) for level, rows in complete(family, whole).items()},
    )


def mean(spans: Sequence[Span]) -> Span:
    """Return the mean of independent values; their half widths, each way, add in quadrature."""
    value = sum(span.value for span in spans) / len(spans)
    down = math.hypot(*(span.value - span.low for span in spans)) / len(spans)
    up = math.hypot(*(span.high - span.value for span in spans)) / len(spans)
    return Span(value, value - down, value + up)


def _ranked(systems: Sequence[System]) -> list[System]:
    """Return the systems, best first, those with an average ranked before all others."""

    def key(system: System) -> tuple[bool, float, str]:
        span = system.average or system.common
        return system.average is None, -span.value if span else math.inf, system.name

    found: list[System] = []
    leader, rank = None, 0
    for place, system in enumerate(sorted(systems, key=key), start=1):
        span = system.average
        if span is not None and not (leader and leader.holds(span.value) and span.holds(leader.value)):
            leader, rank = span, place
        found.append(replace(system, rank=None if span is None else rank))
    return found
