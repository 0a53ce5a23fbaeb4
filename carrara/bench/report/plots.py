"""The report's plots as inline SVG: scores with intervals, scores by layer, training curves.

Text stays text, and ink, lines and paper are CSS variables of the page, so a plot follows the page into the dark. The
systems' colours are Okabe and Ito's, which colour-blind eyes tell apart; each has a marker of its own too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.ranking import PERCENT, Board, Span, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
MARKERS = "osD^vPXp"
# Colours that stand for the page's own; the first system's blue must be lighter on dark paper.
INK, LINE, PAPER = "#010203", "#040506", "#070809"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", PAPER: "var(--paper)", COLOURS[0]: "var(--blue)"}
# A regression may score far below zero; what lies further left is drawn at the edge with an arrow.
LEFT_EDGE = -20.0
COLUMNS = 3
SHORT = {"weighted-sum": "Σ"}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Within it, figures are drawn in the page's style; `name` makes the ids inside an SVG differ from others'."""
    import matplotlib

    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
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
    with matplotlib.rc_context(style):
        yield


def svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element that carries no address and no foreign name."""
    page = StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(page, format="svg", bbox_inches="tight", pad_inches=0.05, metadata=empty)
    text = page.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    # Groups' ids are the same in every figure and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)


def looks(systems: Sequence[System]) -> dict[str, dict[str, str]]:
    """Return colour and marker by system."""
    return {
        system.name: {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, system in enumerate(systems)
    }


def score_plot(board: Board) -> str:
    """Return the scores of each row with their intervals, the average first."""
    from matplotlib.figure import Figure

    word, averages = compared(board)
    rows = [word, *board.tasks]
    systems, look = board.systems, looks(board.systems)
    step = 0.7 / max(1, len(systems))
    with drawing("scores"):
        figure = Figure(figsize=(9, 0.9 + len(rows) * max(0.36, 0.14 * len(systems))), layout="constrained")
        axes = figure.add_subplot()
        for place, system in enumerate(systems):
            cells = [system.cells.get(task) for task in board.tasks]
            spans = [averages.get(system.name), *(cell.span if cell else None for cell in cells)]
            shift = (place - (len(systems) - 1) / 2) * step
            _draw_spans(
                axes, [(span, row + shift) for row, span in enumerate(spans) if span], look[system.name], system
            )
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.hlines([row + 0.5 for row in range(len(rows) - 1)], 0, 1, transform=axes.get_yaxis_transform(), color=LINE,
                    linewidths=[1.8, *[0.6] * (len(rows) - 2)])  # fmt: skip
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, LEFT_EDGE), min(max(right, 60), 101))
        axes.set_xlabel(f"score in percent{mixed(board)}, with its 95 % interval")
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, columnspacing=1.6)
        return svg(figure, f"{board.title} with intervals")


def mixed(board: Board) -> str:
    """Return what the axis must add where a row of the board is in dB, else nothing."""
    cells = (cell for system in board.systems for cell in system.cells.values())
    return ", separation in dB" if any(s.scale == "dB" for c in cells for s in c.record.scores.values()) else ""


def compared(board: Board) -> tuple[str, dict[str, Span]]:
    """Return the average in which all systems can be compared: its name, and its span by system."""
    spans = {system.name: system.average or system.common for system in board.systems}
    word = f"average of {len(board.tasks)}"
    if any(system.average is None for system in board.systems):
        spans = {system.name: system.common for system in board.systems}
        word = f"average of the {len(board.common)} all have"
    return word, {name: span for name, span in spans.items() if span}


def _draw_spans(axes: Axes, points: list[tuple[Span, float]], look: Mapping[str, str], system: System) -> None:
    seen = [(span, height) for span, height in points if span.value >= LEFT_EDGE]
    x, y = [span.value for span, _ in seen], [height for _, height in seen]
    down, up = [max(0, s.value - s.low) for s, _ in seen], [max(0, s.high - s.value) for s, _ in seen]
    axes.errorbar(
        x, y, xerr=[down, up], fmt=look["marker"], color=look["color"], markersize=5, elinewidth=1.6, label=system.name
    )
    for span, height in points:
        if span.value < LEFT_EDGE:
            inside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(0.005, height, f"◂ {span.value:.0f}", fontsize=8, color=look["color"], **inside)


def layer_plot(board: Board) -> str:
    """Return for each row the watched validation score of each layer at its best learning rate."""
    from matplotlib.figure import Figure

    look, tasks = looks(board.systems), [task for task in board.tasks if any(task in s.cells for s in board.systems)]
    lines = math.ceil(len(tasks) / COLUMNS)
    with drawing("layers"):
        figure = Figure(figsize=(9, 0.3 + 2.2 * lines), layout="constrained")
        panels = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
        for axes, task in zip(panels, tasks):
            records = {system.name: system.cells[task].record for system in board.systems if task in system.cells}
            one = next(iter(records.values()))
            level = any(score.scale == "dB" for score in one.scores.values())
            scale = 1.0 if level else PERCENT
            _draw_layers(axes, {name: best_by_layer(record.grid, scale) for name, record in records.items()}, look)
            axes.set_title(f"{task}: {one.task.task.get('watch', 'valid')}{', dB' if level else ''}")
        for axes in panels[len(tasks) :]:
            axes.set_axis_off()
        seen: dict[str, Any] = {}
        for axes in panels:
            handles, names = axes.get_legend_handles_labels()
            seen.update(zip(names, handles))
        figure.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=4)
        return svg(figure, "Validation score by layer")


def best_by_layer(grid: Sequence[Any], scale: float = PERCENT) -> dict[str, float]:
    """Return the best validation score of each layer over the learning rates, times the scale, in the grid's order."""
    best: dict[str, float] = {}
    for point in grid:
        if math.isfinite(point.valid):
            best[point.layer] = max(scale * point.valid, best.get(point.layer, -math.inf))
    return best


