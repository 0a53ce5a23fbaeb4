"""`carrara import`: convert official weights to a folder that loads by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo


def import_(
    name: Annotated[
        str,
        typer.Argument(
            help="An encoder (`carrara ls encoders`), or a family for all its encoders.",
            autocompletion=complete_names("encoders"),
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "--wheel",
            "--checkpoint",
            help="File or folder as its authors publish it: safetensors, .bin, a fairseq checkpoint, a wheel, …; by "
            "default the official files are downloaded.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; by default the one that NAME loads from.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Interpolate a MAEST's positions of another length to NAME's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the folders by name.")] = False,
) -> None:
    """Check and convert an encoder's official weights, so that it loads by its name.

    - `carrara import mert-v1-95m`
    - `carrara import mert-v1-95m --file MERT-v1-95M_fairseq.pt`
    - `carrara import maest-10s --file discogs-maest-30s-pw-129e-swa.ckpt --interpolate -o maest-10-of-30`
    - `carrara import musicnn-mtt --wheel musicnn-0.1.0-py3-none-any.whl -o my-musicnn`

    Nothing in the files is executed. Where their tensors differ from the network's, the names are listed and nothing is
    written. Of a family, every encoder that is available is imported, and the others are listed. Pre-training heads are
    kept where the file has them (fairseq checkpoints do), so that pre-training can continue.
    """
    from carrara.cli._checks import check_output_folder
    from carrara.core.errors import UsageError
    from carrara.encoders._hub.spec import select_variants

    # Whatever can be wrong in the command is looked at before torch is imported.
    select_variants(name, file)
    if file is not None and not file.expanduser().exists():
        raise UsageError(f"--file {file}: does not exist")
    if output is not None:
        check_output_folder(output)

    from carrara.encoders._hub.import_official import import_official

    result = import_official(name, file, output, interpolate)
    if as_json:
        echo(json.dumps({variant: str(folder) for variant, folder in result.folders.items()}))
    else:
        for variant, folder in result.folders.items():
            echo(f"{variant}\t{folder}")
    for remark in result.remarks:
        echo(remark, err=True)
    for problem in result.failures.values():
        echo(f"carrara import: {problem}", err=True)
    if result.failures:
        raise typer.Exit(1)
    if not as_json:
        names = ", ".join(result.folders)
        echo(f"{names}: checked and converted; the licence is in each folder's README.md", err=True)
