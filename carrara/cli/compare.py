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
    second: Annotated[str, typer.Argument(metavar="B", help="Another system.")],
    results: Annotated[Path, typer.Option("--results", help="Folder of the records.")] = Path("results"),
    suite: Annotated[str | None, typer.Option(help="Only this suite's tasks (`carrara ls suites`).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, .json or .txt; - prints.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two systems on the same test clips: each task's difference with its 95 % interval and p value.

    - `carrara compare my-mert chroma-mfcc`
    - `carrara compare mert mert:random --results carrara-demo/results --json`
    - `carrara compare my-mert chroma-mfcc --suite pebble -o comparison.json`

    Differences are paired over the test clips, and p is corrected over the compared tasks.
    """
    from carrara.bench.leaderboard.compare import compare_systems, comparison_frame, comparison_notes
    from carrara.bench.leaderboard.tables import frame_to_text, print_frame
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
    comparison = compare_systems(records, first, second, results, suite)
    title, notes = f"{first} against {second}", comparison_notes(comparison)
    if as_json or (output and output.suffix == ".json"):
        text = json.dumps(asdict(comparison), ensure_ascii=False, indent=1) + "\n"
    elif output is None:
        frame = comparison_frame(comparison)
        decided = [name for name, task in zip(frame.index, comparison.tasks) if task.verdict != "undecided"]
        print_frame(title, frame, notes, decided)
        return
    else:
        text = frame_to_text(title, comparison_frame(comparison), notes)
    if output is None:
        echo(text, nl=False)
    else:
        write_text(output, printable(text))
        echo(f"wrote {output}", err=True)
