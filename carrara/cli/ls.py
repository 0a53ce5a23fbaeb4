"""`carrara ls`: list encoders, tasks, datasets, recipes and the other kinds."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="encoders, tasks, data, targets, recipes, protocols, heads, suites or reproductions; by default the "
            "kinds with their counts."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of names and summaries.")] = False,
) -> None:
    """List encoders, tasks, datasets and so on; of encoders also whether they load here or which files they need.

    - `carrara ls`
    - `carrara ls encoders`
    - `carrara ls tasks --json`
    """
    from carrara.cli._registries import KINDS, list_entries

    if kind is None:
        counts = {kind: list(list_entries(kind)) for kind in KINDS}
        rows = [
            {"name": kind, "summary": f"{len(names)}: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"}
            for kind, names in counts.items()
        ]
    else:
        rows = [{"name": entry.name, "summary": entry.summary} for entry in list_entries(kind).values()]
    columns = {"name": [row["name"] for row in rows]}
    if kind == "encoders":
        from carrara.encoders._hub.availability import check_availability

        availability = [check_availability(row["name"]) for row in rows]
        rows = [row | {"status": each.status, "needs": each.needs} for row, each in zip(rows, availability)]
        columns |= {
            "status": [each.status for each in availability],
            "files": [each.summary for each in availability],
        }
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    widths = [max(map(len, column), default=0) for column in columns.values()]
    for row, *cells in zip(rows, *columns.values()):
        typer.echo("  ".join([*(f"{cell:<{width}}" for cell, width in zip(cells, widths)), row["summary"]]))
    if kind is None:
        typer.echo("\n`carrara ls KIND` lists one kind; `carrara show NAME` documents one entry.", err=True)
    elif kind == "encoders":
        typer.echo(
            "\nready: loads by its name. import: loads after `carrara import NAME`, which downloads or reads its "
            "official files; `carrara show NAME` lists their addresses. train: no weights are published; train it with "
            "`carrara pretrain`.",
            err=True,
        )
