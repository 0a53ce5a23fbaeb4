"""`carrara board`: rank what a folder of records holds, or compare two of its systems."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from carrara.bench.leaderboard.ranking import Board
    from carrara.core.record import Record

FORMATS = {".md": "markdown", ".json": "json", ".html": "html", ".tex": "latex"}
RESULTS = "results"


def leaderboard(
    results: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RESULTS | compare A B",
            help="Folder of the records; or the word compare and two of its systems, for their differences row by row.",
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--results", help="Folder of the records, by default results.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="Only this suite's rows, and all of them (`carrara ls suites`).")
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Beside marble-14's rows show what the thesis prints, unranked."),
    ] = False,
    source: Annotated[
        list[str] | None, typer.Option(help="Published table, such as thesis-T4.1; by default thesis-T6.2 and T6.3.")
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "json", "html", "latex"] | None,
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
    - `carrara board results --published -o board.html`
    - `carrara board compare my-mert chroma-mfcc`
    """
    from carrara.bench.leaderboard.published import DEFAULT
    from carrara.core.errors import UsageError

    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} ask for different things; give one of them")
    chosen = "json" if as_json else form or FORMATS.get(output.suffix if output else "", "table")
    words = results or []
    if words[:1] == ["compare"] and not (len(words) == 1 and Path("compare").is_dir()):
        if published or source:
            raise UsageError("published scores have no test clips to compare on; leave --published and --source away")
        _compare(words[1:], folder or Path(RESULTS), suite, chosen, output)
        return
    if len(words) > 1 or (words and folder):
        raise UsageError("give one folder of records; for two systems: `carrara board compare A B --results DIR`")
    place = Path(words[0]) if words else folder or Path(RESULTS)
    _rank(place, suite, source or (DEFAULT if published else ()), chosen, output)


def _rank(place: Path, suite: str | None, sources: Sequence[str], form: str, output: Path | None) -> None:
    from carrara.bench.leaderboard.published import with_published
    from carrara.bench.leaderboard.ranking import boards
    from carrara.core.errors import UsageError

    records = _records(place)
    found = boards(records, suite)
    if not found:
        raise UsageError(f"--suite {suite}: none of these records is of its rows")
    if sources:
        found = with_published(found, sources)
    if output is None and form == "table":
        from carrara.bench.leaderboard.text import table

        for one in found:
            table(one)
    elif form == "html":
        from carrara.bench.report.page import report

        _give(report(records, suite=suite, sources=sources), output)
    else:
        _give(_text(form, found), output)


def _records(place: Path) -> list[Record]:
    from carrara.core.errors import UsageError
    from carrara.core.record import read_records

    records = list(read_records(place))
    if not records:
        raise UsageError(f"{place}: no records in it; `carrara bench ENCODER -o {place}` makes some")
    return records


def _compare(names: list[str], place: Path, suite: str | None, form: str, output: Path | None) -> None:
    from carrara.bench.leaderboard.compare import compare
    from carrara.bench.leaderboard.compare_text import table, table_text, values
    from carrara.core.errors import UsageError

    if len(names) != 2:
        raise UsageError(f"compare takes two systems, not {len(names)}: `carrara board compare A B --results {place}`")
    if form not in ("table", "json"):
        raise UsageError(f"a comparison is a table or JSON, not {form}; leave --format away or give --json")
    found = compare(_records(place), names[0], names[1], place, suite)
    if form == "json":
        _give(json.dumps(values(found), ensure_ascii=False, indent=1) + "\n", output)
    elif output is None:
        table(found)
    else:
        _give(table_text(found), output)


def _give(text: str, output: Path | None) -> None:
    from carrara.core.io import write_text

    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"wrote {output}", err=True)


def _text(form: str, found: list[Board]) -> str:
    from carrara.bench.leaderboard.latex import latex
    from carrara.bench.leaderboard.text import markdown, table_text, values

    if form == "json":
        return json.dumps(values(found), ensure_ascii=False, indent=1) + "\n"
    if form == "table":
        return "\n".join(table_text(one) for one in found)
    write = markdown if form == "markdown" else latex
    return "\n".join(write(one) for one in found)
