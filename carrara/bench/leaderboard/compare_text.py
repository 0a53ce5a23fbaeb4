"""A comparison of two systems as text: a table for people, plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from carrara.bench.leaderboard.compare import Comparison, Row

if TYPE_CHECKING:
    from rich.console import Console

VERDICTS = ("better", "worse", "undecided")


def table(found: Comparison, console: Console | None = None) -> None:
    """Print the comparison, on standard output unless a console is given."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{found.first} against {found.second}"
    drawn = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    protocols = {row.protocol for row in found.rows}
    for place, word in enumerate(("", found.first, found.second, "difference", "p", "p (Holm)", found.first)):
        drawn.add_column(escape(word), justify="right" if 0 < place < 6 else "left", overflow="fold")
    for row in found.rows:
        drawn.add_row(*map(escape, _line(row, len(protocols) > 1)), style="bold" if row.corrected < 0.05 else None)
    console = console or Console()
    if not console.is_terminal:
        # Nobody scrolls a pipe: whole lines, whatever their length.
        console = Console(file=console.file, width=10_000)
    console.print(drawn)
    for note in notes(found):
        console.print(escape(note), style="dim", highlight=False)


def table_text(found: Comparison) -> str:
    """Return the table that `table` prints, as plain text."""
    from rich.console import Console

    page = StringIO()
    table(found, Console(file=page))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def notes(found: Comparison) -> list[str]:
    """Return what follows from the rows, and which were not compared and why."""
    said = []
    for verdict in VERDICTS:
        names = [row.task for row in found.rows if row.verdict == verdict]
        if names:
            said.append(f"{found.first} is {verdict} on {len(names)} of {len(found.rows)} rows: {', '.join(names)}.")
    said.append(
        "Differences with 95 % intervals of the paired bootstrap over the test clips; p two-sided, corrected over the "
        "rows by Holm; decided below 0.05. Undecided is not equal."
    )
    if any(row.partial for row in found.rows):
        said.append("* a partial record: fewer clips than the task has.")
    return said + [f"Not comparable: {row.task} ({row.protocol}): {row.reason}." for row in found.apart]


def values(found: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values, in percent or dB."""
    return {
        "first": found.first,
        "second": found.second,
        "rows": [
            {
                "task": row.task,
                "protocol": row.protocol,
                "first": row.contrast.first,
                "second": row.contrast.second,
                "difference": {
                    "value": row.contrast.difference.value,
                    "low": row.contrast.difference.low,
                    "high": row.contrast.difference.high,
                },
                "p": row.contrast.p,
                "p_holm": row.corrected,
                "verdict": row.verdict,
                "n": row.units,
                "scale": row.scale,
                "partial": row.partial,
            }
            for row in found.rows
        ],
        "not_comparable": [{"task": row.task, "protocol": row.protocol, "reason": row.reason} for row in found.apart],
    }


def _line(row: Row, several: bool) -> Sequence[str]:
    gap = row.contrast.difference
    name = f"{row.task} ({row.protocol})" if several else row.task
    unit = " (dB)" if row.scale == "dB" else ""
    return (
        f"{name}{unit}{'*' * row.partial}",
        f"{row.contrast.first:.1f}",
        f"{row.contrast.second:.1f}",
        f"{gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]",
        f"{row.contrast.p:.3f}",
        f"{row.corrected:.3f}",
        row.verdict,
    )
