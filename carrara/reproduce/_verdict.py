"""Summary of a reproduction's measurements: each row's mean with its interval, and a verdict for each hypothesis.

Each draw takes test clips with replacement, the same for all rows, and as many seeds of a row as it has, with
replacement; a row's value is the mean over the tasks. A hypothesis is held where the 95 % interval of the difference
lies above zero, not held where it lies below, and otherwise not decidable at this scale; nor is one whose rows lack a
file.

Letters: G draws, S seeds, J tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carrara.bench import task_types
from carrara.bench.interval import resample_metrics
from carrara.bench.leaderboard.compare import task_score, to_metric_input
from carrara.bench.leaderboard.ranking import PERCENT, Interval
from carrara.bench.predictions import predictions_path, read_predictions
from carrara.core.record import Record
from carrara.core.task import Task
from carrara.metrics.bootstrap import mean_over_seeds, percentile_interval, resample_counts
from carrara.reproduce._base import Hypothesis, Reproduction
from carrara.reproduce._run import MeasuredModel

SEED = 1234
HELD, NOT_HELD, OPEN, NOT_RUN = "held", "not held", "not decidable at this scale", "not decidable"


@dataclass(frozen=True)
class RowResult:
    """A row's scores in percent over its seeds: the mean over tasks, by task, and its draws `[G]`; and its cost."""

    label: str
    average: Interval
    tasks: dict[str, float]
    seeds: int
    training_seconds: float
    drawn_G: np.ndarray
    parameters: int = 0


@dataclass(frozen=True)
class Verdict:
    """A hypothesis, the difference in percent with its interval (None where a row was not run), and what follows."""

    hypothesis: Hypothesis
    difference: Interval | None
    verdict: str


def summarise_rows(reproduction: Reproduction, models: Iterable[MeasuredModel], results: Path) -> dict[str, RowResult]:
    """Return the result of each row, by label, in the table's order; `results` is the folder of the records."""
    by_row: dict[str, list[MeasuredModel]] = defaultdict(list)
    for model in models:
        by_row[model.label].append(model)
    return {
        row.label: _summarise(by_row[row.label], reproduction.tasks, results, index)
        for index, row in enumerate(reproduction.rows)
        if row.label in by_row
    }


def decide_hypotheses(
    reproduction: Reproduction, results: dict[str, RowResult], not_run: Collection[str] = ()
) -> list[Verdict]:
    """Return a verdict for every hypothesis whose two rows are to be run; `not_run` names those that could not be."""
    verdicts = []
    for hypothesis in reproduction.hypotheses:
        if hypothesis.better in results and hypothesis.worse in results:
            better, worse = results[hypothesis.better], results[hypothesis.worse]
            low, high = percentile_interval(better.drawn_G - worse.drawn_G)
            word = HELD if low > 0 else NOT_HELD if high < 0 else OPEN
            difference = Interval(better.average.value - worse.average.value, low, high)
            verdicts.append(Verdict(hypothesis, difference, word))
        elif {hypothesis.better, hypothesis.worse} <= {*results, *not_run}:
            missing = " and ".join(label for label in (hypothesis.better, hypothesis.worse) if label in not_run)
            verdicts.append(Verdict(hypothesis, None, f"{NOT_RUN}: {missing} not run"))
    return verdicts


def _summarise(models: Sequence[MeasuredModel], tasks: Sequence[str], results: Path, index: int) -> RowResult:
    value_SJ = np.array([[PERCENT * model.records[task].mean_score() for task in tasks] for model in models])
    drawn_SG = np.stack(
        [np.mean([_draw_scores(model.records[task], results) for task in tasks], axis=0) for model in models]
    )
    drawn_G = PERCENT * mean_over_seeds(drawn_SG, np.random.default_rng([SEED, len(models), index]))
    return RowResult(
        label=models[0].label,
        average=Interval(float(value_SJ.mean()), *percentile_interval(drawn_G)),
        tasks=dict(zip(tasks, value_SJ.mean(0).tolist())),
        seeds=len(models),
        training_seconds=sum(model.training_seconds for model in models) / len(models),
        drawn_G=drawn_G,
        parameters=models[0].records[tasks[0]].encoder.parameters,
    )


def _draw_scores(record: Record, results: Path) -> np.ndarray:
    """Return a record's score in each draw of its test clips, `[G]`."""
    task = Task.model_validate(record.task.task)
    clips = next(iter(read_predictions(predictions_path(record, results)).values()))
    ids = sorted(clips)
    truths, predictions = ([to_metric_input(clips[unit][part]) for unit in ids] for part in (0, 1))
    counts_GU = resample_counts(len(ids), SEED)
    return task_score(
        task, resample_metrics(task, task_types.REGISTRY.get(task.task_type), truths, predictions, counts_GU)
    )
