"""Published scores: what the thesis, posters and papers print, as lines beside a board and never among its ranks.

`published.tsv` has one printed number a line, in percent (R² too) or, for separation, dB; benchmark.md 3 says where
each is from. Its tables are named by source: thesis-T6.2 and thesis-T6.3 are the two halves of one table of systems
under the constrained protocol, thesis-T5.1 and thesis-T5.2 of one with copied numbers in it. A printed beat score has
the metric f1_beat, of no stated kind: its text says 20 ms, its code pools at 70 ms (benchmark.md 0).

The rule of the printed averages, recovered from the numbers (benchmark.md 2.4): the mean over rows of the mean over a
row's metrics, dB and percent alike; over all 14 rows, or over nine or four of them. All 46 of the thesis come out so.
Those of the posters do not for the posters' own models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from carrara.bench.leaderboard.notes import LEVELLED, WALLED, mixed
from carrara.bench.suites import MARBLE_14
from carrara.core.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from carrara.bench.leaderboard.ranking import Board

TABLE = Path(__file__).with_suffix(".tsv")
COLUMNS = ["system", "dataset", "task", "metric", "value", "source_table", "note"]
# A table that is printed in two halves: the second has the average over both.
HALVES = (("thesis-T6.2", "thesis-T6.3"), ("thesis-T5.1", "thesis-T5.2"))
DEFAULT = HALVES[0]
ROWS = {
    ("GS", "key"): "giantsteps/key",
    ("MTT", "tagging"): "magnatagatune/tags",
    ("MTG-Top50", "tagging"): "mtg-jamendo/top50",
    ("MTG-Genre", "genre"): "mtg-jamendo/genre",
    ("MTG-Instrument", "instrument"): "mtg-jamendo/instrument",
    ("MTG-MoodTheme", "emotion"): "mtg-jamendo/mood-theme",
    ("GTZAN", "genre"): "gtzan/genre",
    ("GTZAN-Rhythm", "beat"): "gtzan/beats",
    ("EMO", "emotion"): "emomusic/emotion",
    ("NSynth", "pitch"): "nsynth/pitch",
    ("NSynth", "instrument"): "nsynth/instrument",
    ("VocalSet", "singer"): "vocalset/singer",
    ("VocalSet", "technique"): "vocalset/technique",
    ("MUSDB18", "separation"): "musdb18/stems",
}
METRICS = {"weighted_score": "key_weighted", "pr_auc": "average_precision"}
# MARBLE scores each chunk of these recordings (benchmark.md 1.8).
BY_WINDOW = ("vocalset/singer", "vocalset/technique")
# What an average is over: all rows, the nine of chapter 4, the four of JukeMIR.
NINE = (
    "giantsteps/key",
    "magnatagatune/tags",
    "gtzan/genre",
    "gtzan/beats",
    "emomusic/emotion",
    "nsynth/pitch",
    "nsynth/instrument",
    "vocalset/singer",
    "vocalset/technique",
)
FOUR = ("giantsteps/key", "magnatagatune/tags", "gtzan/genre", "emomusic/emotion")
OVER = {"ALL": MARBLE_14.tasks, "ALL9": NINE, "ALL4": FOUR}
WALL = "computational wall"
BEAT_ROW = "gtzan/beats"
BEATS = "‡ on gtzan/beats: of which F-measure is not certain; the text says 20 ms, the code pools tracks at 70 ms."


@dataclass(frozen=True)
class Printed:
    """One printed number: percent or dB. `row` is our task's name; none for an average or a row that we have not."""

    system: str
    dataset: str
    row: str | None
    metric: str
    value: float
    source: str
    note: str


@dataclass(frozen=True)
class Published:
    """One published system.

    Attributes:
        name: as printed; with its source where several chosen sources have the name.
        sources: the tables that it is from.
        rows: by task the printed metrics, percent or dB.
        printed: the average over all 14 rows, where one is printed.
        walled: the tasks at which it hit the computational wall.
        notes: what the source says of some of its numbers, with the tasks that it says it of.
    """

    name: str
    sources: tuple[str, ...]
    rows: dict[str, dict[str, float]]
    printed: float | None = None
    walled: frozenset[str] = frozenset()
    notes: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def cell(self, task: str) -> float | None:
        """Return a row's score, the mean of its metrics; none where it was not published."""
        metrics = self.rows.get(task)
        return sum(metrics.values()) / len(metrics) if metrics else None

    def average(self, tasks: Sequence[str]) -> float | None:
        """Return the plain mean over rows; none where one of them was not published, or there are none."""
        cells = [cell for cell in map(self.cell, tasks) if cell is not None]
        return sum(cells) / len(cells) if cells and len(cells) == len(tasks) else None


@dataclass(frozen=True)
class Average:
    """A printed average and what the rule makes of the printed scores; none where one of them was not published."""

    system: str
    source: str
    over: str
    printed: float
    recomputed: float | None


@cache
def table() -> tuple[Printed, ...]:
    """Return every printed number.

    Raises:
        DataError: the table that comes with the program is damaged.
    """
    return read_table(TABLE)


