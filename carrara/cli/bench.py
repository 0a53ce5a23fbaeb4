"""`carrara bench`: measure encoders on tasks under one protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carrara.cli._completion import complete_names
from carrara.cli._echo import echo
from carrara.core.printable import count_of

if TYPE_CHECKING:
    from carrara.core.errors import CarraraError
    from carrara.core.record import Record
    from carrara.core.task import Task
    from carrara.encoders._base import Encoder

DATA, PROTOCOL = "Encoders and tasks", "Protocol"

Encoders = Annotated[
    list[str] | None,
    typer.Argument(
        help="Registered names, folders or hub ids; NAME:random has random weights, A+B and A+B:late fuse. By default, "
        "with --suite or --tasks, every encoder that is ready on this machine (`carrara ls encoders`).",
        autocompletion=complete_names("encoders"),
    ),
]
Suite = Annotated[
    str | None,
    typer.Option(
        help="A named list of tasks (`carrara ls suites`); by default pebble.",
        rich_help_panel=DATA,
        autocompletion=complete_names("suites"),
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        "--task",
        "-t",
        help="Task names, with commas or repeated; patterns such as 'pebble/*'; your own task files (.toml, .py).",
        rich_help_panel=DATA,
        autocompletion=complete_names("tasks"),
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", "--data", help="Folder of the datasets. [env: CARRARA_DATA]", rich_help_panel=DATA),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use at most this many clips of each split; the records are marked as partial.",
        rich_help_panel=DATA,
    ),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Measure although clips are missing or undecodable; the records are marked as partial.",
        rich_help_panel=DATA,
    ),
]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        "-p",
        help="A name from `carrara ls protocols`, or a record's: semi-constrained:head=svm.",
        rich_help_panel=PROTOCOL,
        autocompletion=complete_names("protocols"),
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting of the protocol (`carrara show PROTOCOL`), such as head=lstm; may be repeated.",
        rich_help_panel=PROTOCOL,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of seeds, all trained in one pass; the intervals include their spread.",
        rich_help_panel=PROTOCOL,
    ),
]
Seed = Annotated[int, typer.Option(help="The first seed.", rich_help_panel=PROTOCOL)]
Corrupt = Annotated[
    list[str] | None,
    typer.Option(
        help="Also score the chosen probe on corrupted test audio: noise:20db, gain:-6db, mp3:32k, pitch:+1, clip, "
        "reverb; with commas or repeated.",
        rich_help_panel=PROTOCOL,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=PROTOCOL)]
TimeLimit = Annotated[
    float,
    typer.Option(min=0, help="Mark records of tasks that take longer; MARBLE allows a week.", rich_help_panel=PROTOCOL),
]
Overwrite = Annotated[
    Literal["never", "missing", "always"],
    typer.Option(
        help="Measure a task again although a record exists: never, only if its clips, seeds or versions changed "
        "(missing), or always."
    ),
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
    corrupt: Corrupt = None,
    device: Device = "auto",
    time_limit_hours: TimeLimit = 168.0,
    overwrite: Overwrite = "missing",
    output: Output = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Measure encoders: extract features, train a grid of probes, select one on validation, test it once.

    - `carrara bench chroma-mfcc noise --suite pebble`
    - `carrara bench carrara-demo/cqt-mel --suite marble-14 --data /data --limit 200`
    - `carrara bench chroma-mfcc -t pebble/key --seeds 5 --corrupt noise:20db,mp3:32k`
    - `carrara bench --suite pebble` measures every encoder that is ready on this machine

    A task without its dataset, and one of several encoders that does not load, is reported and skipped.
    """
    from carrara.bench.config import parse_protocol_name
    from carrara.bench.select_tasks import select_tasks
    from carrara.cli._checks import check_bench_config, check_output_folder
    from carrara.core.settings import parse_assignments
    from carrara.nn.device import check_device, pick_device

    # Whatever can be wrong in the command is looked at before torch is imported.
    corruptions = tuple(part.strip() for text in corrupt or () for part in text.split(",") if part.strip())
    config = replace(
        parse_protocol_name(protocol, parse_assignments(changes or ())), seeds=tuple(range(seed, seed + seeds)),
        corruptions=corruptions, overwrite=overwrite, time_limit_hours=time_limit_hours,
    )  # fmt: skip
    check_bench_config(config)
    names = _select_names(encoders, is_restricted=bool(suite or tasks))
    selected, datasets = select_tasks(suite, tasks)
    check_device(device)
    check_output_folder(output)

    from carrara.bench.run import bench as measure

    config.check()
    device = pick_device(device)
    records: list[Record] = []
    failures: dict[str, CarraraError] = {}
    not_loaded: list[str] = []

    def report_failure(task: Task, error: CarraraError) -> None:
        failures[task.name] = error
        echo(f"no record of {task.name}: {error}", err=True)

    def report_record(record: Record, seconds: float) -> None:
        records.append(record)
        _print_record(record, seconds, f"{len(records)} of at most {len(names) * len(selected)}", as_json)

    for name in names:
        if (encoder := _load_or_report(name, device, is_single=len(names) == 1)) is None:
            not_loaded.append(name)
            continue
        measure(
            encoder, selected, data_dir, output, config=config, device=device, limit=limit, partial=partial,
            datasets=datasets, on_record=report_record, on_problem=report_failure,
        )  # fmt: skip
    _print_summary(records, failures, not_loaded, output, as_json)
    if not records or not_loaded or _has_failed(failures):
        raise typer.Exit(1)


