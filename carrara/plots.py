"""Figures for notebooks and files: scores, layers, robustness and training, as SVG that stands alone.

Each function but `picture` returns an `SvgFigure`: a notebook shows it, and `save` writes it to a file.
"""

from __future__ import annotations

from pathlib import Path

from carrara.bench.leaderboard.picture import INK, PAPER, RULE, draw_leaderboard
from carrara.bench.leaderboard.ranking import Leaderboard
from carrara.bench.report.plots import layer_plot, measured_corruptions, robustness_plot, score_plot, training_plot
from carrara.core.errors import UsageError
from carrara.core.io import write_text
from carrara.pretrain.metrics_log import LOG_FILE, read_metrics

__all__ = ["SvgFigure", "layers", "picture", "robustness", "scores", "training"]
COLOURS = {"--ink": INK, "--line": RULE, "--paper": PAPER, "--blue": "#0072b2"}


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


def scores(leaderboard: Leaderboard) -> SvgFigure:
    """Return the scores of each task with their intervals."""
    return SvgFigure(score_plot(leaderboard))


def layers(leaderboard: Leaderboard) -> SvgFigure:
    """Return the best validation score of each layer, by task and system."""
    return SvgFigure(layer_plot(leaderboard))


def robustness(leaderboard: Leaderboard) -> SvgFigure:
    """Return what corruptions of the test audio cost each system.

    Raises:
        UsageError: no record has scores on corrupted audio.
    """
    if not measured_corruptions(leaderboard):
        raise UsageError("no record has scores on corrupted audio; carrara.bench(…, corruptions=['noise:20db']) has")
    return SvgFigure(robustness_plot(leaderboard))


def training(folder: str | Path) -> SvgFigure:
    """Return the losses and other values that a pre-training run logged, by step.

    Args:
        folder: of the run.

    Raises:
        UsageError: the folder holds no log.
    """
    log = Path(folder) / LOG_FILE
    if not log.is_file():
        raise UsageError(f"{log}: missing; give the folder of a run of carrara.pretrain")
    return SvgFigure(training_plot(read_metrics(log)))


def picture(leaderboard: Leaderboard, path: str | Path, caption: str = "") -> Path:
    """Write a leaderboard as a PNG picture and return its path; `caption` is a line beneath.

    Raises:
        StoreError: the file cannot be written.
    """
    return draw_leaderboard(path, leaderboard, caption)
