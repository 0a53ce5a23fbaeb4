"""`carrara board`: rank what a folder of records holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from carrara.bench.board import Board
    from carrara.core.record import Record

FORMATS = {".md": "markdown", ".json": "json", ".html": "html"}


def board(
    results: Annotated[Path, typer.Argument(help="Folder of the records.")] = Path("results"),
    suite: Annotated[
        str | None, typer.Option(help="Only this suite's rows, and all of them (`carrara ls suites`).")
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "json", "html"] | None,
        typer.Option("--format", help="By default what FILE's ending says, else table; html is the whole report."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, not to standard output.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Rank the systems whose records a folder holds, each score with its 95 % interval.

    - `carrara board`
    - `carrara board carrara-demo/results --suite pebble --json`
    - `carrara board results -o board.html`
    """
    from carrara.bench.board import boards
    from carrara.bench.board_text import table
    from carrara.core.errors import UsageError
    from carrara.core.files import write_text
    from carrara.core.record import read_records

    records = list(read_records(results))
    if not records:
        raise UsageError(f"{results}: no records in it; `carrara bench ENCODER -o {results}` makes some")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} ask for different things; give one of them")
    chosen = "json" if as_json else form or FORMATS.get(output.suffix if output else "", "table")
    found = boards(records, suite)
    if not found:
        raise UsageError(f"--suite {suite}: none of these records is of its rows")
    if output is not None:
        write_text(output, _text(chosen, found, records, suite))
        typer.echo(f"wrote {output}", err=True)
    elif chosen == "table":
        for one in found:
            table(one)
    else:
        typer.echo(_text(chosen, found, records, suite), nl=False)


def _text(form: str, found: list[Board], records: list[Record], suite: str | None) -> str:
    from carrara.bench.board_text import markdown, table_text, values

    if form == "json":
        return json.dumps(values(found), ensure_ascii=False, indent=1) + "\n"
    if form == "markdown":
        return "\n".join(markdown(one) for one in found)
    if form == "html":
        from carrara.bench.report import report

        return report(records, suite=suite)
    return "\n".join(table_text(one) for one in found)
