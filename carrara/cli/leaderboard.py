"""`carrara leaderboard`: rank the systems that a folder of records holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

FORMATS = {".md": "markdown", ".json": "json", ".html": "html", ".tex": "latex", ".png": "picture"}


def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder of the records.")] = Path("results"),
    suite: Annotated[
        str | None,
        typer.Option(help="Show all tasks of this suite, measured or not, and no other (`carrara ls suites`)."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Add the systems of the thesis's tables 6.2 and 6.3, unranked, to marble-14."),
    ] = False,
    source: Annotated[
        list[str] | None, typer.Option(help="Add the systems of this table, such as thesis-T4.1; may be repeated.")
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "json", "html", "latex", "picture"] | None,
        typer.Option("--format", help="By default by the ending of --output, else table; html is the full report."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead of standard output.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Rank the systems whose records a folder holds, each score with its 95 % interval.

    - `carrara leaderboard`
    - `carrara leaderboard carrara-demo/results --suite pebble --json`
    - `carrara leaderboard results --published -o leaderboard.html`

    Ranks compare the tasks that all systems have. `carrara compare A B` tests two systems task by task.
    """
    from carrara.bench.leaderboard import tables
    from carrara.bench.leaderboard.published import DEFAULT_SOURCES
    from carrara.bench.leaderboard.ranking import add_published, build_leaderboards
    from carrara.core.errors import UsageError
    from carrara.core.io import write_text
    from carrara.core.record import read_records

    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other; give one of them")
    chosen = "json" if as_json else form or FORMATS.get(output.suffix if output else "", "table")
    sources = source or (DEFAULT_SOURCES if published else ())
    records = list(read_records(results))
    if not records:
        raise UsageError(f"{results}: no records in it; `carrara bench ENCODER -o {results}` writes some")
    leaderboards = build_leaderboards(records, suite)
    if not leaderboards:
        raise UsageError(f"--suite {suite}: none of the records in {results} is of its tasks")
    if sources:
        leaderboards = add_published(leaderboards, sources)

    if chosen == "picture":
        from carrara.bench.leaderboard.picture import draw_leaderboard

        if output is None:
            raise UsageError("--format picture needs a file: -o leaderboard.png")
        if len(leaderboards) > 1:
            titles = "; ".join(each.title for each in leaderboards)
            raise UsageError(f"a picture shows one leaderboard, {results} has {titles}; give --suite")
        draw_leaderboard(output, leaderboards[0])
        typer.echo(f"wrote {output}", err=True)
        return
    if chosen == "table" and output is None:
        for each in leaderboards:
            tables.print_leaderboard(each)
        return
    if chosen == "html":
        from carrara.bench.report.page import render_report

        text = render_report(records, suite=suite, sources=sources)
    elif chosen == "json":
        text = json.dumps(tables.to_values(leaderboards), ensure_ascii=False, indent=1) + "\n"
    else:
        write = {"table": tables.to_text, "markdown": tables.to_markdown, "latex": tables.to_latex}[chosen]
        text = "\n".join(write(each) for each in leaderboards)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"wrote {output}", err=True)
