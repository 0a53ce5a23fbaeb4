"""The report's plots as inline SVG: scores with intervals, scores by layer, robustness, training curves.

Text stays text, and ink, lines and paper are CSS variables of the page, so that a plot follows the page into dark mode.
The systems' colours are Okabe and Ito's, which colour-blind readers can tell apart; each has its own marker too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.ranking import PERCENT, Interval, Leaderboard, System
from carrara.bench.leaderboard.tables import average_rows
from carrara.core.record import GridPoint, Record, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
MARKERS = "osD^vPXp"
# Replaced by the page's CSS variables; the first system's blue must be lighter on dark paper.
INK, LINE, PAPER = "#010203", "#040506", "#070809"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", PAPER: "var(--paper)", COLOURS[0]: "var(--blue)"}
# R² may be far below zero; a score further left is drawn at the edge with an arrow.
LEFT_EDGE = -20.0
COLUMNS = 3
SHORT = {"weighted-sum": "Σ"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@contextmanager
def svg_style(name: str) -> Iterator[None]:
    """Draw figures in the page's style within it; `name` keeps the ids in one SVG different from those in others."""
    import matplotlib

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        yield


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element without any web address or foreign namespace."""
    page = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(page, format="svg", bbox_inches="tight", pad_inches=0.05, metadata=metadata)
    text = page.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    # Groups' ids are the same in every figure and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)


def system_styles(systems: Sequence[System]) -> dict[str, dict[str, Any]]:
    """Return colour and marker by system."""
    return {
        system.name: {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        for index, system in enumerate(systems)
    }


def score_plot(leaderboard: Leaderboard) -> str:
    """Return the scores of each task with their intervals, the average that ranks are by first."""
    from matplotlib.figure import Figure

    rows = [next(iter(average_rows(leaderboard))), *leaderboard.tasks]
    systems, styles = leaderboard.systems, system_styles(leaderboard.systems)
    step = 0.7 / max(1, len(systems))
    with svg_style("scores"):
        figure = Figure(figsize=(9, 0.9 + len(rows) * max(0.36, 0.14 * len(systems))), layout="constrained")
        axes = figure.add_subplot()
        for index, system in enumerate(systems):
            results = [system.results.get(task) for task in leaderboard.tasks]
            average = system.average if leaderboard.ranked_tasks else system.full_average
            intervals = [average, *(result.score if result else None for result in results)]
            shift = (index - (len(systems) - 1) / 2) * step
            points = [(interval, row + shift) for row, interval in enumerate(intervals) if interval]
            _draw_intervals(axes, points, styles[system.name], system.name)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        heights = [row + 0.5 for row in range(len(rows) - 1)]
        widths = [1.8, *[0.6] * (len(rows) - 2)]
        axes.hlines(heights, 0, 1, transform=axes.get_yaxis_transform(), color=LINE, linewidths=widths)
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, LEFT_EDGE), min(max(right, 60), 101))
        decibels = ", source separation in dB" if "dB" in leaderboard.scales.values() else ""
        axes.set_xlabel(f"score in percent{decibels}, with its 95 % interval")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, columnspacing=1.6)
        return to_svg(figure, f"{leaderboard.title} with intervals")


def _draw_intervals(axes: Axes, points: list[tuple[Interval, float]], style: dict[str, Any], name: str) -> None:
    inside = [(each, height) for each, height in points if each.value >= LEFT_EDGE]
    axes.errorbar(
        [each.value for each, _ in inside],
        [height for _, height in inside],
        xerr=[
            [max(0, each.value - each.low) for each, _ in inside],
            [max(0, each.high - each.value) for each, _ in inside],
        ],
        fmt=style["marker"],
        color=style["color"],
        markersize=5,
        elinewidth=1.6,
        label=name,
    )
    for each, height in points:
        if each.value < LEFT_EDGE:
            at_edge: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(0.005, height, f"◂ {each.value:.0f}", fontsize=8, color=style["color"], **at_edge)


def layer_plot(leaderboard: Leaderboard) -> str:
    """Return for each task the monitored validation score of each layer at its best learning rate."""
    from matplotlib.figure import Figure

    styles = system_styles(leaderboard.systems)
    tasks = [task for task in leaderboard.tasks if any(task in system.results for system in leaderboard.systems)]
    rows = math.ceil(len(tasks) / COLUMNS)
    with svg_style("layers"):
        figure = Figure(figsize=(9, 0.3 + 2.2 * rows), layout="constrained")
        panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes, task in zip(panels, tasks):
            records = {each.name: each.results[task].record for each in leaderboard.systems if task in each.results}
            is_decibel = leaderboard.scales[task] == "dB"
            unit = 1.0 if is_decibel else PERCENT
            _draw_layers(axes, {name: best_by_layer(each.grid, unit) for name, each in records.items()}, styles)
            monitor = next(iter(records.values())).task.task.get("monitor", "valid")
            axes.set_title(f"{task}: {monitor}{', dB' if is_decibel else ''}")
        for axes in panels[len(tasks) :]:
            axes.set_axis_off()
        legend: dict[str, Any] = {}
        for axes in panels:
            handles, names = axes.get_legend_handles_labels()
            legend.update(zip(names, handles))
        figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=4)
        return to_svg(figure, "Validation score by layer")


def best_by_layer(grid: Sequence[GridPoint], unit: float = PERCENT) -> dict[str, float]:
    """Return the best validation score of each layer over the learning rates, times the unit, in the grid's order."""
    best: dict[str, float] = {}
    for point in grid:
        if math.isfinite(point.valid):
            best[point.layer] = max(unit * point.valid, best.get(point.layer, -math.inf))
    return best


