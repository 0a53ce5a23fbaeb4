"""`carrara bench`: measure representations on tasks under one protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from carrara.bench.config import BenchConfig
    from carrara.core.errors import CarraraError
    from carrara.core.record import Record
    from carrara.core.task import Task

WHAT, HOW = "What is measured", "How it is measured"


Encoders = Annotated[
    list[str] | None,
    typer.Argument(
        help="Registry names, folders or hub ids; NAME:random is the same network with random weights. None: with a suite "
        "or tasks, every one that is ready here (`carrara ls encoders`)."
    ),
]
Suite = Annotated[
    str | None,
    typer.Option(
        help="A named list of tasks (`carrara ls suites`); pebble when nothing is asked for.", rich_help_panel=WHAT
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        "--task",
        "-t",
        help="Task names, with commas or repeated; patterns such as 'pebble/*'; files of your own (.toml, .py).",
        rich_help_panel=WHAT,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", "--data", help="Folder of the datasets. [env: CARRARA_DATA]", rich_help_panel=WHAT),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Use so many clips a side at most; marks the records as partial.", rich_help_panel=WHAT),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial", help="Measure even if clips are missing; marks the records as partial.", rich_help_panel=WHAT
    ),
]
ProtocolName = Annotated[
    str, typer.Option("--protocol", "-p", help="Rules (`carrara ls protocols`).", rich_help_panel=HOW)
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting of the protocol, such as mode=lora or head=lstm.", rich_help_panel=HOW
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, help="How many seeds ride in one pass; intervals cover them.", rich_help_panel=HOW)
]
Seed = Annotated[int, typer.Option(help="The first seed of the draws.", rich_help_panel=HOW)]
Deform = Annotated[
    list[str] | None,
    typer.Option(
        help="Also read the chosen probe on spoilt test sound: noise:20db, gain:-6db, mp3:32k, pitch:+1, clip, reverb; "
        "with commas or repeated.",
        rich_help_panel=HOW,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=HOW)]
Wall = Annotated[
    float, typer.Option(min=0, help="Mark a task that takes longer; a week in MARBLE.", rich_help_panel=HOW)
]
Overwrite = Annotated[
    Literal["never", "missing", "always"],
    typer.Option(help="Measure again: never, when there is no record of this very task, always."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the records.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the records as a JSON list.")]


def bench(
    encoders: Encoders = None,
    suite: Suite = None,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    partial: Partial = False,
    protocol: ProtocolName = "constrained",
    changes: Changes = None,
    seeds: Seeds = 1,
    seed: Seed = 1234,
    deform: Deform = None,
    device: Device = "auto",
    wall_hours: Wall = 168.0,
    overwrite: Overwrite = "missing",
    output: Output = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Measure representations: extract, train the whole probe grid, choose on validation, test once.

    - `carrara bench chroma-mfcc noise --suite pebble`
    - `carrara bench carrara-demo/mert --suite marble-14 --data /data --limit 200`
    - `carrara bench chroma-mfcc -t pebble/key --seeds 5 --deform noise:20db,mp3:32k`
    - `carrara bench --suite pebble` measures every encoder that is ready on this machine

    A row whose dataset is not there is named, and the others go on; so is one of several encoders that does not load.
    """
    from carrara.bench.config import BenchConfig
    from carrara.core.settings import assignments

    rules = BenchConfig(
        protocol=protocol,
        settings=assignments(changes or ()),
        seeds=tuple(range(seed, seed + seeds)),
        corruptions=tuple(part.strip() for text in deform or () for part in text.split(",") if part.strip()),
        overwrite=overwrite,
        time_limit_hours=wall_hours,
    )
    rules.check()
    place = {"data_dir": data_dir, "results": output, "limit": limit, "partial": partial}
    measured = _measured(encoders or _ready(bool(suite or tasks)), (suite, tasks), rules, device, place)
    _tell(*measured, output, as_json)


def _measured(
    encoders: list[str],
    wanted: tuple[str | None, list[str] | None],
    rules: BenchConfig,
    device: str,
    place: dict[str, Any],
) -> tuple[list[Record], dict[str, CarraraError], list[str]]:
    """Return the records, why by task there is none, and the encoders that do not load.

    Raises:
        CarraraError: the only encoder does not load, or a wish cannot be met.
    """
    from carrara.bench.run import bench as measure
    from carrara.cli._select_tasks import chosen_tasks
    from carrara.core.errors import CarraraError
    from carrara.encoders._hub.load import load
    from carrara.nn.device import pick_device

    chosen, datasets = chosen_tasks(*wanted)
    at = pick_device(device)
    records: list[Record] = []
    failed: dict[str, CarraraError] = {}
    unloaded: list[str] = []

    def problem(task: Task, error: CarraraError) -> None:
        failed[task.name] = error
        typer.echo(f"no record of {task.name}: {error}", err=True)

    for spec in encoders:
        try:
            encoder = load(spec, at)
        except CarraraError as error:
            if len(encoders) == 1:
                raise
            unloaded.append(spec)
            typer.echo(f"no record of {spec}: {error}", err=True)
            continue
        records += measure(encoder, chosen, config=rules, device=at, datasets=datasets, on_problem=problem, **place)
    return records, failed, unloaded


def _ready(asked: bool) -> list[str]:
    """Return the encoders on the shelf that are ready, and say so; `asked`: whether a suite or tasks were.

    Raises:
        UsageError: they were not, so that no one measures everything by accident.
    """
    from carrara.core.errors import UsageError
    from carrara.encoders import REGISTRY
    from carrara.encoders._hub.availability import state

    if not asked:
        raise UsageError("name encoders, or --suite or --tasks alone to measure every encoder that is ready here")
    ready = [name for name in REGISTRY.names() if state(name).word == "ready"]
    typer.echo(f"{len(ready)} encoders are ready: {', '.join(ready)}", err=True)
    return ready


def _tell(
    records: list[Record], failed: dict[str, CarraraError], unloaded: list[str], output: Path, as_json: bool
) -> None:
    """Print the records; exit 1 where a row that is there failed, an encoder did not load, or nothing was measured."""
    from carrara.core.errors import AbsentError

    if as_json:
        typer.echo(
            json.dumps([record.model_dump(mode="json", by_alias=True) for record in records], ensure_ascii=False)
        )
    else:
        for record in records:
            for deform, scores in {"": record.scores, **record.robustness}.items():
                text = "  ".join(
                    f"{name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for name, score in scores.items()
                )
                typer.echo("\t".join([record.encoder.name, record.task.name, *([deform] if deform else []), text]))
    names = f"; no record of {', '.join(failed)} (-t {','.join(failed)} asks for them alone)" if failed else ""
    names += f"; {', '.join(unloaded)} did not load" if unloaded else ""
    typer.echo(f"{len(records)} records in {output}; `carrara board {output}` ranks them{names}", err=True)
    if not records or unloaded or not all(isinstance(error, AbsentError) for error in failed.values()):
        raise typer.Exit(1)
