"""`carrara verify-record`: verify records before they are submitted, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def verify_record(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RECORD…", help="Records, or folders of them."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify records: schema, task, protocol, choice, and every score from its predictions; exit 1 if one fails.

    - `carrara verify-record results`
    - `carrara verify-record results/chroma-mfcc/*/constrained/pebble__key@1.json`
    - `carrara verify-record results --json`

    A leaderboard that takes submissions does the same with every record; `carrara submit` uploads them. A record that
    an older version measured may need `carrara bench … --overwrite always`.
    """
    from carrara.bench.verify_record import verify_record_file
    from carrara.core.record import find_record_files

    faulty = 0
    verdicts = []
    for path in find_record_files(paths):
        findings = verify_record_file(path)
        faulty += bool(findings)
        verdicts.append({"path": str(path), "ok": not findings, "findings": [vars(each) for each in findings]})
        if not as_json:
            for each in findings:
                echo(f"{path}: {each}")
            if not findings:
                echo(f"{path}: ok")
    if as_json:
        echo(json.dumps(verdicts, indent=1, ensure_ascii=False))
    else:
        echo(f"{len(verdicts) - faulty} of {len(verdicts)} records are right", err=True)
    if faulty:
        raise typer.Exit(1)
