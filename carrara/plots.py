"""Figures for notebooks and files, as SVG that stands alone: every picture that the site, report and explorer show.

Each function but `picture` returns an `SvgFigure`: a notebook shows it, and `save` writes it to a file. A leaderboard
may also be given as what `carrara.leaderboard` makes it of: records, or their folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.leaderboard.compare import Comparison
from carrara.bench.leaderboard.from_results import leaderboard as build_leaderboard
from carrara.bench.leaderboard.picture import INK, PAPER, RULE, draw_leaderboard
from carrara.bench.leaderboard.ranking import Leaderboard
from carrara.bench.report.classes import class_results
from carrara.bench.report.example import example_plot
from carrara.bench.report.feature_map import feature_map
from carrara.bench.report.plots import layer_plot, measured_corruptions, robustness_plot, score_plot, training_plot
from carrara.bench.report.site_plots import confusion_plot, cost_plot, difference_plot, system_plot, task_plot
from carrara.core.errors import UsageError
from carrara.core.io import write_text
from carrara.core.paths import user_path
from carrara.core.record import Record
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics

__all__ = [
    "SvgFigure",
    "confusions",
    "differences",
    "embeddings",
    "example_clip",
    "layers",
    "picture",
    "quality_and_cost",
    "robustness",
    "scores",
    "system_scores",
    "task_scores",
    "training",
]
COLOURS = {"--ink": INK, "--line": RULE, "--paper": PAPER, "--blue": "#0072b2"}


AnyResults = Leaderboard | str | Path | Record | Iterable[Record]


def __dir__() -> list[str]:
    return __all__


class SvgFigure:
    """A figure as SVG text, which notebooks show."""

    def __init__(self, svg: str) -> None:
        """Create the figure from an SVG element whose colours are CSS variables."""
        style = ";".join(f"{name}:{colour}" for name, colour in COLOURS.items())
        head = f'<svg xmlns="http://www.w3.org/2000/svg" style="{style};background:{PAPER}"'
        self.svg = svg.replace("<svg", head, 1)

    def save(self, path: str | Path) -> Path:
        """Write the figure to an .svg file and return its path.

        Raises:
            UsageError: the file has another ending.
            StoreError: it cannot be written.
        """
        path = Path(path)
        if path.suffix != ".svg":
            raise UsageError(f"{path}: a figure is saved as SVG; name the file {path.with_suffix('.svg').name}")
        write_text(path, self.svg)
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<SVG figure of {len(self.svg):,} characters>"


def _board(results: AnyResults) -> Leaderboard:
    return results if isinstance(results, Leaderboard) else build_leaderboard(results)


def scores(leaderboard: AnyResults) -> SvgFigure:
    """Return the scores of each task with their intervals."""
    return SvgFigure(score_plot(_board(leaderboard)))


def task_scores(leaderboard: AnyResults, task: str) -> SvgFigure:
    """Return the scores of all systems on a task, the best first; published ones are hollow.

    Raises:
        UsageError: no system has a score on such a task.
    """
    return SvgFigure(task_plot(_board(leaderboard), task))


def system_scores(leaderboard: AnyResults, system: str) -> SvgFigure:
    """Return a system's scores with intervals, beside the best other system and the best published score.

    Raises:
        UsageError: there is no such system.
    """
    return SvgFigure(system_plot(_board(leaderboard), system))


def differences(comparison: Comparison) -> SvgFigure:
    """Return the paired differences of two systems by task, of `carrara.compare`.

    Raises:
        UsageError: no task can be compared.
    """
    return SvgFigure(difference_plot(comparison))


def quality_and_cost(leaderboard: AnyResults, by: str = "parameters", task: str | None = None) -> SvgFigure:
    """Return the average of the ranked tasks, or a task's score, against a cost.

    Args:
        leaderboard: the systems.
        by: `parameters`, `seconds` of the ranked tasks, or `hours` of training audio.
        task: whose score; None for the average.

    Raises:
        UsageError: there is no such cost, or no system with a score states it.
    """
    return SvgFigure(cost_plot(_board(leaderboard), by, task))


def confusions(leaderboard: AnyResults, results: str | Path, task: str) -> dict[str, SvgFigure]:
    """Return by system which classes of a multiclass task it takes for which, from the predictions beside its record.

    Args:
        leaderboard: the systems.
        results: the folder of the records.
        task: the task.

    Raises:
        UsageError: the task has no classes, too many for a picture, or no predictions.
        StoreError: predictions are damaged.
    """
    chosen = next(
        (each for each in class_results(_board(leaderboard), user_path(results, "results")) if each["task"] == task),
        None,
    )
    if chosen is None or not chosen["matrices"]:
        raise UsageError(f"{task}: no confusions; it needs one label a clip, few classes, and predictions in {results}")
    return {
        name: SvgFigure(confusion_plot(np.array(matrix), chosen["labels"], f"{name} on {task}"))
        for name, matrix in chosen["matrices"].items()
    }


def embeddings(embeddings_UD: np.ndarray, labels: Sequence[Any], title: str = "embeddings") -> SvgFigure:
    """Return the two principal components of embeddings; `carrara map` draws layers, UMAP and PNG.

    Args:
        embeddings_UD: of each recording, `[recordings, dim]`, at least three.
        labels: of each recording.
        title: of the plot.
    """
    return SvgFigure(feature_map(embeddings_UD, labels, title))


def example_clip(samples: np.ndarray, sample_rate: int, labels: Mapping[str, Any] | None = None) -> SvgFigure:
    """Return the spectrogram of a clip over pitch, with the `beats` and `downbeats` of its labels, in seconds.

    Args:
        samples: float, mono.
        sample_rate: in Hz.
        labels: of the clip, by name.
    """
    return SvgFigure(example_plot(samples, sample_rate, labels or {}))


def layers(leaderboard: AnyResults) -> SvgFigure:
    """Return the best validation score of each layer, by task and system."""
    return SvgFigure(layer_plot(_board(leaderboard)))


def robustness(leaderboard: AnyResults) -> SvgFigure:
    """Return what corruptions of the test audio cost each system.

    Raises:
        UsageError: no record has scores on corrupted audio.
    """
    board = _board(leaderboard)
    if not measured_corruptions(board):
        raise UsageError("no record has scores on corrupted audio; carrara.bench(…, corruptions=['noise:20db']) has")
    return SvgFigure(robustness_plot(board))


def training(folder: str | Path) -> SvgFigure:
    """Return the losses and other values that a pre-training run logged, by step.

    Args:
        folder: of the run.

    Raises:
        UsageError: the folder holds no log.
    """
    log = user_path(folder, "folder") / LOG_FILE
    if not log.is_file():
        raise UsageError(f"{log}: missing; give the folder of a run of carrara.pretrain")
    return SvgFigure(training_plot(read_metrics(log)))


def picture(leaderboard: AnyResults, path: str | Path, caption: str = "") -> Path:
    """Write a leaderboard as a PNG picture and return its path; `caption` is a line beneath.

    Raises:
        StoreError: the file cannot be written.
    """
    return draw_leaderboard(path, _board(leaderboard), caption)
