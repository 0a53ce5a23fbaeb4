"""The board as a picture for a README: systems by rows, each score on a tint, the average with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from carrara.bench.leaderboard.ranking import Board, Span, System
from carrara.bench.leaderboard.text import MISSING, marks, rank
from carrara.bench.report.plots import compared
from carrara.core.io import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

INK, SOFT, RULE, PAPER = "#22262b", "#666d76", "#d6d8d4", "#ffffff"
SIGNS = {"† trained on this dataset": "†", "* partial record": "*", "§ over the computational wall": "§"}
TINT = (0, 114, 178)
NAME_WIDTH, AVERAGE_WIDTH, CELL_WIDTH, LINE_HEIGHT, HEAD_HEIGHT, INCH = 2.5, 3.4, 1.0, 0.62, 1.15, 0.82


def board_picture(path: Path | str, board: Board, caption: str = "") -> Path:
    """Write the board as a PNG and return its path.

    Args:
        path: of the file.
        board: the scores.
        caption: a line beneath, such as the machine and the date.

    Raises:
        StoreError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * len(board.tasks)
    height = HEAD_HEIGHT + LINE_HEIGHT * len(board.systems) + 0.45
    with matplotlib.rc_context({"font.size": 9.5, "text.color": INK, "text.parse_math": False}):
        figure = Figure(figsize=(width * INCH, height * INCH), facecolor=PAPER, layout=None)
        axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        _draw_head(axes, board, width)
        for place, system in enumerate(board.systems):
            _draw_system(axes, board, system, HEAD_HEIGHT + LINE_HEIGHT * place)
        cells = [cell for system in board.systems for cell in system.cells.values()]
        signs = [sign for sign, known in SIGNS.items() if any(known in marks(cell) for cell in cells)]
        axes.text(
            0.05,
            height - 0.2,
            "   ".join([*([caption] if caption else []), *signs]),
            fontsize=8,
            color=SOFT,
            va="center",
        )
        with atomic_write(Path(path)) as draft:
            figure.savefig(draft, format="png", dpi=200, metadata={"Software": "carrara"})
    return Path(path)


def _draw_head(axes: Axes, board: Board, width: float) -> None:
    axes.text(0.05, 0.25, board.title, fontsize=12, fontweight="bold", va="center")
    word, _ = compared(board)
    axes.text(NAME_WIDTH + 0.1, HEAD_HEIGHT - 0.2, word, fontsize=8.5, color=SOFT, va="bottom")
    for place, task in enumerate(board.tasks):
        middle = NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * (place + 0.5)
        short = task.rpartition("/")[2]
        axes.text(middle, HEAD_HEIGHT - 0.2, short, fontsize=8.5, color=SOFT, ha="center", va="bottom")
    axes.plot([0, width], [HEAD_HEIGHT - 0.1] * 2, color=RULE, linewidth=1)


def _draw_system(axes: Axes, board: Board, system: System, top: float) -> None:
    middle = top + LINE_HEIGHT / 2
    axes.text(0.3, middle, rank(system), color=SOFT, ha="right", va="center")
    axes.text(0.42, middle, system.name, fontweight="bold", va="center")
    average = compared(board)[1].get(system.name)
    if average:
        _draw_average(axes, average, middle)
    for place, task in enumerate(board.tasks):
        cell, left = system.cells.get(task), NAME_WIDTH + AVERAGE_WIDTH + CELL_WIDTH * place
        x = left + CELL_WIDTH / 2
        if cell is None:
            axes.text(x, middle, MISSING, color=SOFT, ha="center", va="center")
            continue
        axes.add_patch(_box(left, top, _tint(cell.span.value)))
        axes.text(x, middle - 0.09, f"{cell.span.value:.1f}{marks(cell)}", ha="center", va="center")
        between = f"{cell.span.low:.0f} to {cell.span.high:.0f}"
        axes.text(x, middle + 0.16, between, fontsize=6.5, color=SOFT, ha="center", va="center")


def _draw_average(axes: Axes, span: Span, middle: float) -> None:
    left, length = NAME_WIDTH + 0.85, AVERAGE_WIDTH - 1.15
    ends = [left + length * min(max(value, 0), 100) / 100 for value in (span.low, span.value, span.high)]
    axes.text(NAME_WIDTH + 0.1, middle, f"{span.value:.1f}", fontweight="bold", va="center")
    axes.plot([left, left + length], [middle] * 2, color=RULE, linewidth=7, solid_capstyle="butt")
    axes.plot([left, ends[1]], [middle] * 2, color=_hex(0.75), linewidth=7, solid_capstyle="butt")
    axes.plot([ends[0], ends[2]], [middle] * 2, color=INK, linewidth=1.4, solid_capstyle="butt")


def _box(left: float, top: float, colour: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((left + 0.03, top + 0.03), CELL_WIDTH - 0.06, LINE_HEIGHT - 0.06, facecolor=colour, linewidth=0)


def _tint(value: float) -> str:
    return _hex(0.45 * min(max(value, 0), 100) / 100)


def _hex(share: float) -> str:
    """Return the tint's colour mixed so far into white."""
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in TINT)
