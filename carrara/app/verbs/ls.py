"""`carrara ls`: what stands on a shelf."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def ls(
    shelf: Annotated[
        str | None,
        typer.Argument(help="encoders, tasks, data, targets, recipes, protocols or suites; none: all, counted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of names and summaries.")] = False,
) -> None:
    """List what stands on a shelf.

    - `carrara ls`
    - `carrara ls encoders`
    - `carrara ls tasks --json`
    """
    from carrara.app.shelves import WORDS, entries

    if shelf is None:
        found = [
            {"name": word, "summary": f"{len(entries(word))}: {', '.join(list(entries(word))[:6])} …"} for word in WORDS
        ]
    else:
        found = [{"name": entry.name, "summary": entry.summary} for entry in entries(shelf).values()]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    width = max((len(row["name"]) for row in found), default=0)
    for row in found:
        typer.echo(f"{row['name']:<{width}}  {row['summary']}")
    if shelf is None:
        typer.echo("\n`carrara ls SHELF` lists one; `carrara show NAME` tells all about one thing.", err=True)
