"""`carrara import`: official weights made into a folder that loads by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def import_(
    name: Annotated[str, typer.Argument(help="An encoder (`carrara ls encoders`), or a family for all of its own.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "--wheel",
            "--checkpoint",
            help="File or folder as its authors publish it: safetensors, .bin, a fairseq checkpoint, a wheel, …; "
            "without it the official files are fetched.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make; by default where NAME is loaded from.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Stretch a MAEST's positions of another length to NAME's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the folders by name.")] = False,
) -> None:
    """Take an encoder's official weights, check and convert them; from then on it loads by its name.

    - `carrara import mert-v1-95m`
    - `carrara import mert-v1-95m --file MERT-v1-95M_fairseq.pt`
    - `carrara import maest-10s --file discogs-maest-30s-pw-129e-swa.ckpt --interpolate -o maest-10-of-30`
    - `carrara import musicnn-mtt --wheel musicnn-0.1.0-py3-none-any.whl -o my-musicnn`

    Nothing in the files is run. Whatever they do not share with the network is told by name, and nothing is written.
    Of a family, those that can be had are made; the others are told, a line each.
    Heads of pre-training are kept where the file has them (fairseq's checkpoints do), so that training can go on.
    """
    from carrara.encoders._hub.import_official import import_official

    done = import_official(name, file, output, interpolate)
    if as_json:
        typer.echo(json.dumps({variant: str(folder) for variant, folder in done.folders.items()}))
    else:
        for variant, folder in done.folders.items():
            typer.echo(f"{variant}\t{folder}")
    for remark in done.remarks:
        typer.echo(remark, err=True)
    for problem in done.failures.values():
        typer.echo(f"carrara import: {problem}", err=True)
    if done.failures:
        raise typer.Exit(1)
    if not as_json:
        typer.echo(
            f"{', '.join(done.folders)}: checked and converted; the licence is in each folder's README.md", err=True
        )