def _draw_layers(axes: Axes, best: Mapping[str, Mapping[str, float]], styles: Mapping[str, dict[str, Any]]) -> None:
    numbers = sorted({int(layer) for scores in best.values() for layer in scores if layer.isdecimal()})
    words = list(dict.fromkeys(layer for scores in best.values() for layer in scores if not layer.isdecimal()))
    last = numbers[-1] if numbers else 0
    # What is not a layer of the stack is drawn apart, to its right.
    x = {str(number): float(number) for number in numbers} | {word: last + 1.2 + i for i, word in enumerate(words)}
    for name, scores in best.items():
        style = styles[name]
        if len(scores) == 1:
            score = next(iter(scores.values()))
            axes.axhline(score, linestyle=(0, (4, 2)), color=style["color"], linewidth=1.4, label=name)
            continue
        stack = sorted((x[layer], score) for layer, score in scores.items() if layer.isdecimal())
        others = [(x[layer], score) for layer, score in scores.items() if not layer.isdecimal()]
        axes.plot([at for at, _ in stack], [score for _, score in stack], markersize=4.5, label=name, **style)
        hollow: dict[str, Any] = {"linestyle": "", "markersize": 6, "markerfacecolor": "none"}
        axes.plot([at for at, _ in others], [score for _, score in others], **hollow, **style)
    shown = numbers[:: max(1, len(numbers) // 6)]
    names = [*map(str, shown), *(SHORT.get(word, word) for word in words)]
    axes.set_xticks([x[str(number)] for number in shown] + [x[word] for word in words], names)
    axes.margins(x=0.06)


def measured_corruptions(leaderboard: Leaderboard) -> tuple[str, ...]:
    """Return the corruptions of the test audio that any record has scores for, in the order in which they come."""
    records = [result.record for system in leaderboard.systems for result in system.results.values()]
    return tuple(dict.fromkeys(name for record in records for name in record.robustness))


def mean_drop(system: System, corruption: str) -> tuple[float, float] | None:
    """Return a system's mean score in percent on clean and on corrupted test audio; None where it has no such record.

    The mean is over the tasks that have both, but those in dB.
    """
    records = [
        result.record
        for result in system.results.values()
        if corruption in result.record.robustness
        and all(score.scale == "ratio" for score in result.record.scores.values())
    ]
    if not records:
        return None

    def mean(record: Record, scores: Mapping[str, Score]) -> float:
        names = record.task.task["metrics"]
        return sum(scores[name].value for name in names) / len(names)

    clean = sum(mean(record, record.scores) for record in records) / len(records)
    corrupted = sum(mean(record, record.robustness[corruption]) for record in records) / len(records)
    return PERCENT * clean, PERCENT * corrupted


def robustness_plot(leaderboard: Leaderboard) -> str:
    """Return how far each system's mean score drops under each corruption of the test audio."""
    from matplotlib.figure import Figure

    names = measured_corruptions(leaderboard)
    systems = [system for system in leaderboard.systems if any(mean_drop(system, name) for name in names)]
    styles = system_styles(leaderboard.systems)
    step = 0.7 / max(1, len(systems))
    with svg_style("robustness"):
        figure = Figure(figsize=(9, 1.0 + len(names) * max(0.4, 0.2 * len(systems))), layout="constrained")
        axes = figure.add_subplot()
        for index, system in enumerate(systems):
            colour, marker = styles[system.name]["color"], styles[system.name]["marker"]
            label = system.name
            for row, name in enumerate(names):
                drop = mean_drop(system, name)
                if drop is None:
                    continue
                height = row + (index - (len(systems) - 1) / 2) * step
                axes.plot(drop, [height, height], color=colour, linewidth=1.6)
                axes.plot(drop[0], height, marker="|", markersize=9, color=colour)
                axes.plot(drop[1], height, marker=marker, markersize=6, color=colour, linestyle="none", label=label)
                label = "_" + system.name
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("mean score in percent: | on clean test audio, the marker on corrupted test audio")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
        return to_svg(figure, "Scores on corrupted test audio")


def training_plot(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return a panel for each group of a metrics log's numbers over its steps."""
    from matplotlib.figure import Figure

    groups = group_keys([key for line in metrics for key in line if key not in {"step", "steps", "seconds"}])
    series = {key: _finite_series(metrics, key) for keys in groups.values() for key in keys}
    drawn = {name: [key for key in keys if len(series[key]) > 1] for name, keys in groups.items()}
    drawn = {name: keys for name, keys in drawn.items() if any(value for key in keys for _, value in series[key])}
    rows = max(1, math.ceil(len(drawn) / COLUMNS))
    with svg_style("training"):
        figure = Figure(figsize=(9, 2.2 * rows), layout="constrained")
        panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes, (name, keys) in zip(panels, drawn.items()):
            for index, key in enumerate(keys):
                label = key.removeprefix(f"{name}/").replace("_", " ")
                axes.plot(*zip(*series[key]), color=COLOURS[index % len(COLOURS)], label=label)
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("step")
            if len(keys) > 1:
                axes.legend(fontsize=8)
        for axes in panels[len(drawn) :]:
            axes.set_axis_off()
        return to_svg(figure, "Training curves")


def group_keys(keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys by the part before their slash; `x_of_mean` goes with `x`."""
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(keys):
        head = key.partition("/")[0]
        group = next((name for name in groups if head.startswith(f"{name}_")), head)
        groups.setdefault(group, []).append(key)
    return groups


def _finite_series(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = [(line.get("step", index), line.get(key)) for index, line in enumerate(metrics)]
    return [
        (step, float(value)) for step, value in pairs if isinstance(value, int | float) and math.isfinite(float(value))
    ]
