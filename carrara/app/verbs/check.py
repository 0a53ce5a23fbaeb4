"""`carrara check`: compare a dataset on disk with what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    dataset: Annotated[str, typer.Argument(help="A name from `carrara ls data`.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a dataset on disk with its annotations, golden counts and splits; exit 1 if anything differs.

    - `carrara check pebble`
    - `carrara check pebble --json`
    - `carrara check pebble --data-dir /data/music`
    """
    from carrara.data import SHELF

    thing = SHELF.get(dataset)
    found = thing.check(thing.root(data_dir))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        typer.echo(f"{dataset}: {found.found} clips found, {len(found.missing)} missing")
        for split, counts in found.counts.items():
            typer.echo(f"  {split}: " + ", ".join(f"{side} {count}" for side, count in counts.items()))
        problems = [
            *(f"missing: {clip}" for clip in found.missing[:20]),
            *(f"unreadable: {reason}" for reason in found.unreadable.values()),
            *(f"count differs: {line}" for line in found.differing),
            *(f"leak: {leak.group} stands in {' and '.join(leak.sides)} of {leak.split}" for leak in found.leaks[:20]),
        ]
        for line in problems:
            typer.echo(f"  {line}")
        typer.echo(f"  {'as it should be' if found.ok else 'not as it should be'}")
    if not found.ok:
        raise typer.Exit(1)
