"""A leaderboard as text, Markdown, LaTeX, HTML, a terminal's table, and plain values for JSON.

`to_frame` makes one pandas DataFrame of cells; each format maps the cells to its own text and lets pandas write it.
"""

from __future__ import annotations

import html
import os
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.notes import leaderboard_notes
from carrara.bench.leaderboard.ranking import EXCEEDED, Interval, Leaderboard, to_interval
from carrara.core.printable import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

MISSING = "–"
PUBLISHED = "‡"
ARROWS = {"higher": "↑", "lower": "↓"}
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # After a line's end a bracket or a star would be taken for the command's own.
    "[": "{[}",
    "*": "{*}",
    "–": r"\textendash{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": r"\textsuperscript{2}",
}


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a value with or without an interval, its marks, and whether it is the best of its task.

    A cell without a value shows its `text`.
    """

    value: Interval | float | None = None
    marks: str = ""
    is_best: bool = False
    text: str = MISSING

    @property
    def number(self) -> str:
        """Return the value to one decimal, or the text where there is none."""
        if self.value is None:
            return self.text
        return f"{self.value if isinstance(self.value, float) else self.value.value:.1f}"

    def __str__(self) -> str:
        interval = f" [{self.value.low:.1f}, {self.value.high:.1f}]" if isinstance(self.value, Interval) else ""
        return f"{self.number}{interval}{self.marks}"


def to_frame(leaderboard: Leaderboard) -> pd.DataFrame:
    """Return the leaderboard as a DataFrame of `Cell`s: rank, averages, tasks and categories by systems.

    Published systems come after the measured ones. A row is a system where there are more systems than tasks.
    """
    import pandas as pd

    averages = average_rows(leaderboard)
    best = best_systems(leaderboard)
    columns: dict[str, list[Cell]] = {}
    for system in leaderboard.systems:
        rank = "floor" if system.is_floor else str(system.rank or MISSING)
        count = len(system.complete_tasks() & set(leaderboard.averaged_tasks))
        results = [system.results.get(task) for task in leaderboard.tasks]
        columns[system.name] = [
            Cell(text=rank),
            *(
                Cell(
                    system.average if tasks == leaderboard.ranked_tasks else system.full_average,
                    text=f"{MISSING} {count}/{len(tasks)}" if tasks == leaderboard.averaged_tasks else MISSING,
                )
                for tasks in averages.values()
            ),
            *(
                Cell(result.score, result.marks, system.name in best.get(task, ())) if result else Cell()
                for task, result in zip(leaderboard.tasks, results)
            ),
            *(Cell(system.categories.get(category)) for category in leaderboard.categories()),
        ]
    for published in leaderboard.published:
        count = len(set(published.tasks) & set(leaderboard.averaged_tasks))
        columns[published.name + PUBLISHED] = [
            Cell(),
            *(Cell(published.average(tasks), text=f"{MISSING} {count}/{len(tasks)}") for tasks in averages.values()),
            *(
                Cell(published.score(task), EXCEEDED * (task in published.exceeded_time_limit))
                for task in leaderboard.tasks
            ),
            *(Cell(published.average(tasks)) for tasks in leaderboard.categories().values()),
        ]
    index = ["rank", *averages, *(_task_label(leaderboard, task) for task in leaderboard.tasks)]
    for category, tasks in leaderboard.categories().items():
        index.append(f"category: {category} ({len(tasks)} task{'s' * (len(tasks) > 1)})")
    frame = pd.DataFrame(columns, index=index, dtype=object)
    return frame.T if len(frame.columns) > len(leaderboard.tasks) else frame


def average_rows(leaderboard: Leaderboard) -> dict[str, tuple[str, ...]]:
    """Return the averages that are shown and their tasks: the one that ranks are by, then the one over all tasks."""
    shared, full = leaderboard.ranked_tasks, leaderboard.averaged_tasks
    rows = {f"average of {len(full)}": full}
    return rows if shared in ((), full) else {f"average of the {len(shared)} shared": shared} | rows


def best_systems(leaderboard: Leaderboard) -> dict[str, set[str]]:
    """Return by task the names of its best systems, where several have a complete record of it."""
    best = {}
    for task in leaderboard.tasks:
        complete = [system for system in leaderboard.systems if task in system.complete_tasks()]
        values = {system.name: system.results[task].score.value for system in complete}
        if len(values) > 1:
            top = (max if leaderboard.better.get(task) == "higher" else min)(values.values())
            best[task] = {name for name, value in values.items() if value == top}
    return best


def to_text(leaderboard: Leaderboard, width: int | None = None) -> str:
    """Return the leaderboard as plain text with its notes, in blocks of columns that fit a width in characters."""
    return frame_to_text(leaderboard.title, to_frame(leaderboard).map(str), leaderboard_notes(leaderboard), width)


def print_leaderboard(leaderboard: Leaderboard, console: Console | None = None) -> None:
    """Print the leaderboard on standard output, or on the given console."""
    frame = to_frame(leaderboard).map(str)
    summary = [name for name in frame.index if name == "rank" or name in average_rows(leaderboard)]
    print_frame(leaderboard.title, frame, leaderboard_notes(leaderboard), summary, console)


def frame_to_text(title: str, frame: pd.DataFrame, notes: Iterable[str], width: int | None = None) -> str:
    """Return a table of strings with its title and notes as plain text.

    Each row and each note is one line; with a width in characters, columns stand in blocks and notes are wrapped.
    """
    frame = frame.rename(index=one_line, columns=one_line).map(one_line)
    notes = [one_line(note) if width is None else _wrap_note(note, width) for note in notes]
    blocks = [] if frame.empty else [frame] if width is None else split_columns(frame, width)
    tables = ("\n".join([*map(str.rstrip, block.to_string().split("\n")), ""]) for block in blocks)
    return "\n".join([one_line(title), "", *tables, *[""] * frame.empty, *notes, ""])


def _wrap_note(note: str, width: int) -> str:
    return textwrap.fill(one_line(note), width, break_long_words=False, break_on_hyphens=False)


def print_frame(
    title: str,
    frame: pd.DataFrame,
    notes: Iterable[str],
    bold_rows: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """Print a table of strings: fitted to the width of a terminal or `$COLUMNS`, else with each row on one line.

    A table that is too wide is printed as several with some of the columns each; names and numbers are never broken.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    if not (console.is_terminal or os.environ.get("COLUMNS", "").isdecimal()):
        console.file.write(frame_to_text(title, frame, notes))
        return
    frame = frame.rename(index=one_line, columns=one_line).map(one_line)
    console.print(Text(one_line(title), style="bold"))
    for block in split_columns(frame, console.width):
        header, *lines = block.to_string().split("\n")
        console.print()
        console.print(Text(header.rstrip(), style="dim"), soft_wrap=True)
        for name, line in zip(block.index, lines):
            console.print(Text(line.rstrip(), style="bold" if name in bold_rows else ""), soft_wrap=True)
    console.print()
    for note in notes:
        console.print(Text(_wrap_note(note, console.width), style="dim"), soft_wrap=True)


