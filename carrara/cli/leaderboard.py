"""`carrara leaderboard`: rank the systems that a folder of records holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carrara.cli._echo import echo
from carrara.core.printable import printable

if TYPE_CHECKING:
    from carrara.bench.leaderboard.ranking import Leaderboard
    from carrara.core.record import Record

FORMATS = {
    ".md": "markdown",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
    ".tex": "latex",
    ".png": "picture",
    ".txt": "table",
}

Format = Annotated[
    Literal["table", "markdown", "csv", "json", "html", "latex", "picture"] | None,
    typer.Option("--format", help="By default by the ending of --output, else table; html is the full report."),
]
OutputFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file (.md, .csv, .json, .html, .tex, .png, .txt); - prints."),
]
FigureFile = Annotated[
    Path | None,
    typer.Option(
        "--figure",
        metavar="FILE",
        help="Draw scores by task type, and by level against hours of training audio (.png, .svg).",
    ),
]
SiteFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write pages with search, filters, systems, tasks and comparisons here."),
]
SoundFolder = Annotated[
    Path | None,
    typer.Option(metavar="DATASETS", help="For --site: copy the sound of each task's hardest clips from here."),
]
MtebFolder = Annotated[
    Path | None,
    typer.Option(
        "--mteb", metavar="DIR", help="Write MTEB's result files of records whose task MTEB has (Song Describer)."
    ),
]


def leaderboard(
    results: Annotated[Path, typer.Argument(help="Folder of the records.")] = Path("results"),
    suite: Annotated[
        str | None,
        typer.Option(help="Show all tasks of this suite, measured or not, and no other (`carrara ls suites`)."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Add the thesis's tables 6.2 and 6.3, of marble-v2 MERT-v2's card; unranked, needs no records.",
        ),
    ] = False,
    source: Annotated[
        list[str] | None, typer.Option(help="Add the systems of this table, such as thesis-T4.1; may be repeated.")
    ] = None,
    form: Format = None,
    output: OutputFile = None,
    figure: FigureFile = None,
    site: SiteFolder = None,
    data_dir: SoundFolder = None,
    mteb: MtebFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Rank the systems whose records a folder holds, each score with its 95 % interval.

    - `carrara leaderboard`
    - `carrara leaderboard carrara-demo/results --suite pebble --json`
    - `carrara leaderboard results --published -o leaderboard.html`
    - `carrara leaderboard results --site site`, then open site/index.html
    - `carrara leaderboard results --mteb mteb`
    - `carrara leaderboard --published --suite marble-v2`
    - `carrara leaderboard results --published --figure figures.png`

    Ranks compare the tasks that all systems have. `carrara compare A B` tests two systems task by task.
    """
    from carrara.cli._outputs import check_ending

    if output is not None:
        check_ending(output, FORMATS)
    from carrara.bench.leaderboard import tables
    from carrara.bench.leaderboard.published import DEFAULT_SOURCES, SUITE_SOURCES
    from carrara.bench.leaderboard.ranking import add_published, build_leaderboards
    from carrara.core.errors import UsageError

    if str(output) == "-":
        output = None
    if data_dir is not None and (site is None or not data_dir.is_dir()):
        raise UsageError(f"--data-dir {data_dir}: " + ("no such folder" if site else "goes with --site DIR"))
    if mteb is not None and (site is not None or figure is not None or published or source):
        raise UsageError("--mteb writes result files alone; leave out --site, --figure, --published and --source")
    chosen = _choose_format("json" if as_json and form is None else form, output, as_json, site or mteb)
    sources = source or (SUITE_SOURCES.get(suite or "", DEFAULT_SOURCES) if published else ())
    records = _read_records(results, needs_some=site is not None or mteb is not None or not sources)
    leaderboards = build_leaderboards(records, suite)
    if records and not leaderboards and not sources:
        raise UsageError(f"--suite {suite}: none of the records in {results} is of its tasks")
    if mteb is not None:
        _write_mteb(mteb, records, results, chosen == "json")
        return
    if site is not None:
        _write_site(site, records, results, suite, source or DEFAULT_SOURCES, data_dir, chosen == "json")
        return
    if sources:
        leaderboards = add_published(leaderboards, sources, suite)

    if figure is not None or chosen == "picture":
        _draw(leaderboards, output, figure)
        return
    if chosen == "table" and output is None:
        for each in leaderboards:
            tables.print_leaderboard(each)
        return
    if chosen == "html":
        from carrara.bench.report.page import render_report

        text = render_report(records, suite=suite, sources=sources, results=results)
    else:
        text = _to_text(chosen, leaderboards)
    _write_text(text, output)


