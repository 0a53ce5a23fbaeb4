"""`carrara pretrain`: teach an encoder on audio without labels, or on tags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

HOW, PROBES = "How it is trained", "What is asked on the way"

Name = Annotated[str, typer.Argument(help="A recipe's name (`carrara ls recipes`).")]
Corpus = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        "-c",
        help="Files, folders, a manifest (.parquet, .csv), tar shards ('s/{0000..0099}.tar'); may be repeated. Recipes "
        "that learn tags: a dataset's name, or a folder with labels.csv.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the encoder to be made.")]
Scale = Annotated[
    str, typer.Option(help="tiny: minutes on a laptop; small: one GPU; base: as published.", rich_help_panel=HOW)
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; may be repeated.", rich_help_panel=HOW),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the whole run, instead of the recipe's.", rich_help_panel=HOW)
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ENCODER",
        help="Begin with these weights: a shelf name, folder, hub id or official file; a former run, or a fairseq "
        "checkpoint, brings its heads along where they fit.",
        rich_help_panel=HOW,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=HOW)]
Probe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK",
        help="Ask this row by a cheap linear probe, scored on validation clips: a task's name or a file of your own "
        "(.toml, .py); with commas or repeated.",
        rich_help_panel=PROBES,
    ),
]
ProbeEvery = Annotated[int, typer.Option(min=1, help="Steps from one probe to the next.", rich_help_panel=PROBES)]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the probes' datasets. [env: CARRARA_DATA]", rich_help_panel=PROBES)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the journal's last line as JSON.")]


def pretrain(
    recipe: Name,
    corpus: Corpus = None,
    output: Output = None,
    scale: Scale = "base",
    changes: Changes = None,
    steps: Steps = None,
    start: Start = None,
    device: Device = "auto",
    probe: Probe = None,
    probe_every: ProbeEvery = 500,
    data_dir: DataDir = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Pre-train an encoder on audio, without labels or on tags; the folder is an encoder from its first checkpoint on.

    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert`
    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert --resume`
    - `carrara pretrain mert-v0 --scale tiny --set masking.mask_length=10 --set targets.cqt.weight=2 -c ~/Music -o wide-mert`
    - `carrara pretrain maest-5s --scale tiny --corpus pebble -o my-maest`
    - `carrara pretrain mert-v1-95m --from m-a-p/MERT-v1-95M -c ~/Music -o further --probe pebble/key,pebble/genre`

    `torchrun --nproc-per-node 2 -m carrara pretrain …` trains on several processes, with the same losses as one.

    Ctrl-C writes a checkpoint first; with --resume the run goes on exactly. The journal is journal.jsonl in the
    folder, and journal.png its picture.
    """
    from carrara.core.errors import UsageError
    from carrara.core.settings import assignments
    from carrara.nn.device import pick_device
    from carrara.pretrain.log_plot import draw
    from carrara.pretrain.run import pretrain as teach

    if not corpus:
        raise UsageError("there is nothing to learn from; give files or folders with --corpus ~/Music")
    if output is None:
        raise UsageError("there is nowhere to write; give the folder of the encoder with -o my-encoder")
    options: dict[str, Any] = {"scale": scale, "changes": assignments(changes or []), "steps": steps, "resume": resume}
    if probe:
        from carrara.cli._probes import probe_of

        options |= {"probe": probe_of(probe, data_dir, pick_device(device)), "probe_every": probe_every}
    try:
        folder = teach(recipe, corpus, output, start=start, device=device, **options)
    except KeyboardInterrupt:
        typer.echo(f"carrara pretrain: stopped; go on with the same command and --resume (run in {output})", err=True)
        raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") == "0":  # under torchrun the leader tells
        draw(folder)
        _tell(folder, as_json)


def _tell(folder: Path, as_json: bool) -> None:
    """Print the journal's last line, and what may be done with what was made."""
    from carrara.pretrain.log_plot import PICTURE
    from carrara.pretrain.metrics_log import NAME, read

    last = read(folder / NAME)[-1]
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **last}))
        return
    typer.echo(f"{folder}\tstep {last['step']}\tloss {last.get('loss', float('nan')):.4f}")
    typer.echo(f"{_next(folder)}; {folder / NAME} holds its journal, {folder / PICTURE} draws it", err=True)


def _next(folder: Path) -> str:
    """Return what is done next with an encoder, or with a codec."""
    from carrara.nn.quantize.rvq_vae import CONFIG, KEY

    codec = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(KEY)
    if codec is None:
        return f"`carrara bench {folder} --suite pebble` measures it"
    told = {"source": "rvq-vae", "weights": folder, "books": codec["books"], "size": codec["size"]}
    settings = " ".join(f"--set targets.codes.{name}={value}" for name, value in told.items())
    return (
        f"`carrara pretrain mert-v1-95m --scale tiny {settings} -c MUSIC -o my-mert` learns from its codes; "
        f"{folder / 'sound'} lets you hear what they keep"
    )
