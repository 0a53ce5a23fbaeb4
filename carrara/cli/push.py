"""`carrara push`: upload an encoder's folder to the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from carrara.cli._echo import echo


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of an encoder, for example of a training run.")],
    repository: Annotated[str, typer.Argument(help="Repository on the hub, org/name.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Upload an encoder to the Hugging Face hub: weights, config, model card and the plot of its log.

    - `carrara push my-mert my-name/my-mert`
    - `carrara push my-mert my-name/my-mert --private`
    - `carrara push exported my-lab/mert-variant --json`

    Log in once with `hf auth login`, or set HF_TOKEN. Then `carrara.load("my-name/my-mert")` loads it anywhere.
    Checkpoints, run.json and labels stay here. Read README.md first: it is what the hub shows.
    """
    from carrara.core.errors import UsageError
    from carrara.encoders._hub.spec import CONFIG, check_repository

    # Whatever can be wrong in the command is looked at before torch is imported.
    if not (folder / CONFIG).is_file():
        problem = f"holds no {CONFIG}" if folder.is_dir() else "there is no such folder"
        raise UsageError(f"{folder}: {problem}; give the folder of a training run or of `carrara export`")
    check_repository(repository)

    from carrara.encoders._hub.push import push_encoder

    address = push_encoder(folder, repository, private)
    if as_json:
        echo(json.dumps({"repository": repository, "commit": address}))
        return
    echo(address)
    echo(f'`carrara.load("{repository}")` loads it', err=True)
