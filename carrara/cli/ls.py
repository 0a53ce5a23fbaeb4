"""`carrara ls`: what stands on a shelf."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def ls(
    shelf: Annotated[
        str | None,
        typer.Argument(help="encoders, tasks, data, targets, recipes, protocols or suites; none: all, counted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of names and summaries.")] = False,
) -> None:
    """List what stands on a shelf; of encoders also whether they are ready on this machine, or which files they need.

    - `carrara ls`
    - `carrara ls encoders`
    - `carrara ls tasks --json`
    """
    from carrara.cli._registries import WORDS, entries

    found: list[dict[str, Any]]
    if shelf is None:
        found = [
            {"name": word, "summary": f"{len(entries(word))}: {', '.join(list(entries(word))[:6])} …"} for word in WORDS
        ]
    else:
        found = [
            {"name": entry.name, "summary": entry.summary, **(_state(entry.name) if shelf == "encoders" else {})}
            for entry in entries(shelf).values()
        ]
    if as_json:
        shown = [{key: value for key, value in row.items() if key != "briefly"} for row in found]
        typer.echo(json.dumps(shown, ensure_ascii=False, indent=1))
        return
    columns = ("name", "state", "briefly") if shelf == "encoders" else ("name",)
    widths = {key: max((len(row[key]) for row in found), default=0) for key in columns}
    for row in found:
        typer.echo("  ".join([*(f"{row[key]:<{width}}" for key, width in widths.items()), row["summary"]]))
    if shelf is None:
        typer.echo("\n`carrara ls REGISTRY` lists one; `carrara show NAME` tells all about one thing.", err=True)
    elif shelf == "encoders":
        typer.echo(
            "\nready: loads by its name. import: `carrara import NAME` fetches or takes its official files first; "
            "`carrara show NAME` gives their addresses. train: nobody publishes any; `carrara pretrain` makes some.",
            err=True,
        )


def _state(name: str) -> dict[str, Any]:
    from carrara.encoders._hub.availability import state

    found = state(name)
    return {"state": found.word, "needs": found.needs, "briefly": found.briefly}
