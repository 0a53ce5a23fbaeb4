"""`carrara pretrain`: train an encoder on audio without labels, or on tags."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo

RUN_FILE, MAX_CPU_STEPS = "run.json", 1000
SIZES = ("steps", "epochs", "batch", "crop_seconds")
TRAINING, PROBES, PLAN = "Training", "Probes during training", "Plan"

Name = Annotated[
    str, typer.Argument(help="A recipe's name (`carrara ls recipes`).", autocompletion=complete_names("recipes"))
]
Corpus = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        "-c",
        help="Files, folders, a dataset's name (fma, music4all), a manifest (.parquet, .csv), tar shards "
        "('s/{0000..0099}.tar'), Parquet with audio (hf://datasets/ORG/NAME); may be repeated. For recipes that train "
        "on tags: a dataset's name, a folder with labels.csv, or a manifest or shards with tags.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the encoder.")]
Scale = Annotated[
    str, typer.Option(help="tiny: minutes on a laptop; small: one GPU; base: as published.", rich_help_panel=TRAINING)
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; may be repeated.", rich_help_panel=TRAINING),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the whole run, instead of the recipe's.", rich_help_panel=TRAINING)
]
Start = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ENCODER",
        help="Initial weights: a registered name, folder, hub id or official file; of a former run and a "
        "fairseq checkpoint the pre-training heads are used too where they fit. For rvq-vae the folder of a codec.",
        rich_help_panel=TRAINING,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=TRAINING)]
Probe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK",
        help="Score this task with a cheap linear probe on validation clips: a task's name or your own task file "
        "(.toml, .py); with commas or repeated.",
        rich_help_panel=PROBES,
    ),
]
ProbeEvery = Annotated[int, typer.Option(min=1, help="Steps between two probes.", rich_help_panel=PROBES)]
TrackerName = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Send the log here too: tensorboard, trackio, wandb, or none; with commas or repeated. TensorBoard "
        "gets it where it is installed.",
        rich_help_panel=TRAINING,
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the probes' datasets. [env: CARRARA_DATA]", rich_help_panel=PROBES)
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the run in the output folder; learning rate, warm-up, clipping, precision, accumulation_steps "
        "and intervals may change.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Train at the published size on a CPU too.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what the run will need (audio, FLOPs, time, memory, labels on disk) and write nothing; needs "
        "neither --corpus nor --output.",
        rich_help_panel=PLAN,
    ),
]
Gpu = Annotated[
    str, typer.Option(help="With --dry-run: a100-40, a100-80, h100, h200, rtx-3090, rtx-4090.", rich_help_panel=PLAN)
]
Gpus = Annotated[int, typer.Option(min=1, help="With --dry-run: how many of them.", rich_help_panel=PLAN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the last line of the log, or the plan, as JSON.")]


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
    tracker: TrackerName = None,
    resume: Resume = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    gpu: Gpu = "h100",
    gpus: Gpus = 8,
    as_json: AsJson = False,
) -> None:
    """Pre-train an encoder on audio, without labels or on tags; its folder loads from the first checkpoint on.

    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert`
    - `carrara pretrain mert-v0 --scale tiny --corpus ~/Music -o my-mert --resume`
    - `carrara pretrain mert-v0 --scale tiny --set masking.mask_length=10 --set targets.cqt.weight=2 -c ~/Music -o mine`
    - `carrara pretrain maest-5s --scale tiny --corpus pebble -o my-maest`
    - `carrara pretrain mert-v1-95m --from m-a-p/MERT-v1-95M -c ~/Music -o further --probe pebble/key,pebble/genre`
    - `carrara pretrain mert-v1-330m --dry-run --gpu h100 --gpus 64`

    `torchrun --nproc-per-node 2 -m carrara pretrain …` trains with several processes and the same losses as with one.

    Ctrl-C writes a checkpoint before it stops; with --resume the run continues exactly. The folder also holds the log,
    metrics.jsonl, and its plot.
    """
    from carrara.cli._checks import check_corpus, check_recipe
    from carrara.core.errors import UsageError
    from carrara.core.interrupts import stop_signal
    from carrara.core.settings import parse_assignments
    from carrara.nn.device import pick_device
    from carrara.pretrain.gpus import check_gpu
    from carrara.pretrain.trackers import check_trackers

    # Whatever can be wrong in the command is looked at before torch is imported.
    assignments = parse_assignments(changes or []) | ({"steps": steps} if steps else {})
    check_corpus(corpus or ())
    check_recipe(recipe, scale, assignments)
    trackers = ",".join(tracker).split(",") if tracker else None
    check_trackers(trackers)
    if dry_run:
        check_gpu(gpu)
    else:
        output = _check_output(output, resume)
        if not corpus:
            raise UsageError("there is nothing to train on; give files or folders with --corpus ~/Music")
        if scale == "base" and not yes and not (output / RUN_FILE).is_file():
            _refuse_on_cpu(recipe, assignments, device)
    _check_names(device, probe, "" if resume or recipe == "rvq-vae" else start)
    from carrara.pretrain.run import pretrain as train

    if dry_run:
        from carrara.pretrain.dry_run import describe_plan, plan_run

        plan = plan_run(recipe, corpus or (), scale=scale, changes=assignments, device=device, gpu=gpu, gpus=gpus)
        echo(json.dumps(plan) if as_json else describe_plan(plan))
        return
    assert output is not None and corpus is not None, "checked above"
    options: dict[str, Any] = {"start": start, "device": device, "trackers": trackers}
    if probe:
        from carrara.cli._probes import build_probe

        options |= {"probe": build_probe(probe, data_dir, pick_device(device)), "probe_every": probe_every}
    try:
        folder = train(recipe, corpus, output, scale=scale, changes=assignments, resume=resume, **options)
    except KeyboardInterrupt:
        echo(f"carrara pretrain: stopped; continue {output} with the same command and --resume", err=True)
        raise typer.Exit(128 + stop_signal()) from None
    if os.environ.get("RANK", "0") != "0":  # torchrun starts several processes; the first prints
        return
    _print_run(folder, as_json)


def _print_run(folder: Path, as_json: bool) -> None:
    from carrara.pretrain.log_plot import PLOT_FILE
    from carrara.pretrain.metrics_log import LOG_FILE, read_metrics

    last = {"step": 0, **(read_metrics(folder / LOG_FILE) or [{}])[-1]}
    if as_json:
        echo(json.dumps({"folder": str(folder), **last}))
        return
    echo(f"{folder}\tstep {last['step']}\tloss {last.get('loss', float('nan')):.4f}")
    echo(f"{_next_command(folder)}; the log is {folder / LOG_FILE}, its plot {folder / PLOT_FILE}", err=True)


def _check_output(output: Path | None, resume: bool) -> Path:
    """Return the output folder, after a line if there is nothing to resume in it.

    Raises:
        UsageError: there is none.
        StoreError: it cannot be the folder of this run.
    """
    from carrara.core.errors import UsageError
    from carrara.pretrain.run_file import LOCK, check_folder

    if output is None:
        raise UsageError("there is no output folder; give the folder of the encoder with -o my-encoder")
    # A folder with a lock is looked at by who has tried the lock: another process may be training in it.
    check_folder(output, resume or (output / LOCK).exists())
    if resume and not (output / RUN_FILE).is_file():
        echo(f"carrara pretrain: {output} holds no run to resume; a new one starts", err=True)
    return output


def _check_names(device: str, probe: list[str] | None, start: str | None) -> None:
    """Check that a device, tasks and an encoder of these names exist.

    Args:
        device, probe: of the command.
        start: initial weights; empty where a run goes on, which needs them no more, and where they are a codec's.

    Raises:
        UsageError: one does not.
    """
    from carrara.nn.device import check_device

    check_device(device)
    if probe:
        from carrara.bench.select_tasks import select_tasks

        select_tasks(None, probe)
    if start and not Path(start).expanduser().exists():
        from carrara.encoders._hub.spec import parse_encoder_spec

        parse_encoder_spec(start)


def _refuse_on_cpu(recipe: str, changes: dict[str, Any], device: str) -> None:
    """Refuse a run of the published size on a CPU, unless its steps are few.

    Raises:
        UsageError: it has more than `MAX_CPU_STEPS` steps; the message says what it is.
    """
    from carrara.cli._facts import read_facts
    from carrara.core.errors import UsageError

    settings = read_facts("recipes", [recipe])[recipe]["settings"]
    settings |= {path: value for path, value in changes.items() if path in SIZES and isinstance(value, int | float)}
    steps = settings.get("steps")
    if not _is_cpu(device) or (steps is not None and steps <= MAX_CPU_STEPS):
        return
    if steps is None:
        size = f"{settings['epochs']} epochs"
    else:
        hours = steps * settings["batch"] * settings["crop_seconds"] / 3600
        size = f"{steps:,} steps over {hours:,.0f} hours of audio"
    raise UsageError(
        f"{recipe} at its published size is {size}, far too much for a CPU; train it with --scale tiny or small, on a "
        f"GPU, or with --yes all the same (`carrara pretrain {recipe} --dry-run` measures what it takes)"
    )


def _is_cpu(device: str) -> bool:
    """Return whether a run is on a CPU; where PyTorch has nothing else, without importing it."""
    from carrara.nn.device import is_cpu_build, pick_device

    if device == "cpu" or (device == "auto" and is_cpu_build()):
        return True
    return pick_device(device).startswith("cpu")


def _next_command(folder: Path) -> str:
    """Return what to do next with an encoder or a codec, as a command that works as typed."""
    from carrara.core.strict_json import read_json_object
    from carrara.pretrain.codec_folder import CODEC_CONFIG, CODEC_KEY

    codec = read_json_object(folder / CODEC_CONFIG).get(CODEC_KEY)
    if codec is None:
        return f"`carrara bench {folder} --suite pebble` measures it"
    settings = " ".join(
        f"--set targets.codes.{name}={value}"
        for name, value in {
            "source": "rvq-vae",
            "weights": folder,
            "num_codebooks": codec["num_codebooks"],
            "codebook_size": codec["codebook_size"],
        }.items()
    )
    return (
        f"`carrara pretrain mert-v1-95m --scale tiny {settings} -c MUSIC -o my-mert` trains on its codes; "
        f"{folder / 'sound'} has audio before and after coding"
    )