def _draw_layers(axes: Axes, best: Mapping[str, Mapping[str, float]], look: Mapping[str, Any]) -> None:
    numbers = sorted({int(layer) for found in best.values() for layer in found if layer.isdecimal()})
    words = list(dict.fromkeys(layer for found in best.values() for layer in found if not layer.isdecimal()))
    last = numbers[-1] if numbers else 0
    # What is not a layer of the stack stands apart, to the right of it.
    place = {str(number): float(number) for number in numbers} | {word: last + 1.2 + i for i, word in enumerate(words)}
    for name, found in best.items():
        if len(found) == 1:
            axes.axhline(
                next(iter(found.values())), linestyle=(0, (4, 2)), color=look[name]["color"], linewidth=1.4, label=name
            )
            continue
        chain = sorted((place[layer], value) for layer, value in found.items() if layer.isdecimal())
        apart = [(place[layer], value) for layer, value in found.items() if not layer.isdecimal()]
        axes.plot([x for x, _ in chain], [y for _, y in chain], markersize=4.5, label=name, **look[name])
        hollow: dict[str, Any] = {"linestyle": "", "markersize": 6, "markerfacecolor": "none"}
        axes.plot([x for x, _ in apart], [y for _, y in apart], **hollow, **look[name])
    shown = numbers[:: max(1, len(numbers) // 6)]
    names = [*map(str, shown), *(SHORT.get(word, word) for word in words)]
    axes.set_xticks([place[str(number)] for number in shown] + [place[word] for word in words], names)
    axes.margins(x=0.06)


def training_plot(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a panel for each group of a journal's numbers over its steps."""
    from matplotlib.figure import Figure

    groups = grouped([key for line in lines for key in line if key not in {"step", "steps", "seconds"}])
    series = {key: _series(lines, key) for keys in groups.values() for key in keys}
    panels = [(name, [key for key in keys if len(series[key]) > 1]) for name, keys in groups.items()]
    panels = [(name, keys) for name, keys in panels if keys and any(value for key in keys for _, value in series[key])]
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    with drawing("training"):
        figure = Figure(figsize=(9, 2.2 * rows), layout="constrained")
        places = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes, (name, keys) in zip(places, panels):
            for place, key in enumerate(keys):
                label = key.removeprefix(f"{name}/").replace("_", " ")
                axes.plot(*zip(*series[key]), color=COLOURS[place % len(COLOURS)], label=label)
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("step")
            if len(keys) > 1:
                axes.legend(fontsize=8)
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        return svg(figure, "Training curves")


def grouped(keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys by what stands before their slash; `x_of_mean` goes with `x`."""
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(keys):
        head = key.partition("/")[0]
        near = next((name for name in groups if head.startswith(f"{name}_")), head)
        groups.setdefault(near, []).append(key)
    return groups


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = [(line.get("step", place), line.get(key)) for place, line in enumerate(lines)]
    return [
        (step, float(value)) for step, value in pairs if isinstance(value, int | float) and math.isfinite(float(value))
    ]
