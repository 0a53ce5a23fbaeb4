"""`carrara compare`: test two systems against each other, task by task."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A system, named as `carrara leaderboard` names it.")],
    second: Annotated[
        str | None,
        typer.Argument(metavar="B", help="Another system. Without it a fusion A+C is compared with A and C."),
    ] = None,
    results: Annotated[Path, typer.Option("--results", help="Folder of the records.")] = Path("results"),
    suite: Annotated[str | None, typer.Option(help="Only this suite's tasks (`carrara ls suites`).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, .json or .txt; - prints.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two systems on the same test clips: differences with 95 % intervals and p values, task by task.

    - `carrara compare my-mert chroma-mfcc`
    - `carrara compare cqt-mel cqt-mel:random --results carrara-demo/results --json`
    - `carrara compare my-mert chroma-mfcc --suite pebble -o comparison.json`
    - `carrara compare chroma+mfcc`: a fusion against each of its parts

    Differences are paired over the test clips, and p is corrected over the compared tasks.
    """
    from carrara.bench.leaderboard.compare import compare_systems, comparison_frame, comparison_notes
    from carrara.bench.leaderboard.tables import print_frame
    from carrara.cli._outputs import check_ending
    from carrara.core.errors import UsageError
    from carrara.core.io import write_text
    from carrara.core.printable import printable
    from carrara.core.record import read_records

    if output is not None:
        check_ending(output, (".json", ".txt"))
    if str(output) == "-":
        output = None
    records = list(read_records(results))
    if not records:
        raise UsageError(f"{results}: no records in it; `carrara bench ENCODER -o {results}` writes some")
    comparisons = [
        compare_systems(records, first, each, results, suite) for each in ([second] if second else _parts(first))
    ]
    if as_json or (output and output.suffix == ".json"):
        values = [asdict(each) for each in comparisons]
        text = json.dumps(values[0] if second else values, ensure_ascii=False, indent=1) + "\n"
    elif output is None:
        for each in comparisons:
            frame = comparison_frame(each)
            decided = [name for name, task in zip(frame.index, each.tasks) if task.verdict != "undecided"]
            print_frame(f"{each.first} against {each.second}", frame, comparison_notes(each), decided)
        return
    else:
        text = "\n".join(map(str, comparisons))
    if output is None:
        echo(text, nl=False)
    else:
        write_text(output, printable(text))
        echo(f"wrote {output}", err=True)


def _parts(system: str) -> list[str]:
    """Return the parts of a fusion.

    Raises:
        UsageError: the system is none.
    """
    from carrara.core.errors import UsageError

    parts = system.removesuffix(":late").split("+")
    if len(parts) < 2:
        raise UsageError(
            f"give two systems: `carrara compare {system} OTHER`; only a fusion A+B is compared with its parts"
        )
    return parts
