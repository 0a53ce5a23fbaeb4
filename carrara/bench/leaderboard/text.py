"""The board as text: a table for people, Markdown for pages, plain values for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import StringIO
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.published import Published
from carrara.bench.leaderboard.ranking import Board, Cell, Span, System

if TYPE_CHECKING:
    from rich.console import Console

MISSING = "–"
COPIED = "‡"
WALLED = "§"
ARROWS = {"higher": "↑", "lower": "↓"}
Write = Callable[[Span | float | None, str, bool], str]


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
    """Return for each system of each board its name, protocol, scores by task (percent or dB) and average (or none).

    A task's scores are those that make its cell, so the average is the mean over tasks of the mean of their scores.
    Published systems follow the board's own: without intervals and rank, with the average that their source prints
    for all 14 rows beside the one over the board's rows.
    """
    return [line for board in boards for line in (*_measured(board), *_published(board))]


def shown(value: Span | float | None, marks: str = "", best: bool = False) -> str:
    """Return a value to one decimal with its interval, if it has one, and its marks; a dash for none."""
    if value is None:
        return MISSING
    return f"{value:.1f}{marks}" if isinstance(value, float) else f"{spanned(value)}{marks}"


def grid(board: Board, cell: Write = shown, word: Callable[[str], str] = str) -> list[list[str]]:
    """Return the board's cells as text: first the head, then a line a task or, where those are fewer, a system.

    The averages come before the tasks, the levels after them, published systems after the measured ones.

    Args:
        board: the scores.
        cell: writes a value, given its marks and whether it is its row's best.
        word: writes any other text.
    """
    names = [*_averages(board), *(row_name(board, task) for task in board.tasks), *level_names(board)]
    by_system = [
        [word(name) for name in ("", "rank", *names)],
        *([word(one.name), word(rank(one)), *_measured_cells(board, one, cell, word)] for one in board.systems),
        *([word(one.name + COPIED), word(MISSING), *printed(board, one, cell, word)] for one in board.published),
    ]
    if stands_by_systems(board):
        return by_system
    return [list(line) for line in zip(*by_system)]


def stands_by_systems(board: Board) -> bool:
    """Return whether a line is a system and not a row: where there are more systems."""
    return len(board.systems) + len(board.published) > len(board.tasks)


def row_name(board: Board, task: str) -> str:
    """Return a row's name with its unit, if that is not percent, and which way is better."""
    unit = " (dB)" if board.scales.get(task) == "dB" else ""
    return f"{task}{unit} {ARROWS[board.better.get(task, 'higher')]}"


def level_names(board: Board) -> list[str]:
    """Return a name for each level that is shown, with how many rows it is over."""
    return [f"level: {level} ({len(rows)} row{'s' * (len(rows) > 1)})" for level, rows in board.levels().items()]


def printed(board: Board, system: Published, cell: Write = shown, word: Callable[[str], str] = str) -> list[str]:
    """Return a published system's averages, cells and levels as text."""
    have = len(set(board.tasks) & set(system.rows))
    average = system.average(board.tasks)
    common = [cell(system.average(board.common), "", False)] if shows_common(board) else []
    return [
        word(f"{MISSING} {have}/{len(board.tasks)}") if average is None else cell(average, "", False),
        *common,
        *(cell(system.cell(task), WALLED * (task in system.walled), False) for task in board.tasks),
        *(cell(system.average(rows), "", False) for rows in board.levels().values()),
    ]


def rank(system: System) -> str:
    """Return a system's rank, or a dash."""
    return MISSING if system.rank is None else str(system.rank)


def spanned(span: Span | None) -> str:
    """Return a value with its interval, to one decimal."""
    return MISSING if span is None else f"{span.value:.1f} [{span.low:.1f}, {span.high:.1f}]"


def marks(cell: Cell) -> str:
    """Return the marks that belong to a cell."""
    return "†" * cell.trained + "*" * cell.partial + WALLED * cell.walled


def best(board: Board) -> dict[str, set[str]]:
    """Return the names of each row's best measured systems, where several have it whole."""
    found = {}
    for task in board.tasks:
        cells = {system.name: system.cells[task].span.value for system in board.systems if task in system.whole()}
        if len(cells) > 1:
            top = (max if board.better.get(task) == "higher" else min)(cells.values())
            found[task] = {name for name, value in cells.items() if value == top}
    return found


def shows_common(board: Board) -> bool:
    """Return whether the average over the rows that all have says more than the average."""
    return bool(board.common) and any(system.average is None for system in board.systems)


def _averages(board: Board) -> list[str]:
    common = [f"average of the {len(board.common)} all have"] if shows_common(board) else []
    return [f"average of {len(board.tasks)}", *common]


def _measured_cells(board: Board, system: System, cell: Write, word: Callable[[str], str]) -> list[str]:
    have = len(set(board.tasks) & system.whole())
    top = best(board)
    cells = []
    for task in board.tasks:
        found = system.cells.get(task)
        cells.append(
            cell(found.span if found else None, marks(found) if found else "", system.name in top.get(task, ()))
        )
    return [
        cell(system.average, "", False) if system.average else word(f"{MISSING} {have}/{len(board.tasks)}"),
        *([cell(system.common, "", False)] if shows_common(board) else []),
        *cells,
        *(cell(system.levels.get(level), "", False) for level in board.levels()),
    ]


def _measured(board: Board) -> list[dict[str, Any]]:
    return [
        {
            "system": system.name,
            "protocol": board.protocol,
            "rows": {task: _scores(system.cells[task]) for task in board.tasks if task in system.cells},
            "average": system.average.value if system.average else None,
            "rank": system.rank,
            "levels": {level: _bounds(span) for level, span in system.levels.items()},
            "published": False,
        }
        for system in board.systems
    ]


def _published(board: Board) -> list[dict[str, Any]]:
    return [
        {
            "system": system.name,
            "protocol": "published",
            "rows": {
                task: {name: _bare(value) for name, value in system.rows[task].items()}
                for task in board.tasks
                if task in system.rows
            },
            "average": system.average(board.tasks),
            "rank": None,
            "levels": {
                level: _bare(value)
                for level, rows in board.levels().items()
                if (value := system.average(rows)) is not None
            },
            "published": True,
            "sources": list(system.sources),
            "printed_average": system.printed,
        }
        for system in board.published
    ]


def _bounds(span: Span) -> dict[str, float]:
    return {"value": span.value, "low": span.low, "high": span.high}


def _bare(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def _scores(cell: Cell) -> dict[str, dict[str, float]]:
    own = cell.record.task.task["scores"]
    return {name: _bounds(cell.scores[name]) for name in own}


def _escaped(text: str) -> str:
    # Brackets stay: without a parenthesis after it a bracket is no link, and every interval has two.
    for mark in "\\`*_(<>|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
