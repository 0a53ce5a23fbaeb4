"""The pictures of the site's pages as SVG: a task, a system, a comparison, quality against cost, and confusions.

Letters: T true classes, P predicted classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from carrara.bench.leaderboard.compare import Comparison
from carrara.bench.leaderboard.figures import figure_systems
from carrara.bench.leaderboard.ranking import Interval, Leaderboard, System
from carrara.bench.report.plots import COLOURS, INK, LINE, svg_style, to_svg
from carrara.core.errors import UsageError, did_you_mean

OTHER, PUBLISHED = "#b9c2ca", "#b34700"
VERDICTS = {"better": "#00734f", "worse": "#b3400a", "undecided": "#7f7f7f"}
COSTS: dict[str, str] = {
    "parameters": "parameters",
    "seconds": "seconds for the ranked tasks",
    "hours": "hours of training audio",
}


def task_plot(leaderboard: Leaderboard, task: str) -> str:
    """Return the scores of all systems on a task, the best first; published ones are hollow.

    Raises:
        UsageError: no system has a score on such a task.
    """
    lines: list[tuple[str, Interval, bool]] = [
        (system.name + system.results[task].marks, system.results[task].score, True)
        for system in leaderboard.systems
        if task in system.results
    ]
    for each in leaderboard.published:
        if (value := each.score(task)) is not None:
            lines.append((f"{each.name}‡", Interval(value, value, value), False))
    if not lines:
        known = leaderboard.tasks
        raise UsageError(f"no score on {task!r}.{did_you_mean(task, known)} The tasks: {', '.join(known)}.")
    is_higher = leaderboard.better.get(task, "higher") == "higher"
    lines.sort(key=lambda line: -line[1].value if is_higher else line[1].value)
    unit = "dB" if leaderboard.scales.get(task) == "dB" else "percent"
    colours = [COLOURS[0]] * len(lines)
    label = f"score in {unit}, with its 95 % interval"
    return _interval_plot(lines, colours, f"Scores on {task}", label)


def difference_plot(comparison: Comparison) -> str:
    """Return the paired differences of two systems by task; the colour is the verdict.

    Raises:
        UsageError: no task can be compared.
    """
    if not comparison.tasks:
        raise UsageError(f"{comparison.first} and {comparison.second}: no task can be compared")
    lines = [(each.task, each.difference, True) for each in comparison.tasks]
    colours = [VERDICTS[each.verdict] for each in comparison.tasks]
    title = f"{comparison.first} minus {comparison.second}"
    return _interval_plot(lines, colours, title, f"{title}, with 95 % intervals", has_zero=True)


def _interval_plot(
    lines: Sequence[tuple[str, Interval, bool]], colours: Sequence[str], title: str, label: str, has_zero: bool = False
) -> str:
    from matplotlib.figure import Figure

    with svg_style(title):
        figure = Figure(figsize=(8, 0.9 + 0.3 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for row, ((_, interval, is_measured), colour) in enumerate(zip(lines, colours)):
            axes.hlines(row, interval.low, interval.high, color=colour)
            face = colour if is_measured else "none"
            axes.plot(interval.value, row, marker="o", markersize=5.5, color=colour, markerfacecolor=face)
        if has_zero:
            axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(lines)), [name for name, _, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return to_svg(figure, title)


def system_plot(leaderboard: Leaderboard, name: str) -> str:
    """Return a system's scores with intervals, beside the best other system here and the best published score.

    Raises:
        UsageError: there is no such system.
    """
    from matplotlib.figure import Figure

    system = _find_system(leaderboard, name)
    tasks = [task for task in leaderboard.tasks if task in system.results]
    with svg_style(f"system {name}"):
        figure = Figure(figsize=(8, 1.1 + 0.5 * len(tasks)), layout="constrained")
        axes = figure.add_subplot()
        for row, task in enumerate(tasks):
            pick: Callable[..., float] = max if leaderboard.better.get(task, "higher") == "higher" else min
            score = system.results[task].score
            others = [
                each.results[task].score.value
                for each in leaderboard.systems
                if each.name != name and task in each.results
            ]
            printed = [value for each in leaderboard.published if (value := each.score(task)) is not None]
            first = row == 0
            axes.barh(row - 0.18, score.value, 0.34, color=COLOURS[0], label=name if first else None)
            axes.hlines(row - 0.18, score.low, score.high, color=INK, linewidth=1.2)
            if others:
                axes.barh(row + 0.18, pick(others), 0.3, color=OTHER, label="best other system" if first else None)
            if printed:
                axes.vlines(pick(printed), row - 0.4, row + 0.4, color=PUBLISHED, linewidth=2.5)
        if any(each.score(task) is not None for each in leaderboard.published for task in tasks):
            axes.plot([], [], color=PUBLISHED, linewidth=2.5, label="best published score")
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("score in percent, source separation in dB")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        return to_svg(figure, f"Scores of {name}")


def cost_plot(leaderboard: Leaderboard, by: str = "parameters", task: str | None = None) -> str:
    """Return quality against cost: the average of the ranked tasks, or a task's score.

    Args:
        leaderboard: the systems.
        by: `parameters`, `seconds` of the ranked tasks, or `hours` of training audio (the highest that sources state).
        task: whose score; None for the average.

    Raises:
        UsageError: there is no such cost, or no system with a score states it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    if by not in COSTS:
        raise UsageError(f"no cost {by!r}.{did_you_mean(by, COSTS)} The costs: {', '.join(COSTS)}.")
    facts = {each.name: each for each in figure_systems(leaderboard) if each.is_own}
    points = []
    for system in leaderboard.systems:
        result = system.results.get(task) if task else None
        score = (result.score if result else None) if task else system.average
        cost: float | None = None
        if by == "seconds":
            records = [system.results[each].record for each in leaderboard.ranked_tasks if each in system.results]
            cost = sum(sum(record.run.seconds.values()) for record in records)
        elif by == "hours":
            hours = facts[system.name].hours
            cost = hours[1] if hours else None
        else:
            cost = facts[system.name].parameters
        if score is not None and cost:
            points.append((cost, score, system.name))
    if not points:
        raise UsageError(f"no system with a score on {task or 'the ranked tasks'} states its {COSTS[by]}")
    with svg_style(f"cost {by} {task}"):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for cost, score, name in points:
            axes.vlines(cost, score.low, score.high, color=COLOURS[7], linewidth=1.2)
            axes.plot(cost, score.value, marker="o", markersize=6, color=COLOURS[0])
            axes.annotate(name, (cost, score.value), (6, 3), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.12)
        axes.set_xlabel(COSTS[by])
        axes.set_ylabel(task or f"average of {len(leaderboard.ranked_tasks)} tasks")
        return to_svg(figure, f"{task or 'Average'} against {COSTS[by]}")


