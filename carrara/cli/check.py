"""`carrara check`: compare a dataset on disk with what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from carrara.data._check import Check

SHOWN = 20


def check(
    dataset: Annotated[str, typer.Argument(help="A name from `carrara ls data`.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a dataset on disk with its annotations, golden counts and splits; exit 1 if anything differs.

    Names what is missing, extra, unreadable, of a wrong length or there twice, what stands on two sides of a split, and
    what a score on this copy may be called.

    - `carrara check pebble`
    - `carrara check pebble --json`
    - `carrara check pebble --data-dir /data/music`
    """
    from carrara.data import REGISTRY

    thing = REGISTRY.get(dataset)
    found = thing.check(thing.root(data_dir))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        _tell(dataset, found)
    if not found.ok:
        raise typer.Exit(1)


def _tell(dataset: str, found: Check) -> None:
    typer.echo(f"{dataset}: {found.found} clips found, {len(found.missing)} missing, {len(found.extra)} files extra")
    for split, counts in found.counts.items():
        typer.echo(f"  {split}: " + ", ".join(f"{side} {count:,}" for side, count in counts.items()))
    lines = {
        "missing": list(found.missing),
        "extra": list(found.extra),
        "unreadable": list(found.unreadable.values()),
        "wrong length": [f"{clip}: {what}" for clip, what in found.wrong_length.items()],
        "the same sound": [" = ".join(ids) for ids in found.duplicates],
        "count differs": list(found.differing),
        "leak": [f"{leak.group} stands in {' and '.join(leak.sides)} of {leak.split}" for leak in found.leaks],
    }
    for kind, ones in lines.items():
        for one in ones[:SHOWN]:
            typer.echo(f"  {kind}: {one}")
        if len(ones) > SHOWN:
            typer.echo(f"  {kind}: and {len(ones) - SHOWN} more (--json has all)")
    for name in found.called.values():
        typer.echo(f"  a score on this copy may be called: {name}")
    typer.echo(f"  {'as it should be' if found.ok else 'not as it should be'}")
