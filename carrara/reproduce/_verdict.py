"""What a study's measurements say: each line's mean with its interval, and a verdict for each claim.

Each draw takes test clips with replacement, the same for all lines, and as many seeds of a line as it has, with
replacement; a line's value is the mean over the rows. A claim is held where the 95 % interval of the difference lies
above zero, not held where it lies below, and otherwise not decidable at this scale; nor is one whose lines lack a file.

Letters: G draws, S seeds, U clips.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carrara.bench import task_types
from carrara.bench.interval import resample_metrics
from carrara.bench.leaderboard.compare import cell, reloaded
from carrara.bench.leaderboard.ranking import PERCENT, Span
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.core.record import Record
from carrara.core.task import Task
from carrara.metrics.bootstrap import DRAWS, mean_over_seeds, percentile_interval, resample_counts
from carrara.reproduce._base import Claim, Study
from carrara.reproduce._measure import Measured

SEED = 1234
HELD, NOT_HELD, OPEN, UNRUN = "held", "not held", "not decidable at this scale", "not decidable"


@dataclass(frozen=True)
class Found:
    """A line's mean over the rows and over the seeds, in percent, its rows' means, its draws `[G]`, and its cost."""

    label: str
    span: Span
    rows: dict[str, float]
    seeds: int
    seconds: float
    drawn_G: np.ndarray
    parameters: int = 0


@dataclass(frozen=True)
class Verdict:
    """A claim, the difference in percent with its interval (none where a line lacks a file), and what follows."""

    claim: Claim
    difference: Span | None
    word: str


def found(study: Study, models: Sequence[Measured], results: Path) -> dict[str, Found]:
    """Return what was found for each line, by label, in the study's order."""
    by_line: dict[str, list[Measured]] = defaultdict(list)
    for model in models:
        by_line[model.label].append(model)
    return {
        line.label: _line(by_line[line.label], study.rows, results, place)
        for place, line in enumerate(study.lines)
        if line.label in by_line
    }


def verdicts(study: Study, lines: dict[str, Found], lacking: Collection[str] = ()) -> list[Verdict]:
    """Return a verdict for every claim whose two lines were asked for; `lacking` names those that could not be run."""
    judged = []
    for claim in study.claims:
        if claim.above in lines and claim.below in lines:
            above, below = lines[claim.above], lines[claim.below]
            low, high = percentile_interval(above.drawn_G - below.drawn_G)
            word = HELD if low > 0 else NOT_HELD if high < 0 else OPEN
            judged.append(Verdict(claim, Span(above.span.value - below.span.value, low, high), word))
        elif {claim.above, claim.below} <= {*lines, *lacking}:
            missing = " and ".join(label for label in (claim.above, claim.below) if label in lacking)
            judged.append(Verdict(claim, None, f"{UNRUN}: {missing} not run"))
    return judged


def _line(models: Sequence[Measured], rows: Sequence[str], results: Path, place: int) -> Found:
    value_SR = np.array([[PERCENT * model.records[row].mean_score() for row in rows] for model in models])
    drawn_SG = np.stack(
        [np.mean([_drawn(model.records[row], results) for row in rows], axis=0) for model in models]
    )  # fmt: skip
    seeds = len(models)
    drawn_G = PERCENT * mean_over_seeds(drawn_SG, np.random.default_rng([SEED, seeds, place]))
    return Found(
        label=models[0].label,
        span=Span(float(value_SR.mean()), *percentile_interval(drawn_G)),
        rows=dict(zip(rows, value_SR.mean(0).tolist())),
        seeds=seeds,
        seconds=sum(model.seconds for model in models) / seeds,
        drawn_G=drawn_G,
        parameters=models[0].records[rows[0]].encoder.parameters,
    )


def _drawn(record: Record, results: Path) -> np.ndarray:
    """Return a record's cell in each draw of its test clips, `[G]`."""
    task = Task.model_validate(record.task.task)
    answer = task_types.REGISTRY.get(task.task_type)
    clips = next(iter(read_predictions(predictions_path(record, results)).values()))
    ids = sorted(clips)
    truths, given = ([reloaded(clips[unit][side]) for unit in ids] for side in (0, 1))
    return cell(task, resample_metrics(task, answer, truths, given, resample_counts(len(ids), SEED, DRAWS)))
