"""Picture of a log, `metrics.png`: losses, accuracies, scores, ranks, gradient norm and speed over the steps.

A panel without data is left out: a teacher's values have no accuracy, and only taggers have scores of tags.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.core.io import atomic_write
from carrara.pretrain.metrics_log import LOG_FILE, PROBES, read_metrics, read_probes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

PLOT_FILE = "metrics.png"
# The palette of Okabe and Ito, for colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
INK, SOFT, RULE = "#22262b", "#666d76", "#e3e5e1"
MAX_CURVES = 8
INCHES_WIDE, PANEL_INCHES = 7.0, 2.3  # of a column, of a panel
MAX_PANELS_IN_ONE_COLUMN = 4
# Horizontal distance of two intervals, as a fraction of the steps, so that none hides another.
INTERVAL_DISTANCE = 0.004


def plot_log(folder: Path | str) -> Path | None:
    """Draw the log of a run and return the picture's path, or None where the log has no metrics yet.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = {title: curves for title, curves in _panels(Path(folder) / LOG_FILE).items() if len(curves)}
    if not panels:
        return None
    style: dict[Any, Any] = {"font.size": 9, "text.color": INK, "text.parse_math": False}
    with matplotlib.rc_context(style):
        columns = 2 if len(panels) > MAX_PANELS_IN_ONE_COLUMN else 1
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(columns * INCHES_WIDE, 0.5 + PANEL_INCHES * rows), layout="constrained")
        # Filled column by column: what is learnt on the left, how fast on the right.
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False).T.ravel()
        for axes, (title, curves) in zip(grid, panels.items()):
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
            _draw_curves(axes, curves)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for last in (rows - 1, len(panels) - 1):
            grid[last].set_xlabel("steps", color=SOFT)
            grid[last].tick_params(labelbottom=True)
        path = Path(folder) / PLOT_FILE
        with atomic_write(path) as tmp:
            figure.savefig(tmp, format="png", dpi=150, metadata={"Software": "carrara"})
    return path


def _panels(path: Path) -> dict[str, DataFrame]:
    """Return the curves of each panel by title: columns curve, step, value, and low and high of scores."""
    from pandas import DataFrame

    metrics = [(key, line["step"], value) for line in read_metrics(path) for key, value in line.items()]
    columns = ["curve", "step", "value"]

    def curves(*prefixes: str, factor: float = 1.0, what: str = "") -> DataFrame:
        """Return the curves whose name, or what follows it, begins so; their mean where there are too many."""
        rows = [(key, step, factor * value) for key, step, value in metrics if key.startswith(prefixes)]
        frame = DataFrame(rows, columns=columns)
        if len(prefixes) == 1 and prefixes[0].endswith("/"):
            frame["curve"] = frame["curve"].str.removeprefix(prefixes[0])
        if what and frame["curve"].nunique() > MAX_CURVES:
            mean = f"mean of {frame['curve'].nunique()} {what}"
            frame = frame.groupby("step", as_index=False)["value"].mean().assign(curve=mean)
        return frame

    def single(*names: str, factor: float = 1.0) -> DataFrame:
        rows = [(key, step, factor * value) for key, step, value in metrics if key in names]
        return DataFrame(rows, columns=columns)

    scores = [
        (f"{name}, {probe['metric']}", line["step"], 100 * probe["score"], 100 * probe["low"], 100 * probe["high"])
        for line in read_probes(path)
        for name, probe in line[PROBES].items()
    ]
    return {
        "loss": single("loss"),
        "parts of the loss": curves("loss/", "mse/", "penalty", "spectral", "waveform", "commitment"),
        "masked accuracy, %": curves("accuracy/", factor=100, what="label sets"),
        "standard deviation of values": curves("std/"),
        "spectral distance from the first codebooks": curves("distance/", what="codebooks"),
        "tags of validation clips, %": curves("valid/", "swa/", factor=100),
        "probes on validation clips, % with 95 % intervals": DataFrame(scores, columns=[*columns, "low", "high"]),
        "effective rank of the features": curves("rank/", what="layers"),
        "use of the codebooks, %": curves("usage/", factor=100, what="codebooks"),
        "classes predicted at least once": curves("classes_used/", what="label sets"),
        "gradient norm": single("gradient_norm"),
        "loss scale": single("loss_scale"),
        "learning rate": single("learning_rate"),
        "hours of audio an hour": single("audio_hours_per_hour"),
        "time waiting for crops, %": single("data_wait_fraction", factor=100),
        "billion FLOPs a second": single("flops_per_second", factor=1e-9),
        "model FLOPs utilisation, %": single("mfu", factor=100),
        "hours to the end": single("eta_seconds", factor=1 / 3600),
    }


def _draw_curves(axes: Axes, curves: DataFrame) -> None:
    groups = curves.groupby("curve", sort=False)
    for index, (name, curve) in enumerate(groups):
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "lw": 1.6, "ms": 3.5, "label": name}
        if "low" in curve:
            shift = (index - len(groups) / 2 + 0.5) * INTERVAL_DISTANCE * curves["step"].max()
            intervals = curve["value"] - curve["low"], curve["high"] - curve["value"]
            axes.errorbar(curve["step"] + shift, curve["value"], intervals, marker="o", elinewidth=0.8, **style)
        else:
            axes.plot(curve["step"], curve["value"], marker="o" if len(curve) == 1 else "", **style)
    for edge in ("top", "right", "left"):
        axes.spines[edge].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=SOFT)
    if len(groups) > 1 or "low" in curves:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
