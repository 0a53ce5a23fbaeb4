"""`carrara get`: put a dataset on this machine, or say exactly how to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def download(
    dataset: Annotated[str, typer.Argument(help="A name from `carrara ls data`.")],
    size: Annotated[
        str | None, typer.Option(help="For datasets that come in sizes; Pebble: demo (default), small, full.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
) -> None:
    """Put a dataset on this machine; what is there already is kept, what was begun goes on.

    - `carrara get pebble`
    - `carrara get pebble --size small`
    - `carrara get gtzan --data-dir /data/music`

    What no program may download is told as steps to take by hand, and the exit code is then 1.
    """
    from carrara.data import REGISTRY

    thing = REGISTRY.get(dataset)
    root = thing.root(data_dir) if size is None else thing.sized(data_dir, size)
    steps = thing.get(root, size)
    typer.echo(str(root))
    if steps:
        typer.echo(f"{dataset}: what could be downloaded is at {root}. The rest is by hand:\n{steps}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{dataset} is at {root}; `carrara check {dataset}` looks at every file", err=True)