def split_columns(frame: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """Yield a table's columns in blocks that fit a width in characters, at least one column each."""
    index = max((len(str(name)) for name in frame.index), default=0)
    block: list[Any] = []
    used = index
    for position in range(len(frame.columns)):
        size = max(map(len, frame.iloc[:, [position]].to_string().split("\n"))) - index  # pandas pads cells and titles
        if block and used + size > width:
            yield frame.iloc[:, block]
            block, used = [], index
        block.append(position)
        used += size
    yield frame.iloc[:, block]


def to_markdown(leaderboard: Leaderboard) -> str:
    """Return the leaderboard as a Markdown section with its notes."""
    table = frame_to_markdown(to_frame(leaderboard).map(str))
    notes = [f"- {_note_to_markdown(note)}" for note in leaderboard_notes(leaderboard)]
    return "\n".join([f"### {escape_markdown(leaderboard.title)}", "", table, "", *notes, ""])


def frame_to_markdown(frame: pd.DataFrame) -> str:
    """Return a table of strings in Markdown."""
    rows = [["", *frame.columns], *([name, *cells] for name, cells in frame.iterrows())]
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]
    return "\n".join([lines[0], "| :-- |" + " --: |" * len(frame.columns), *lines[1:]])


def _note_to_markdown(note: str) -> str:
    """Return a note whose names and commands between backticks are code, and whose other marks are text."""
    parts = note.split("`")
    if len(parts) % 2 == 0:  # a name has a backtick of its own
        return escape_markdown(note)
    return "".join(f"`{one_line(part)}`" if index % 2 else escape_markdown(part) for index, part in enumerate(parts))


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = one_line(text)
    # Brackets stay: without a parenthesis after it a bracket is no link, and every interval has two.
    for mark in "\\`*_(<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def to_latex(leaderboard: Leaderboard) -> str:
    r"""Return the leaderboard as a LaTeX table that needs `\usepackage{booktabs}`, its notes beneath.

    The best measured system of a task is bold.
    """

    def cell_text(cell: Cell) -> str:
        number = escape_latex(cell.number)
        text = (rf"\textbf{{{number}}}" if cell.is_best else number) + escape_latex(cell.marks)
        if isinstance(cell.value, Interval):
            text += rf" {{\scriptsize [{cell.value.low:.1f}, {cell.value.high:.1f}]}}"
        return text

    frame = to_frame(leaderboard).map(cell_text).rename(index=escape_latex, columns=escape_latex)
    table = frame.style.to_latex(
        hrules=True,
        position_float="centering",
        caption=f"{escape_latex(leaderboard.title)}.",
        column_format="l" + "r" * len(frame.columns),
    )
    table = table.replace("\\begin{tabular}", "\\small\n\\begin{tabular}")
    notes = [rf"{{\footnotesize {escape_latex(note)}\par}}" for note in leaderboard_notes(leaderboard)]
    return table.replace("\\end{table}", "\n".join(["", *notes, "\\end{table}"]))


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is, on one line."""
    plain = "".join(LATEX.get(char, char if char.isprintable() else " ") for char in text)
    # Two hyphens would become a dash.
    return re.sub("-(?=-)", "-{}", plain)


def to_html(leaderboard: Leaderboard, colours: Mapping[str, str]) -> str:
    """Return the leaderboard as an HTML table: each interval beneath its score, a dot of each system's colour."""

    def cell_html(cell: Cell) -> str:
        text = html.escape(cell.number + cell.marks)
        text = f"<strong>{text}</strong>" if cell.is_best else text
        if isinstance(cell.value, Interval):
            text += f'<span class="interval">{cell.value.low:.1f} to {cell.value.high:.1f}</span>'
        return text

    def label(name: str) -> str:
        text = html.escape(one_line(name))
        if name.startswith(("rank", "average", "category")):
            return f"<b>{text}</b>"
        return f'<span class="dot" style="background:{colours[name]}"></span>{text}' if name in colours else text

    frame = to_frame(leaderboard).map(cell_html).rename(index=label, columns=label)
    return frame.to_html(escape=False, border=0)


