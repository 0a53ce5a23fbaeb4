"""Summary of a reproduction's measurements: each row's mean with its interval, and a verdict for each hypothesis.

Each draw takes groups of test clips (songs, singers, instruments), the same for all rows; a row's value is the mean
over the tasks, and the spread of its seeds adds to its error (`carrara/metrics/bootstrap.py`). A hypothesis is held
where the 95 % interval of the difference lies above zero, not held where it lies below, and otherwise not decidable at
this scale; nor is one whose rows lack a file.

Letters: G draws, S seeds, J tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carrara.bench import task_types
from carrara.bench.interval import resample_metrics
from carrara.bench.leaderboard.compare import task_score
from carrara.bench.leaderboard.ranking import PERCENT, Interval
from carrara.bench.predictions import predictions_path, read_groups, read_predictions, to_metric_input
from carrara.core.record import Record
from carrara.core.task import Task
from carrara.metrics.bootstrap import StandardError, centre_draws, resample_counts, standard_error
from carrara.reproduce._base import Hypothesis, Reproduction
from carrara.reproduce._run import MeasuredModel

HELD, NOT_HELD, OPEN, NOT_RUN = "held", "not held", "not decidable at this scale", "not decidable"


@dataclass(frozen=True)
class RowResult:
    """A row's scores in percent over its seeds: the mean over tasks, by task, and its draws; and its cost.

    `by_seed` has the mean over tasks of each seed, `draw_G` that over seeds too in each draw, `groups` the smallest
    number of groups that a task's clips are of, and `validated` a tagger's AP in its own task in percent.
    """

    label: str
    average: Interval
    tasks: dict[str, float]
    by_seed: tuple[float, ...]
    training_seconds: float
    draw_G: np.ndarray
    groups: int
    parameters: int = 0
    validated: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A hypothesis, the difference in percent with its interval (None where a row was not run), and what follows.

    `seeds` is the smaller number of seeds of the two rows; a page prints a verdict in bold from three on.
    """

    hypothesis: Hypothesis
    difference: Interval | None
    verdict: str
    seeds: int = 0


def summarise_rows(reproduction: Reproduction, models: Iterable[MeasuredModel], results: Path) -> dict[str, RowResult]:
    """Return the result of each row, by label, in the table's order; `results` is the folder of the records."""
    by_row: dict[str, list[MeasuredModel]] = defaultdict(list)
    for model in models:
        by_row[model.label].append(model)
    return {
        row.label: _summarise(by_row[row.label], reproduction.tasks, results)
        for row in reproduction.rows
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
            error = standard_error(
                better.draw_G - worse.draw_G, min(better.groups, worse.groups), [better.by_seed, worse.by_seed]
            )
            difference = _symmetric(better.average.value - worse.average.value, error)
            word = HELD if difference.low > 0 else NOT_HELD if difference.high < 0 else OPEN
            seeds = min(len(better.by_seed), len(worse.by_seed))
            verdicts.append(Verdict(hypothesis, difference, word, seeds))
        elif {hypothesis.better, hypothesis.worse} <= {*results, *not_run}:
            missing = " and ".join(label for label in (hypothesis.better, hypothesis.worse) if label in not_run)
            verdicts.append(Verdict(hypothesis, None, f"{NOT_RUN}: {missing} not run"))
    return verdicts


def decide_stability(reproduction: Reproduction, broken: Mapping[str, bool], seeds: int) -> list[Verdict]:
    """Return a verdict for every hypothesis: held where the worse row's training broke and the better one's did not.

    Args:
        reproduction: of kind `training`.
        broken: whether a row's training broke, by label.
        seeds: trainings of each row.
    """
    verdicts = []
    for hypothesis in reproduction.hypotheses:
        if hypothesis.better in broken and hypothesis.worse in broken:
            better, worse = broken[hypothesis.better], broken[hypothesis.worse]
            word = OPEN if better == worse else NOT_HELD if better else HELD
            verdicts.append(Verdict(hypothesis, None, word, seeds))
    return verdicts


def _summarise(models: Sequence[MeasuredModel], tasks: Sequence[str], results: Path) -> RowResult:
    value_SJ = np.array([[PERCENT * model.records[task].mean_score() for task in tasks] for model in models])
    drawn = [[_draw_scores(model.records[task], results) for task in tasks] for model in models]
    draw_G = PERCENT * np.mean([[draw_G for draw_G, _ in by_task] for by_task in drawn], axis=(0, 1))
    groups = min(count for by_task in drawn for _, count in by_task)
    by_seed = tuple(value_SJ.mean(1).tolist())
    validated = [model.validated for model in models if model.validated is not None]
    return RowResult(
        label=models[0].label,
        average=_symmetric(float(value_SJ.mean()), standard_error(draw_G, groups, [by_seed])),
        tasks=dict(zip(tasks, value_SJ.mean(0).tolist())),
        by_seed=by_seed,
        training_seconds=sum(model.training_seconds for model in models) / len(models),
        draw_G=draw_G,
        groups=groups,
        parameters=models[0].records[tasks[0]].encoder.parameters,
        validated=PERCENT * sum(validated) / len(validated) if validated else None,
    )


def _symmetric(value: float, error: StandardError) -> Interval:
    return Interval(value, value - error.margin(), value + error.margin())


def _draw_scores(record: Record, results: Path) -> tuple[np.ndarray, int]:
    """Return a record's score in each draw of its test clips, `[G]`, and how many groups these are of."""
    task = Task.model_validate(record.task.task)
    path = predictions_path(record, results)
    clips, group_of = next(iter(read_predictions(path).values())), read_groups(path)
    ids = sorted(clips)
    truths, predictions = ([to_metric_input(clips[unit][part]) for unit in ids] for part in (0, 1))
    groups = [group_of[unit] for unit in ids]
    counts_GU = resample_counts(groups, task.dataset)
    task_type = task_types.REGISTRY.get(task.task_type)
    drawn_G = task_score(task, resample_metrics(task, task_type, truths, predictions, counts_GU))
    return centre_draws(drawn_G, record.mean_score(), len(set(groups))), len(set(groups))
