"""`carrara get`: put a dataset on this machine, or say exactly how to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def get(
    dataset: Annotated[str, typer.Argument(help="A name from `carrara ls data`.")],
    size: Annotated[
        str | None, typer.Option(help="For datasets that come in sizes; Pebble: demo (default), small, full.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
) -> None:
    """Put a dataset on this machine, or say how; what is there already is kept.

    - `carrara get pebble`
    - `carrara get pebble --size small`
    - `carrara get pebble --data-dir /data/music`
    """
    from carrara.data import SHELF

    thing = SHELF.get(dataset)
    root = thing.root(data_dir) if size is None else thing.root(data_dir, size)
    thing.get(root) if size is None else thing.get(root, size)
    typer.echo(f"{dataset} is at {root}", err=True)
    typer.echo(str(root))
