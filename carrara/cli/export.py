"""`carrara export`: an encoder as a folder for transformers, for Carrara, or as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    encoder: Annotated[str, typer.Argument(help="Registry name, folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    kind: Annotated[
        Literal["transformers", "carrara", "onnx"],
        typer.Option("--format", "-f", help="For HubertModel and Data2VecAudioModel, for Carrara, or for any runtime."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write an encoder in another's format, and read it back to see that it is the same.

    - `carrara export mert-v1-95m --format transformers -o mert-for-transformers`
    - `carrara export my-mert --format onnx -o my-mert-onnx`
    - `carrara export mert-v1-95m --format carrara -o to-give-away`

    ONNX holds networks of HuBERT's and data2vec's shape, for clips of one length in a batch. Its extra: pip install
    'carrara[onnx]'.
    """
    from carrara.encoders._hub.export import export_encoder as write
    from carrara.encoders._hub.load import load

    loaded = load(encoder)
    folder = write(loaded, kind, output, source=encoder)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "format": kind, "weights": loaded.card.weights_sha256}))
        return
    typer.echo(str(folder))
    typer.echo(f"{loaded.card.name}: written for {kind} and read back; the same", err=True)