def _write_text(text: str, output: Path | None) -> None:
    from carrara.core.io import write_text

    if output is None:
        echo(text, nl=False)
    else:
        write_text(output, printable(text))
        echo(f"wrote {output}", err=True)


def _choose_format(form: str | None, output: Path | None, as_json: bool, folder: Path | None) -> str:
    from carrara.core.errors import UsageError

    ending = FORMATS.get(output.suffix.lower()) if output else None
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other; give one of them")
    if form and ending and form != ending:
        raise UsageError(f"--format {form} and -o {output} contradict each other; give one of them")
    if folder is not None and (output is not None or form not in (None, "json")):
        raise UsageError("--site and --mteb write folders; leave out -o and --format, or give them in a second command")
    return form or ending or "table"


def _write_site(
    site: Path,
    records: list[Record],
    results: Path,
    suite: str | None,
    sources: Sequence[str],
    data_dir: Path | None,
    as_json: bool,
) -> None:
    from carrara.bench.site.write import write_site

    summary = write_site(site, records, results, suite, sources, data_dir)
    if as_json:
        echo(json.dumps(asdict(summary), default=str))
        return
    echo(
        f"{summary.page}\t{summary.systems} systems, {summary.tasks} tasks, {summary.records} records, "
        f"{summary.pairs} pairs compared"
    )


def _write_mteb(folder: Path, records: list[Record], results: Path, as_json: bool) -> None:
    from carrara.bench.leaderboard.mteb_results import write_mteb_results

    written = write_mteb_results(records, results, folder)
    for path in written:
        echo(json.dumps({"path": str(path)}) if as_json else str(path))
    if others := len(records) - len(written):
        echo(f"left out: {others} records of tasks that MTEB does not have as they are", err=True)


def _read_records(results: Path, needs_some: bool) -> list[Record]:
    """Return the records of a folder; published systems alone need neither records nor folder."""
    from carrara.core.errors import UsageError
    from carrara.core.record import read_records

    records = list(read_records(results)) if needs_some or results.exists() else []
    if needs_some and not records:
        raise UsageError(f"{results}: no records in it; `carrara bench ENCODER -o {results}` writes some")
    return records


def _to_text(form: str, leaderboards: list[Leaderboard]) -> str:
    from carrara.bench.leaderboard import tables

    if form == "json":
        return json.dumps(tables.to_values(leaderboards), ensure_ascii=False, indent=1) + "\n"
    if form == "csv":
        return tables.to_csv(leaderboards)
    write = {"table": tables.to_text, "markdown": tables.to_markdown, "latex": tables.to_latex}[form]
    return "\n".join(write(each) for each in leaderboards)


def _draw(leaderboards: list[Leaderboard], output: Path | None, figure: Path | None) -> None:
    from carrara.bench.leaderboard.figures import draw_figures
    from carrara.bench.leaderboard.picture import draw_leaderboard
    from carrara.core.errors import UsageError

    if figure is None and output is None:
        raise UsageError("--format picture needs a file: -o leaderboard.png")
    if figure is not None and output is not None:
        raise UsageError("--figure writes a picture of its own; leave out -o and --format, or give them alone")
    if len(leaderboards) > 1:
        titles = "; ".join(each.title for each in leaderboards)
        raise UsageError(f"a picture shows one leaderboard, the records have {titles}; give --suite")
    written = draw_figures(figure, leaderboards[0]) if figure else draw_leaderboard(output or "", leaderboards[0])
    echo(f"wrote {written}", err=True)