def confusion_plot(matrix_TP: np.ndarray, labels: Sequence[str], title: str) -> str:
    """Return a matrix of counts as a picture: each true class a row whose cells are shares of it.

    Args:
        matrix_TP: how many clips of each true class were predicted as each class.
        labels: of the classes.
        title: of the plot.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    share_TP = np.asarray(matrix_TP, float) / np.maximum(np.sum(matrix_TP, axis=1, keepdims=True), 1)
    size = max(3.2, 0.32 * len(labels) + 1.6)
    colours = LinearSegmentedColormap.from_list("shares", [(0, 0.447, 0.698, 0.0), (0, 0.447, 0.698, 1.0)])
    with svg_style(f"confusion {title}"):
        figure = Figure(figsize=(size, size), layout="constrained")
        axes = figure.add_subplot()
        mesh: dict[str, Any] = {"cmap": colours, "vmin": 0, "vmax": 1, "edgecolors": LINE, "linewidth": 0.5}
        axes.pcolormesh(share_TP, **mesh)
        places = np.arange(len(labels)) + 0.5
        axes.set_xticks(places, labels, rotation=90)
        axes.set_yticks(places, labels)
        axes.set_ylim(len(labels), 0)
        axes.grid(visible=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title)
        return to_svg(figure, f"Confusions: {title}")


def _find_system(leaderboard: Leaderboard, name: str) -> System:
    names = [system.name for system in leaderboard.systems]
    if name not in names:
        raise UsageError(f"no system {name!r}.{did_you_mean(name, names)} The systems: {', '.join(names)}.")
    return leaderboard.systems[names.index(name)]
