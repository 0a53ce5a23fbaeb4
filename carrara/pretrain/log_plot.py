"""Picture of a log, `metrics.png`: loss, masked accuracy and probe scores over the steps.

A panel without data is left out: a teacher's values have no accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.io import atomic_write
from carrara.pretrain.metrics_log import LOG_FILE, PROBES, read_metrics, read_probes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_FILE = "metrics.png"
# The palette of Okabe and Ito, for colour-blind readers; each curve has its name at its end too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
INK, SOFT, RULE = "#22262b", "#666d76", "#e3e5e1"
MAX_CURVES = 8
INCHES_WIDE, PANEL_INCHES = 8.0, 2.5
# Height of a name, and horizontal distance between two intervals, as fractions of the panel.
NAME_HEIGHT, INTERVAL_DISTANCE = 0.075, 0.004


@dataclass
class _Curve:
    """Values over steps, for scores with their intervals."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    intervals: list[tuple[float, float]] = field(default_factory=list)


def plot_log(folder: Path | str) -> Path | None:
    """Draw the log of a run and return the picture's path, or None where the log has no metrics yet.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = {title: curves for title, curves in _panels(Path(folder) / LOG_FILE).items() if curves}
    if not panels:
        return None
    style: dict[Any, Any] = {"font.size": 9, "text.color": INK, "text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(INCHES_WIDE, 0.5 + PANEL_INCHES * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, curves) in zip(grid, panels.items()):
            _draw_panel(axes, title, curves)
        grid[-1].set_xlabel("steps", color=SOFT)
        path = Path(folder) / PLOT_FILE
        with atomic_write(path) as tmp:
            figure.savefig(tmp, format="png", dpi=150, metadata={"Software": "carrara"})
    return path


def _panels(path: Path) -> dict[str, dict[str, _Curve]]:
    """Return the curves of each panel by title and name."""
    loss: dict[str, _Curve] = {}
    accuracy: dict[str, _Curve] = {}
    mean = _Curve()
    for line in read_metrics(path):
        if "loss" in line:
            _append(loss, "loss", line["step"], line["loss"])
        accuracies = {key: value for key, value in line.items() if key.startswith("accuracy/")}
        for key, value in accuracies.items():
            _append(accuracy, key.removeprefix("accuracy/"), line["step"], 100 * value)
        if accuracies:
            mean.steps.append(line["step"])
            mean.values.append(100 * sum(accuracies.values()) / len(accuracies))
    if len(accuracy) > MAX_CURVES:
        accuracy = {f"mean of {len(accuracy)} label sets": mean}
    scores: dict[str, _Curve] = {}
    for line in read_probes(path):
        for name, probe in line[PROBES].items():
            curve = _append(scores, f"{name}, {probe['metric']}", line["step"], 100 * probe["score"])
            curve.intervals.append((100 * probe["low"], 100 * probe["high"]))
    return {
        "loss": loss,
        "masked accuracy, %": accuracy,
        "probes on validation clips, % with 95 % intervals": scores,
    }


def _append(curves: dict[str, _Curve], name: str, step: int, value: float) -> _Curve:
    curve = curves.setdefault(name, _Curve())
    curve.steps.append(step)
    curve.values.append(value)
    return curve


def _draw_panel(axes: Axes, title: str, curves: Mapping[str, _Curve]) -> None:
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    last_step = max(max(curve.steps) for curve in curves.values())
    for index, curve in enumerate(curves.values()):
        colour = COLOURS[index % len(COLOURS)]
        # Intervals are drawn beside one another, so that none hides another.
        shift = (index - len(curves) / 2 + 0.5) * INTERVAL_DISTANCE * last_step if curve.intervals else 0.0
        x = [step + shift for step in curve.steps]
        marker = "o" if curve.intervals or len(x) == 1 else ""
        axes.plot(x, curve.values, color=colour, linewidth=1.6, marker=marker, ms=3.5)
        if curve.intervals:
            low, high = zip(*curve.intervals)
            axes.vlines(x, low, high, color=colour, lw=1, alpha=0.5)
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=SOFT)
    if len(curves) == 1 and not any(curve.intervals for curve in curves.values()):
        return
    # Each curve's name beside its last value, pushed apart where two would overlap.
    low_limit, high_limit = axes.get_ylim()
    height, y = (high_limit - low_limit) * NAME_HEIGHT, 2 * low_limit - high_limit
    for value, index, name in sorted((curve.values[-1], i, name) for i, (name, curve) in enumerate(curves.items())):
        y = max(value, y + height)
        axes.annotate(
            name,
            (1.01, y),
            xycoords=("axes fraction", "data"),
            color=COLOURS[index % len(COLOURS)],
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
