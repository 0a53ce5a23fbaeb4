"""`carrara export`: write an encoder for transformers, for Carrara, or as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from carrara.cli._echo import echo


def export(
    encoder: Annotated[str, typer.Argument(help="Registered name, folder or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: Annotated[
        Literal["transformers", "carrara", "onnx"],
        typer.Option("--format", "-f", help="For HubertModel and Data2VecAudioModel, for Carrara, or for any runtime."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write an encoder in another format, and read it back to check that it gives the same features.

    - `carrara export mert-v1-95m --format transformers -o mert-for-transformers`
    - `carrara export my-mert --format onnx -o my-mert-onnx`
    - `carrara export mert-v1-95m --format carrara -o to-share`

    ONNX holds the front end too: MERT and its kind, MusicFM, MuQ, mel-conformer, MAEST, mel-patch, MusiCNN,
    EffNet-Discogs, CLMR and MULE; clips of one length in a batch. It needs `pip install 'carrara[onnx]'`.
    """
    from carrara.cli._checks import check_encoder, check_output_folder

    # Whatever can be wrong in the command is looked at before torch is imported.
    check_encoder(encoder)
    check_output_folder(output)

    from carrara.encoders._hub.export import export_encoder
    from carrara.encoders._hub.load import load

    loaded = load(encoder)
    folder = export_encoder(loaded, target, output, source=encoder)
    if as_json:
        echo(json.dumps({"folder": str(folder), "format": target, "weights_sha256": loaded.card.weights_sha256}))
        return
    echo(str(folder))
    echo(f"{loaded.card.name}: written for {target} and read back; the features are the same", err=True)
