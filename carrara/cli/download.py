"""`carrara download`: download a dataset, or print the steps that remain to be done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.data._base import Dataset


def download(
    dataset: Annotated[
        str, typer.Argument(help="A name from `carrara ls data`.", autocompletion=complete_names("data"))
    ],
    size: Annotated[
        str | None, typer.Option(help="For datasets that come in sizes; Pebble: tiny, demo (default), small, full.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the datasets. [env: CARRARA_DATA]")] = None,
) -> None:
    """Download a dataset; existing files are kept and partial downloads resume.

    - `carrara download pebble`
    - `carrara download pebble --size small`
    - `carrara download gtzan --data-dir /data/music`

    Where a host requires steps by hand, they are printed at once, before the download, and the exit code is 1.
    """
    from carrara.cli._layout import reflow
    from carrara.core.printable import output_width
    from carrara.data import REGISTRY

    definition: Dataset = REGISTRY.get(dataset)
    root = definition.root(data_dir) if size is None else definition.root_for_size(data_dir, size)
    # Before the download, which may fail or take hours.
    if steps := definition.remaining_steps(root):
        steps = steps.replace(f"carrara check {dataset}", definition.check_command(data_dir))
        steps = reflow(steps, output_width())
        echo(f"{dataset}: these steps are left by hand; what can be downloaded follows:\n{steps}", err=True)
    is_left = definition.download(root, size)
    echo(str(root))
    if is_left:
        echo(f"{dataset}: {root} holds what could be downloaded; the steps above are left by hand", err=True)
        raise typer.Exit(1)
    command = definition.check_command(data_dir if size is None else root)
    echo(f"{dataset} is at {root}; `{command}` checks every file", err=True)
