"""`carrara bench`: measure representations on tasks under one protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def bench(
    encoders: Annotated[
        list[str],
        typer.Argument(help="Shelf names, folders or hub ids; NAME:random is the same network with random weights."),
    ],
    suite: Annotated[
        str | None, typer.Option(help="A named list of tasks (`carrara ls suites`); pebble when nothing is asked for.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "-t", help="Task names, with commas or repeated; patterns such as 'pebble/*'."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the records.")] = Path("results"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    overwrite: Annotated[
        Literal["never", "missing", "always"],
        typer.Option(help="Measure again: never, when there is no record of this very task, always."),
    ] = "missing",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use so many clips a side at most; marks the records as partial.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the probes' draws.")] = 1234,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as a JSON list.")] = False,
) -> None:
    """Measure representations: extract, train the whole probe grid, choose on validation, test once.

    - `carrara bench chroma-mfcc noise --suite pebble`
    - `carrara bench carrara-demo/mert carrara-demo/mert:random -t pebble/key -o results`
    - `carrara bench mert-tiny:random -t 'pebble/*' --limit 50 --json`
    """
    from carrara.app.shelves import chosen_tasks
    from carrara.bench.run import bench as measure
    from carrara.encoders._load import load
    from carrara.nn.device import pick_device

    names = chosen_tasks(suite, tasks)
    place = pick_device(device)
    records = []
    for spec in encoders:
        encoder = load(spec, place)
        records += measure(
            encoder, names, data_dir=data_dir, results=output, device=place, overwrite=overwrite, limit=limit, seed=seed
        )
    if as_json:
        typer.echo(
            json.dumps([record.model_dump(mode="json", by_alias=True) for record in records], ensure_ascii=False)
        )
        return
    for record in records:
        scores = "  ".join(
            f"{name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for name, score in record.scores.items()
        )
        typer.echo(f"{record.encoder.name}\t{record.task.name}\t{scores}")
    typer.echo(f"{len(records)} records in {output}; `carrara board {output}` ranks them", err=True)