def _has_failed(failures: Mapping[str, CarraraError]) -> bool:
    """Return whether a task failed for more than that its dataset is not there."""
    from carrara.core.errors import AbsentError

    return not all(isinstance(error, AbsentError) for error in failures.values())


def _select_names(encoders: list[str] | None, is_restricted: bool) -> list[str]:
    """Return the encoders to measure, by default those that are ready on this machine, which are printed.

    Raises:
        UsageError: the only encoder is none, or no encoder is given and neither suite nor
            tasks are; `carrara bench` alone must not measure everything.
    """
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError
    from carrara.encoders import REGISTRY
    from carrara.encoders._hub.availability import check_availability

    if encoders:
        if tables := [name for name in encoders if name.endswith(".toml")]:
            raise UsageError(f"{tables[0]}: a task file, not an encoder; give it as -t {tables[0]}")
        if len(encoders) == 1:  # one of several is reported and skipped
            check_encoder(encoders[0])
        return encoders
    if not is_restricted:
        raise UsageError(
            "give encoders, or only --suite or --tasks to measure every encoder that is ready on this machine"
        )
    ready = [name for name in REGISTRY.names() if check_availability(name).status == "ready"]
    echo(f"{len(ready)} encoders are ready: {', '.join(ready)}", err=True)
    return ready


def _load_or_report(name: str, device: str, is_single: bool) -> Encoder | None:
    """Return an encoder; None, after a line about it, where it does not load and is one of several."""
    from carrara.core.errors import CarraraError
    from carrara.encoders._hub.load import load

    try:
        return load(name, device)
    except CarraraError as error:
        if is_single:
            raise
        echo(f"no record of {name}: {error}", err=True)
        return None


def _print_record(record: Record, seconds: float, count: str, as_json: bool) -> None:
    echo(f"{record.encoder.name} on {record.task.name}: {seconds:.0f} s, record {count}", err=True)
    for corruption, scores in {} if as_json else {"": record.scores, **record.robustness}.items():
        text = "  ".join(
            f"{name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" for name, score in scores.items()
        )
        echo("\t".join([record.encoder.name, record.task.name, *([corruption] if corruption else []), text]))
    sys.stdout.flush()


def _print_summary(
    records: list[Record], failures: dict[str, CarraraError], not_loaded: list[str], output: Path, as_json: bool
) -> None:
    if as_json:
        values = [record.model_dump(mode="json", by_alias=True) for record in records]
        echo(json.dumps(values, ensure_ascii=False))
    summary = f"{count_of(len(records), 'record')} in {output}"
    if records:
        summary += f"; `carrara leaderboard {output}` ranks them"
    if failures:
        summary += f"; no record of {', '.join(failures)}"
        if records:
            summary += f" (-t {','.join(failures)} measures them alone)"
    if not_loaded:
        summary += f"; {', '.join(not_loaded)} did not load"
    echo(summary, err=True)
