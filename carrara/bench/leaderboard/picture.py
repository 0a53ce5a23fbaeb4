"""A leaderboard as a picture for a README: a line a system, each score on a tint, the average with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.ranking import EXCEEDED, PARTIAL, TRAINED, Interval, Leaderboard, System
from carrara.bench.leaderboard.tables import MISSING, average_rows
from carrara.core.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, RULE, PAPER = "#22262b", "#666d76", "#d6d8d4", "#ffffff"
MARKS = {TRAINED: "trained on this dataset", PARTIAL: "partial record", EXCEEDED: "beyond the time limit"}
TINT = (0, 114, 178)
NAME_WIDTH, AVERAGE_WIDTH, CELL_WIDTH, LINE_HEIGHT, HEADER_HEIGHT, INCH = 2.5, 3.4, 1.0, 0.62, 1.15, 0.82


def draw_leaderboard(path: Path | str, leaderboard: Leaderboard, caption: str = "") -> Path:
    """Write the leaderboard as a PNG and return its path.

    Args:
        path: of the file.
        leaderboard: the scores.
        caption: a line beneath, such as the machine and the date.

    Raises:
        StoreError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * len(leaderboard.tasks)
    height = HEADER_HEIGHT + LINE_HEIGHT * len(leaderboard.systems) + 0.45
    with matplotlib.rc_context({"font.size": 9.5, "text.color": INK, "text.parse_math": False}):
        figure = Figure(figsize=(width * INCH, height * INCH), facecolor=PAPER, layout=None)
        axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.text(0.05, 0.25, leaderboard.title, fontsize=12, fontweight="bold", va="center")
        average_name = next(iter(average_rows(leaderboard)))
        label: dict[str, Any] = {"fontsize": 8.5, "color": SOFT, "va": "bottom"}
        axes.text(NAME_WIDTH + 0.1, HEADER_HEIGHT - 0.2, average_name, **label)
        for column, task in enumerate(leaderboard.tasks):
            middle = NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * (column + 0.5)
            axes.text(middle, HEADER_HEIGHT - 0.2, task.rpartition("/")[2], ha="center", **label)
        axes.plot([0, width], [HEADER_HEIGHT - 0.1] * 2, color=RULE, linewidth=1)
        for line, system in enumerate(leaderboard.systems):
            _draw_system(axes, leaderboard, system, HEADER_HEIGHT + LINE_HEIGHT * line)
        used = "".join(result.marks for system in leaderboard.systems for result in system.results.values())
        legend = [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in used]
        footer = "   ".join([*([caption] if caption else []), *legend])
        axes.text(0.05, height - 0.2, footer, fontsize=8, color=SOFT, va="center")
        with atomic_write(Path(path)) as tmp:
            figure.savefig(tmp, format="png", dpi=200, metadata={"Software": "carrara"})
    return Path(path)


def _draw_system(axes: Axes, leaderboard: Leaderboard, system: System, top: float) -> None:
    from matplotlib.patches import Rectangle

    middle = top + LINE_HEIGHT / 2
    rank = "floor" if system.is_floor else str(system.rank or MISSING)
    axes.text(0.42, middle, rank, color=SOFT, ha="right", va="center", fontsize=7.5 if system.is_floor else None)
    axes.text(0.55, middle, system.name, fontweight="bold", va="center")
    if average := system.average if leaderboard.ranked_tasks else system.full_average:
        _draw_average(axes, average, middle)
    for column, task in enumerate(leaderboard.tasks):
        left = NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * column
        x = left + CELL_WIDTH / 2
        result = system.results.get(task)
        if result is None:
            axes.text(x, middle, MISSING, color=SOFT, ha="center", va="center")
            continue
        score = result.score
        tint = _tint(0.45 * min(max(score.value, 0), 100) / 100)
        box = Rectangle((left + 0.03, top + 0.03), CELL_WIDTH - 0.06, LINE_HEIGHT - 0.06, facecolor=tint, linewidth=0)
        axes.add_patch(box)
        axes.text(x, middle - 0.09, f"{score.value:.1f}{result.marks}", ha="center", va="center")
        interval = f"{score.low:.0f} to {score.high:.0f}"
        axes.text(x, middle + 0.16, interval, fontsize=6.5, color=SOFT, ha="center", va="center")


def _draw_average(axes: Axes, average: Interval, middle: float) -> None:
    left, length = NAME_WIDTH + 0.85, AVERAGE_WIDTH - 1.15
    low, end, high = (left + length * min(max(x, 0), 100) / 100 for x in (average.low, average.value, average.high))
    axes.text(NAME_WIDTH + 0.1, middle, f"{average.value:.1f}", fontweight="bold", va="center")
    axes.plot([left, left + length], [middle] * 2, color=RULE, linewidth=7, solid_capstyle="butt")
    axes.plot([left, end], [middle] * 2, color=_tint(0.75), linewidth=7, solid_capstyle="butt")
    axes.plot([low, high], [middle] * 2, color=INK, linewidth=1.4, solid_capstyle="butt")


def _tint(fraction: float) -> str:
    """Return the tint's colour, that fraction of it mixed into white."""
    return "#" + "".join(f"{round(255 + (part - 255) * fraction):02x}" for part in TINT)
