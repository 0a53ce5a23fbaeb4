"""The board as text: a table for people, Markdown for pages, plain values for programs."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

from carrara.bench.board import Board, Cell, Span, System

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "–"
ARROWS = {"higher": "↑", "lower": "↓"}


def table(board: Board, console: Console | None = None) -> None:
    """Print the board, on standard output unless a console is given."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    head, *lines = grid(board)
    drawn = Table(title=escape(board.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, word in enumerate(head):
        drawn.add_column(escape(word), justify="right" if place else "left", overflow="fold")
    summary = {"rank", *(line[0] for line in lines if line[0].startswith("average"))}
    for line in lines:
        drawn.add_row(*map(escape, line), style="bold" if line[0] in summary else None)
    console = console or Console()
    if not console.is_terminal:
        # Nobody scrolls a pipe: whole lines, whatever their length.
        console = Console(file=console.file, width=10_000)
    console.print(drawn)
    for note in board.notes:
        console.print(escape(note), style="dim", highlight=False)


def table_text(board: Board) -> str:
    """Return the table that `table` prints, as plain text."""
    from rich.console import Console

    page = StringIO()
    table(board, Console(file=page))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def markdown(board: Board) -> str:
    """Return the board as a Markdown section with its notes."""
    head, *lines = grid(board)
    rows = [head, [":--", *["--:"] * (len(head) - 1)], *lines]
    text = ["| " + " | ".join(_escaped(word) for word in row) + " |" for row in rows]
    return "\n".join(
        [f"### {_escaped(board.title)}", "", *text, "", *(f"- {_escaped(note)}" for note in board.notes), ""]
    )


def values(boards: Iterable[Board]) -> list[dict[str, Any]]:
    """Return for each system of each board its name, protocol, scores by task (percent) and average (or none).

    A task's scores are those that make its cell, so the average is the mean over tasks of the mean of their scores.
    """
    return [
        {
            "system": system.name,
            "protocol": board.protocol,
            "rows": {task: _scores(system.cells[task]) for task in board.tasks if task in system.cells},
            "average": system.average.value if system.average else None,
        }
        for board in boards
        for system in board.systems
    ]


def grid(board: Board) -> list[list[str]]:
    """Return the board's cells as text: first the head, then a line a task or, where those are fewer, a system."""
    by_system = [
        [
            "",
            "rank",
            *_averages(board),
            *(f"{task} {ARROWS[board.better.get(task, 'higher')]}" for task in board.tasks),
        ],
        *([system.name, rank(system), *_spans(board, system), *_cells(board, system)] for system in board.systems),
    ]
    if len(board.systems) > len(board.tasks):
        return by_system
    return [list(line) for line in zip(*by_system)]


def rank(system: System) -> str:
    """Return a system's rank, or a dash."""
    return MISSING if system.rank is None else str(system.rank)


def spanned(span: Span | None) -> str:
    """Return a value with its interval, to one decimal."""
    return MISSING if span is None else f"{span.value:.1f} [{span.low:.1f}, {span.high:.1f}]"


def marks(cell: Cell) -> str:
    """Return the marks that belong to a cell."""
    return "†" * cell.trained + "*" * cell.partial


def shows_common(board: Board) -> bool:
    """Return whether the average over the rows that all have says more than the average."""
    return bool(board.common) and any(system.average is None for system in board.systems)


def _averages(board: Board) -> list[str]:
    common = [f"average of the {len(board.common)} all have"] if shows_common(board) else []
    return [f"average of {len(board.tasks)}", *common]


def _spans(board: Board, system: System) -> list[str]:
    have = len(set(board.tasks) & system.whole())
    average = spanned(system.average) if system.average else f"{MISSING} {have}/{len(board.tasks)}"
    return [average, *([spanned(system.common)] if shows_common(board) else [])]


def _cells(board: Board, system: System) -> list[str]:
    found = [system.cells.get(task) for task in board.tasks]
    return [spanned(cell.span) + marks(cell) if cell else MISSING for cell in found]


def _scores(cell: Cell) -> dict[str, dict[str, float]]:
    own = cell.record.task.task["scores"]
    spans = {name: cell.scores[name] for name in own}
    return {name: {"value": span.value, "low": span.low, "high": span.high} for name, span in spans.items()}


def _escaped(text: str) -> str:
    # Brackets stay: without a parenthesis after it a bracket is no link, and every interval has two.
    for mark in "\\`*_(<>|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
