"""`carrara submit`: submit records to a leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def submit(
    paths: Annotated[list[Path], typer.Argument(metavar="RECORD…", help="Records, or folders of them.")],
    url: Annotated[str, typer.Option(help="Address of the leaderboard.")],
    token: Annotated[
        str, typer.Option(envvar="CARRARA_TOKEN", help="Token of the leaderboard; better in the variable than typed.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each record.")] = False,
) -> None:
    """Submit records to a leaderboard that takes them, each verified here first; exit 1 if one is refused.

    - `carrara submit results --url https://leaderboard.example.org`
    - `carrara submit results/mert/*/constrained/gtzan__genre@1.json --url https://leaderboard.example.org`
    - `carrara submit results --url http://127.0.0.1:8300 --token carrara_… --json`

    The predictions beside a record are submitted with it. Run the command again to continue where it stopped: records
    that are there already are named and left alone. `carrara verify-record` verifies without submitting.
    """
    from carrara.core.errors import UsageError
    from carrara.core.record import find_record_files

    files = find_record_files(paths)
    if not token:
        raise UsageError("no token; ask the leaderboard's owner for one, and set CARRARA_TOKEN or give --token")
    from carrara.web.leaderboard.submit import submit_records

    counts: dict[str, int] = {}
    for result in submit_records(files, url, token):
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
        if as_json:
            echo(json.dumps({"path": str(result.path), "outcome": result.outcome, "detail": result.detail}))
        else:
            echo(f"{result.path}: {result.outcome}: {result.detail}")
    echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), err=True)
    if "refused" in counts:
        raise typer.Exit(1)