def to_values(leaderboards: Iterable[Leaderboard]) -> list[dict[str, Any]]:
    """Return plain values, one system after another: its scores by task and metric (percent or dB), average and rank.

    The average is over the tasks that ranks are by, so that it orders the systems as their ranks do. Published systems
    follow the measured ones of their leaderboard, without intervals and ranks, and with what their source prints.
    """
    values: list[dict[str, Any]] = []
    for leaderboard in leaderboards:
        for system in leaderboard.systems:
            tasks: dict[str, Any] = {}
            for task in leaderboard.tasks:
                if result := system.results.get(task):
                    metrics = result.record.task.task["metrics"]
                    tasks[task] = {name: vars(to_interval(result.record.scores[name])) for name in metrics}
            values.append(
                {
                    "system": system.name,
                    "protocol": leaderboard.protocol,
                    "tasks": tasks,
                    "average": system.average.value if system.average else None,
                    "rank": system.rank,
                }
            )
        for published in leaderboard.published:
            tasks = {
                task: {
                    name: {"value": value, "low": None, "high": None} for name, value in published.tasks[task].items()
                }
                for task in leaderboard.tasks
                if task in published.tasks
            }
            values.append(
                {
                    "system": published.name,
                    "protocol": "published",
                    "tasks": tasks,
                    "average": published.average(leaderboard.ranked_tasks),
                    "rank": None,
                    "sources": list(published.sources),
                    "printed_average": published.printed_average,
                }
            )
    return values


def to_csv(leaderboards: Iterable[Leaderboard]) -> str:
    """Return numbers as CSV, a line for each measured system and task: in percent or dB, with the interval and rank."""
    import pandas as pd

    columns = ["leaderboard", "system", "rank", "task", "value", "low", "high", "n", "partial"]
    rows = [
        [
            *(leaderboard.title, system.name, system.rank, task),
            *(round(each, 4) for each in vars(result.score).values()),
            *(next(iter(result.record.scores.values())).n, result.record.partial),
        ]
        for leaderboard in leaderboards
        for system in leaderboard.systems
        for task, result in system.results.items()
    ]
    return pd.DataFrame(rows, columns=columns).astype({"rank": "Int64"}).to_csv(index=False)


def _task_label(leaderboard: Leaderboard, task: str) -> str:
    unit = " (dB)" if leaderboard.scales.get(task) == "dB" else ""
    return f"{task}{unit} {ARROWS[leaderboard.better.get(task, 'higher')]}"