def read_table(path: Path) -> tuple[Printed, ...]:
    """Return the printed numbers of a file of seven tabulated columns.

    Raises:
        DataError: it is not such a file, or a line of it is not one number; the message names the line.
    """
    head, *lines = path.read_text(encoding="utf-8").split("\n")
    if head.split("\t") != COLUMNS:
        raise DataError(f"{path}: its first line is not the columns {', '.join(COLUMNS)}; install carrara again")
    found = []
    for number, line in enumerate(lines, start=2):
        if line:
            try:
                system, dataset, task, metric, value, source, note = line.split("\t")
                row = ROWS.get((dataset, task))
                ours = "accuracy_windows" if row in BY_WINDOW else METRICS.get(metric, metric)
                found.append(Printed(system, dataset, row, ours, float(value), source, note))
            except ValueError:
                raise DataError(f"{path}:{number}: not one number in seven columns; install carrara again") from None
    return tuple(found)


def averages(printed: Iterable[Printed]) -> list[Average]:
    """Return every printed average beside the one that the rule gives for the same system and table."""
    printed = tuple(printed)
    found = []
    for one in printed:
        if one.dataset in OVER:
            sources = next((halves for halves in HALVES if one.source in halves), (one.source,))
            system = Published(one.system, sources, _rows([p for p in printed if _of(p, one.system, sources)]))
            recomputed = system.average(OVER[one.dataset])
            found.append(Average(one.system, one.source, one.dataset, one.value, recomputed))
    return found


def published(sources: Sequence[str] = DEFAULT) -> list[Published]:
    """Return the systems of some tables that have scores on MARBLE's rows, in the order of the tables.

    The two halves of one table make one line a system; the same name in other tables is another line.

    Raises:
        UsageError: there is no such table.
    """
    known = sorted({one.source for one in table() if one.row})
    for source in sources:
        if source not in known:
            raise UsageError(
                f"there is no published table {source!r}.{did_you_mean(source, known)} The tables: {', '.join(known)}."
            )
    groups = dict.fromkeys(next((half for half in HALVES if source in half), (source,)) for source in sources)
    found: list[Published] = []
    for group in groups:
        chosen = tuple(source for source in group if source in sources)
        names = dict.fromkeys(one.system for one in table() if one.source in chosen and one.row)
        found += [_system(name, chosen) for name in names]
    names_found = [system.name for system in found]
    return [
        replace(system, name=f"{system.name} ({', '.join(system.sources)})")
        if names_found.count(system.name) > 1
        else system
        for system in found
    ]


def beside(board: Board, sources: Sequence[str] = DEFAULT) -> Board:
    """Return the board with published systems beside its own: unranked, and in no average but their own.

    Raises:
        UsageError: the board is not of MARBLE's 14 rows, or there is no such table.
    """
    if board.family != MARBLE_14.name:
        raise UsageError(f"published scores stand beside those of the suite {MARBLE_14.name} alone, not {board.title}")
    shared = [system for system in published(sources) if set(system.rows) & set(board.tasks)]
    systems = tuple(sorted(shared, key=lambda system: -(system.average(board.tasks) or 0)))
    decibels = [task for task in board.tasks if any(_decibels(system, task) for system in systems)]
    found = replace(board, published=systems, scales={**board.scales, **dict.fromkeys(decibels, "dB")})
    notes = [*board.notes, *mixed(found)]
    notes += [WALLED] * any(system.walled & set(board.tasks) for system in systems)
    notes += [LEVELLED] * bool(found.levels())
    notes.append(f"‡ printed in {', '.join(dict.fromkeys(sources))}: not measured here, no interval, no rank.")
    notes += [BEATS] * any(BEAT_ROW in system.rows for system in systems if BEAT_ROW in board.tasks)
    for system in systems:
        for note, tasks in system.notes:
            where = [task for task in board.tasks if task in tasks]
            if where:
                among = "" if set(tasks) == set(system.rows) else f" on {', '.join(where)}"
                notes.append(f"{system.name}‡{among}: {note}.")
    return replace(found, notes=tuple(dict.fromkeys(notes)))


def with_published(boards: Iterable[Board], sources: Sequence[str] = DEFAULT) -> list[Board]:
    """Return the boards, those of MARBLE's 14 rows with published systems beside their own.

    Raises:
        UsageError: none of the boards is of these rows, or there is no such table.
    """
    found = list(boards)
    if not any(board.family == MARBLE_14.name for board in found):
        there = "; ".join(board.title for board in found) or "no records"
        raise UsageError(f"published scores stand beside those of the suite {MARBLE_14.name} alone; here are {there}")
    return [beside(board, sources) if board.family == MARBLE_14.name else board for board in found]


def _system(name: str, sources: Collection[str]) -> Published:
    own = [one for one in table() if _of(one, name, sources)]
    notes: dict[str, list[str]] = {}
    for one in own:
        if one.row and one.note and WALL not in one.note:
            notes.setdefault(one.note, []).append(one.row)
    return Published(
        name=name,
        sources=tuple(sources),
        rows=_rows(own),
        printed=next((one.value for one in own if one.dataset == "ALL"), None),
        walled=frozenset(one.row for one in own if one.row and WALL in one.note),
        notes=tuple((note, tuple(dict.fromkeys(rows))) for note, rows in notes.items()),
    )


def _rows(printed: Iterable[Printed]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for one in printed:
        if one.row:
            rows.setdefault(one.row, {})[one.metric] = one.value
    return rows


def _of(one: Printed, system: str, sources: Collection[str]) -> bool:
    return one.system == system and one.source in sources


def _decibels(system: Published, task: str) -> bool:
    return any(metric.startswith("sdr_") for metric in system.rows.get(task, {}))
