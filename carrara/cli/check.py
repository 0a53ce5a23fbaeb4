"""`carrara check`: compare a dataset on disk with its annotations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.data._base import Dataset

MAX_LINES = 20


def check(
    dataset: Annotated[str, typer.Argument(help="A name from `carrara ls data`.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a dataset on disk with its annotations, expected counts and splits; exit 1 if anything differs.

    - `carrara check pebble`
    - `carrara check pebble --json`
    - `carrara check pebble --data-dir /data/music`

    Lists files that are missing, extra, unreadable, of a wrong length or duplicated, groups that occur in two splits,
    and what scores on this copy are comparable with.
    """
    from carrara.data import REGISTRY

    definition: Dataset = REGISTRY.get(dataset)
    report = definition.check(definition.root(data_dir))
    if as_json:
        echo(report.model_dump_json(indent=1))
    else:
        echo(f"{dataset}: {report.found} clips found, {len(report.missing)} missing, {len(report.extra)} extra files")
        for scheme, counts in report.counts.items():
            echo(f"  {scheme}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items()))
        faults = {
            "missing": list(report.missing),
            "extra": list(report.extra),
            "unreadable": list(report.unreadable.values()),
            "wrong length": [f"{clip}: {lengths}" for clip, lengths in report.wrong_length.items()],
            "duplicates": [" = ".join(ids) for ids in report.duplicates],
            "count differs": list(report.differing),
            "leak": [f"{leak.group} is in {' and '.join(leak.splits)} of {leak.split_scheme}" for leak in report.leaks],
        }
        for kind, lines in faults.items():
            for line in lines[:MAX_LINES]:
                echo(f"  {kind}: {line}")
            if len(lines) > MAX_LINES:
                echo(f"  {kind}: and {len(lines) - MAX_LINES} more (--json lists all)")
        for comparability in report.comparability.values():
            echo(f"  scores on this copy: {comparability}")
        echo(f"  {'complete and correct' if report.ok else 'not as expected'}")
    if not report.ok:
        raise typer.Exit(1)
