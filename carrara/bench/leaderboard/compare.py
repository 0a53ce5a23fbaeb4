"""Two systems on the same test recordings: which rows tell them apart.

Paired bootstrap: each draw takes test units with replacement, the same for both systems (and of several training seeds
as many with replacement), and asks both for the row's score. The draws of the difference give its 95 % interval; p is
twice the smaller share of draws on one side of zero, zero and the sample itself counted to that side. Rows whose p
stays under 5 % after Holm's correction over all compared rows (Holm 1979) are called better or worse; the others are
undecided, which is not the same as equal. Rows asked of other clips, or of another version of the question, are not
compared but named.

Letters: U scored units, G draws, S seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from carrara.bench import task_types
from carrara.bench.interval import DRAWS, percentiles, resampled, resampled_counts
from carrara.bench.leaderboard.ranking import PERCENT, Span
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.bench.suites import SUITES
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.record import Record
from carrara.core.task import Task

LEVEL = 0.05
SEED = 1234
Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Contrast:
    """Two systems' scores on one row, the difference (first less second) with its 95 % interval, and its p."""

    first: float
    second: float
    difference: Span
    p: float


@dataclass(frozen=True)
class Row:
    """One compared row, in percent or dB.

    Attributes:
        units: how many clips, tracks or notes were scored.
        scale: ratio (in percent) or dB.
        better: which way is: higher or lower.
        partial: whether a record has fewer clips than the task.
        corrected: p after Holm's correction over the compared rows.
        verdict: of the first system against the second.
    """

    task: str
    protocol: str
    contrast: Contrast
    units: int
    scale: str
    better: str
    partial: bool
    corrected: float = 1.0
    verdict: Literal["better", "worse", "undecided"] = "undecided"


@dataclass(frozen=True)
class Apart:
    """A row that both systems have and that cannot be compared, with the reason."""

    task: str
    protocol: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two systems, the rows that both have, and those of them that cannot be compared."""

    first: str
    second: str
    rows: tuple[Row, ...]
    apart: tuple[Apart, ...]


def compare(
    records: Iterable[Record], first: str, second: str, results: Path | str, suite: str | None = None
) -> Comparison:
    """Return the comparison of two systems over the rows of a folder of results.

    Args:
        records: those of the folder.
        first: a system's name: its encoder's, or name@start of its weights' hash where two share the name.
        second: another's.
        results: the folder, which holds the test clips' answers too.
        suite: only its rows.

    Raises:
        UsageError: no such system or suite, or no row that both have.
    """
    if suite is not None and suite not in SUITES:
        raise UsageError(
            f"there is no suite {suite!r}.{did_you_mean(suite, SUITES)} `carrara ls suites` shows every suite."
        )
    by_system = _by_system([one for one in records if suite is None or one.task.name in SUITES[suite].tasks])
    for name in (first, second):
        if name not in by_system:
            known = ", ".join(sorted(by_system)) or "none"
            raise UsageError(f"no system {name!r} in {results}.{did_you_mean(name, by_system)} The systems: {known}.")
    if first == second:
        raise UsageError(f"{first!r} was given twice; give two systems to compare")
    shared = sorted(set(by_system[first]) & set(by_system[second]), key=_place)
    if not shared:
        raise UsageError(f"{first} and {second} have no row in common in {results}; `carrara bench` measures more")
    found = [_row((by_system[first][key], by_system[second][key]), Path(results)) for key in shared]
    rows = judged([row for row in found if isinstance(row, Row)])
    return Comparison(first, second, tuple(rows), tuple(row for row in found if isinstance(row, Apart)))


def contrast(
    task: Task,
    answer: TaskType,
    truths: Sequence[Any],
    answers_2S: tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]],
    seed: int = SEED,
    draws: int = DRAWS,
) -> Contrast:
    """Return how two systems' scores on a row differ, in the metrics' own scale.

    Args:
        task: what was asked.
        answer: its kind of answer.
        truths: one a unit.
        answers_2S: for each system and each seed of its training one answer a unit.
        seed: of the draws.
        draws: how many.
    """
    counts_GU = resampled_counts(len(truths), seed, draws)
    values, drawn = [], []
    for place, answers_S in enumerate(answers_2S):
        by_seed = [answer.metrics(task, truths, given) for given in answers_S]
        values.append(float(np.mean([cell(task, metrics) for metrics in by_seed])))
        cell_SG = np.stack([cell(task, resampled(task, answer, truths, given, counts_GU)) for given in answers_S])
        seeds = len(answers_S)
        picks_GS = np.random.default_rng([seed, seeds, place]).integers(0, seeds, (draws, seeds))
        drawn.append(np.take_along_axis(cell_SG.T, picks_GS, 1).mean(1))
    difference_G = drawn[0] - drawn[1]
    span = Span(values[0] - values[1], *percentiles(difference_G))
    return Contrast(values[0], values[1], span, two_sided(difference_G))


def two_sided(difference_G: np.ndarray) -> float:
    """Return p of no difference from the draws of one; draws without a value are passed over."""
    finite = difference_G[np.isfinite(difference_G)]
    fewer = min((finite <= 0).sum(), (finite >= 0).sum())
    return min(1.0, 2 * (1 + int(fewer)) / (1 + len(finite)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's step-down correction, in the order given."""
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for place, row in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[row]))
        corrected[row] = highest
    return corrected


