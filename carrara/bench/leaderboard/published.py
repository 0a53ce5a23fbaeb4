"""Published scores: what the thesis, posters and papers print, shown beside a leaderboard and never ranked.

`published.tsv` holds one printed number a line, in percent (R² too) or dB (source separation); [notes/benchmark §3]
says where each comes from. Tables are named by source: thesis-T6.2 and thesis-T6.3 are two halves of one table of
systems under the constrained protocol, thesis-T5.1 and thesis-T5.2 of one that also has copied numbers. A printed beat
score has the metric f1_beat of unstated tolerance: the text says 20 ms, the code pools tracks at 70 ms
[notes/benchmark §0]. Of 2026 there are mert-v2-card, the MERT-v2 model card's own systems, and pupujepa-T3-T5, what it
copies of others; their beats are at 70 ms. None of these numbers was rerun here.

A printed average is the mean over tasks of the mean over a task's metrics, dB and percent alike [notes/benchmark §2.4].
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from carrara.core.errors import DataError, UsageError, did_you_mean

TABLE = Path(__file__).with_suffix(".tsv")
COLUMNS = ["system", "dataset", "task", "metric", "value", "source_table", "note"]
# Tables that are printed in two halves: the second half has the average over both.
HALVES = (("thesis-T6.2", "thesis-T6.3"), ("thesis-T5.1", "thesis-T5.2"))
DEFAULT_SOURCES = HALVES[0]
SUITE_SOURCES = {"marble-v2": ("mert-v2-card", "pupujepa-T3-T5")}  # instead of the default
TASKS = {
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
    ("Chords1217", "chords"): "chords1217/chords",
}
METRICS = {"weighted_score": "key_weighted", "pr_auc": "average_precision"}
# MARBLE scores each chunk of these recordings [notes/benchmark §1.8].
SCORED_BY_WINDOW = ("vocalset/singer", "vocalset/technique")
TIME_LIMIT_NOTE = "computational wall"


@dataclass(frozen=True)
class PublishedScore:
    """One printed number in percent or dB; `task` is None for an average and for a task that Carrara does not have."""

    system: str
    dataset: str
    task: str | None
    metric: str
    value: float
    source: str
    note: str


@dataclass(frozen=True)
class PublishedSystem:
    """The printed scores of one system.

    Attributes:
        name: as printed; with its source where several of the chosen sources have the name.
        sources: the tables that print it.
        tasks: by task the printed metrics, in percent or dB.
        printed_average: the average over all 14 tasks, where one is printed.
        exceeded_time_limit: the tasks that took longer than MARBLE's time limit.
        notes: what the source says about some of the numbers, and the tasks that it says it about.
    """

    name: str
    sources: tuple[str, ...]
    tasks: dict[str, dict[str, float]]
    printed_average: float | None = None
    exceeded_time_limit: frozenset[str] = frozenset()
    notes: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def score(self, task: str) -> float | None:
        """Return the mean of a task's metrics; None where the task was not published."""
        metrics = self.tasks.get(task)
        return sum(metrics.values()) / len(metrics) if metrics else None

    def average(self, tasks: Sequence[str]) -> float | None:
        """Return the mean over tasks; None where one of them was not published, or there are none."""
        scores = [score for score in map(self.score, tasks) if score is not None]
        return sum(scores) / len(scores) if scores and len(scores) == len(tasks) else None


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """Return every printed number.

    Raises:
        DataError: the table that comes with the program is damaged.
    """
    return read_published_scores(TABLE)


def read_published_scores(path: Path) -> tuple[PublishedScore, ...]:
    """Return the printed numbers of a file of seven tab-separated columns.

    Raises:
        DataError: it is not such a file, or a line is not one number; the message names the line.
    """
    header, *lines = path.read_text(encoding="utf-8").split("\n")
    if header.split("\t") != COLUMNS:
        raise DataError(f"{path}: its first line is not the columns {', '.join(COLUMNS)}; install carrara again")
    scores = []
    for number, line in enumerate(lines, start=2):
        if line:
            try:
                system, dataset, printed_task, metric, value, source, note = line.split("\t")
                task = TASKS.get((dataset, printed_task))
                metric = "accuracy_windows" if task in SCORED_BY_WINDOW else METRICS.get(metric, metric)
                scores.append(PublishedScore(system, dataset, task, metric, float(value), source, note))
            except ValueError:
                raise DataError(f"{path}:{number}: not one number in seven columns; install carrara again") from None
    return tuple(scores)


def published_systems(sources: Sequence[str] = DEFAULT_SOURCES) -> list[PublishedSystem]:
    """Return the systems of some tables that have scores on MARBLE's tasks, in the order of the tables.

    The two halves of one table give one system; the same name in another table is another system.

    Raises:
        UsageError: there is no such table.
    """
    known = sorted({score.source for score in published_scores() if score.task})
    for source in sources:
        if source not in known:
            raise UsageError(
                f"there is no published table {source!r}.{did_you_mean(source, known)} The tables: {', '.join(known)}."
            )
    tables = dict.fromkeys(next((halves for halves in HALVES if source in halves), (source,)) for source in sources)
    systems: list[PublishedSystem] = []
    for table in tables:
        chosen = tuple(source for source in table if source in sources)
        names = dict.fromkeys(score.system for score in published_scores() if score.source in chosen and score.task)
        systems += [published_system(name, chosen) for name in names]
    all_names = [system.name for system in systems]
    return [
        replace(system, name=f"{system.name} ({', '.join(system.sources)})")
        if all_names.count(system.name) > 1
        else system
        for system in systems
    ]


def published_system(name: str, sources: Collection[str]) -> PublishedSystem:
    """Return what some tables print about one system."""
    scores = [score for score in published_scores() if score.system == name and score.source in sources]
    tasks: dict[str, dict[str, float]] = {}
    notes: dict[str, list[str]] = {}
    for score in scores:
        if score.task:
            tasks.setdefault(score.task, {})[score.metric] = score.value
            if score.note and TIME_LIMIT_NOTE not in score.note:
                notes.setdefault(score.note, []).append(score.task)
    return PublishedSystem(
        name=name,
        sources=tuple(sources),
        tasks=tasks,
        printed_average=next((score.value for score in scores if score.dataset == "ALL"), None),
        exceeded_time_limit=frozenset(score.task for score in scores if score.task and TIME_LIMIT_NOTE in score.note),
        notes=tuple((note, tuple(dict.fromkeys(names))) for note, names in notes.items()),
    )
