"""`carrara pretrain`: teach an encoder on audio without labels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`carrara ls recipes`).")],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            "--corpus",
            "-c",
            help="Files, folders, a manifest (.parquet, .csv), tar shards ('s/{0000..0099}.tar'); may be repeated.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the encoder to be made.")] = None,
    scale: Annotated[str, typer.Option(help="tiny: minutes on a laptop; small: one GPU; base: as published.")] = "base",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the whole run, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the journal's last line as JSON.")] = False,
) -> None:
    """Pre-train an encoder on audio without labels; the folder it makes is an encoder from its first checkpoint on.

    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert`
    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert --resume`
    - `carrara pretrain mert-v0 --scale tiny --set masking.span=10 --set targets.cqt.weight=2 -c ~/Music -o wide-mert`

    `torchrun --nproc-per-node 2 -m carrara pretrain …` trains on several processes, with the same losses as one.

    Ctrl-C writes a checkpoint first; with --resume the run goes on exactly. The journal is journal.jsonl in the folder.
    """
    from carrara.core.errors import UsageError
    from carrara.core.settings import assignments
    from carrara.pretrain.journal import NAME, read
    from carrara.pretrain.run import pretrain as teach

    if not corpus:
        raise UsageError("there is nothing to learn from; give files or folders with --corpus ~/Music")
    if output is None:
        raise UsageError("there is nowhere to write; give the folder of the encoder with -o my-encoder")
    wanted = assignments(changes or [])
    try:
        folder = teach(recipe, corpus, output, scale=scale, changes=wanted, steps=steps, resume=resume, device=device)
    except KeyboardInterrupt:
        typer.echo(f"carrara pretrain: stopped; go on with the same command and --resume (run in {output})", err=True)
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the leader tells
    last = read(folder / NAME)[-1]
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **last}))
        return
    typer.echo(f"{folder}\tstep {last['step']}\tloss {last.get('loss', float('nan')):.4f}")
    typer.echo(f"`carrara bench {folder} --suite pebble` measures it; {folder / NAME} holds its journal", err=True)