def judged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with p corrected over all of them and the verdict that follows."""
    found = []
    for row, corrected in zip(rows, holm([row.contrast.p for row in rows])):
        above = row.contrast.difference.value > 0
        if corrected >= LEVEL or row.contrast.difference.value == 0:
            found.append(replace(row, corrected=corrected))
        elif above == (row.better == "higher"):
            found.append(replace(row, corrected=corrected, verdict="better"))
        else:
            found.append(replace(row, corrected=corrected, verdict="worse"))
    return found


def cell(task: Task, metrics: dict[str, Any]) -> Any:
    """Return the row's score from its metrics, values or draws alike: the mean of the task's own."""
    return sum(metrics[name] for name in task.metrics) / len(task.metrics)


def _by_system(records: Sequence[Record]) -> dict[str, dict[tuple[str, str], Record]]:
    """Return by system, named as on the board, its newest record of each protocol and task."""
    weights: dict[str, set[str]] = {}
    for record in records:
        weights.setdefault(record.encoder.name, set()).add(record.encoder.weights_sha256)
    found: dict[str, dict[tuple[str, str], Record]] = {}
    for record in sorted(records, key=lambda one: (one.task.version, one.run.date)):
        name = record.encoder.name
        if len(weights[name]) > 1:
            name = f"{name}@{record.encoder.weights_sha256[:8]}"
        found.setdefault(name, {})[record.protocol.name, record.task.name] = record
    return found


def _place(key: tuple[str, str]) -> tuple[str, int, str]:
    order = [task for suite in SUITES.values() for task in suite.tasks]
    return key[0], order.index(key[1]) if key[1] in order else len(order), key[1]


def _row(pair: Pair, results: Path) -> Row | Apart:
    one, other = pair
    name, protocol = one.task.name, one.protocol.name
    if one.task.version != other.task.version:
        return Apart(name, protocol, f"asked by versions {one.task.version} and {other.task.version} of the task")
    if one.task.fingerprint != other.task.fingerprint:
        return Apart(name, protocol, "the fingerprints differ: other settings of the task or another index")
    try:
        given = [read_predictions(predictions_path(record, results)) for record in pair]
    except StoreError as problem:
        return Apart(name, protocol, str(problem))
    units = [frozenset(clips) for predictions in given for clips in predictions.values()]
    if len(set(units)) > 1:
        apart = len(frozenset.union(*units) - frozenset.intersection(*units))
        return Apart(name, protocol, f"{apart} test clips were asked of one and not of the other")
    task = Task.model_validate(one.task.task)
    ids = sorted(units[0])
    truths_2 = [[next(iter(predictions.values()))[unit][0] for unit in ids] for predictions in given]
    if truths_2[0] != truths_2[1]:
        return Apart(name, protocol, "the truths of some test clips differ")
    answers_2S = [
        [[reloaded(clips[unit][1]) for unit in ids] for clips in predictions.values()] for predictions in given
    ]
    found = contrast(
        task,
        task_types.REGISTRY.get(task.task_type),
        [reloaded(truth) for truth in truths_2[0]],
        (answers_2S[0], answers_2S[1]),
    )
    score = one.scores[task.metrics[0]]
    partial = one.partial or other.partial
    return Row(name, protocol, _shown(found, score.scale), len(ids), score.scale, score.better, partial)


def reloaded(value: Any) -> Any:
    """Return a truth or an answer as metrics take it, from how it stands in the predictions."""
    return np.asarray(value) if isinstance(value, list) else value


def _shown(found: Contrast, scale: str) -> Contrast:
    unit = PERCENT if scale == "ratio" else 1.0
    gap = found.difference
    span = Span(unit * gap.value, unit * gap.low, unit * gap.high)
    return Contrast(unit * found.first, unit * found.second, span, found.p)
