"""`carrara plan`: what embedding, benchmarking or pre-training will take, before it is begun."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carrara.cli._echo import echo

if TYPE_CHECKING:
    from carrara.features.plan import Estimate

EMBEDDING, BENCHMARKING, TRAINING = "Embedding", "Benchmarking", "Pre-training"
ASSUMED_MFU = (0.05, 0.2, 0.5)  # of a GPU's peak that an encoder reaches: low, expected, high; not measured here

Targets = Annotated[
    list[str],
    typer.Argument(help="For embed files and folders, for bench encoders, for pretrain a recipe."),
]
EncoderName = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Registry name, folder or hub id.", rich_help_panel=EMBEDDING)
]
Per = Annotated[
    Literal["clip", "window", "frame"],
    typer.Option(help="One row per recording, window or frame.", rich_help_panel=EMBEDDING),
]
Sample = Annotated[
    str | None,
    typer.Option(
        metavar="NxSECONDS", help="Only N excerpts of each recording, such as 3x10.", rich_help_panel=EMBEDDING
    ),
]
Files = Annotated[
    int | None,
    typer.Option(min=1, help="Plan for this many recordings like those in the paths.", rich_help_panel=EMBEDDING),
]
Seconds = Annotated[float, typer.Option(min=1, help="Least seconds of calibration; for embed and bench.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Most threads of each pool, as in `carrara embed`.")]
Suite = Annotated[
    str | None,
    typer.Option(help="A list of tasks (`carrara ls suites`); by default pebble.", rich_help_panel=BENCHMARKING),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        "--task",
        "-t",
        help="Task names, patterns or files, as in `carrara bench`.",
        rich_help_panel=BENCHMARKING,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", "--data", help="Folder of the datasets. [env: CARRARA_DATA]", rich_help_panel=BENCHMARKING
    ),
]
Scale = Annotated[str, typer.Option(help="tiny, small or base (as published).", rich_help_panel=TRAINING)]
Corpus = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        "-c",
        help="Files, folders, manifests or shards, as in `carrara pretrain`.",
        rich_help_panel=TRAINING,
    ),
]
Gpu = Annotated[str, typer.Option(help="The GPU to plan for: a100-40, a100-80, h100, h200, rtx-3090, rtx-4090.")]
Price = Annotated[
    float | None, typer.Option(min=0, help="Price of an hour of this machine or of one GPU, in any currency.")
]


def plan(
    kind: Annotated[Literal["embed", "bench", "pretrain"], typer.Argument(help="The command to plan.")],
    targets: Targets,
    encoder: EncoderName = None,
    per: Per = "clip",
    layer: Annotated[str, typer.Option(help="Layers, as in `carrara embed`.", rich_help_panel=EMBEDDING)] = "mean",
    sample: Sample = None,
    files: Files = None,
    seconds: Seconds = 10.0,
    threads: Threads = None,
    suite: Suite = None,
    tasks: Tasks = None,
    data_dir: DataDir = None,
    scale: Scale = "base",
    corpus: Corpus = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting of the encoder or recipe.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    gpu: Gpu = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 8,
    price: Price = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure for some seconds, then say what the whole work takes: time, memory, disk and money, here and on GPUs.

    - `carrara plan embed ~/Music -e mert-v1-95m:random`
    - `carrara plan embed ~/Music -e musicnn-msd:random --sample 3x10 --files 10000000 --price 0.05`
    - `carrara plan bench musicnn-msd:random --suite marble-14 --data-dir /data --price 0.05`
    - `carrara plan pretrain mert-v1-95m --gpu h100 --gpus 64 --price 2.5`

    Nothing is written. A range in brackets holds the truth in about 95 of 100 cases while the machine is as busy as
    during the calibration. Times on GPUs are computed from operations and an assumed fraction of the peak; bench is
    planned on this machine only.
    """
    from carrara.core.settings import parse_assignments
    from carrara.nn.device import check_device
    from carrara.pretrain.gpus import check_gpu

    # Whatever can be wrong in the command is looked at before torch is imported.
    assignments = parse_assignments(changes or [])
    check_device(device)
    check_gpu(gpu)
    if kind == "pretrain":
        _plan_pretrain(targets, scale, corpus, assignments, device, gpu, gpus, price, as_json)
    elif kind == "bench":
        _plan_bench(targets, suite, tasks, data_dir, assignments, device, seconds, threads, price, as_json)
    else:
        config = {"per": per, "layer": layer, "sample": sample}
        _plan_embed(targets, encoder, config, files, assignments, device, seconds, threads, gpu, gpus, price, as_json)


def _plan_embed(
    targets: list[str],
    encoder: str | None,
    config_values: dict[str, Any],
    files: int | None,
    changes: dict[str, Any],
    device: str,
    seconds: float,
    threads: int | None,
    gpu: str,
    gpus: int,
    price: float | None,
    as_json: bool,
) -> None:
    """Print what embedding takes.

    Raises:
        UsageError: no encoder is given.
    """
    from carrara.audio.files import check_paths, list_audio_files
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError
    from carrara.core.settings import parse_settings
    from carrara.features.embed_config import EmbedConfig

    if encoder is None:
        raise UsageError("plan embed needs the encoder; give -e NAME (`carrara ls encoders` lists them)")
    check_paths([Path(target) for target in targets])
    check_encoder(encoder, changes)
    config = parse_settings(EmbedConfig, config_values, "plan embed")
    named = list_audio_files(targets)

    from carrara.encoders._hub.load import load, with_settings
    from carrara.features.plan import DRIFT, Estimate, plan_embed, process_seconds
    from carrara.nn.device import limit_threads, pick_device
    from carrara.pretrain.gpus import GPUS

    device = pick_device(device)
    limit_threads(threads)
    network = with_settings(load(encoder), changes)
    start = process_seconds()
    result = plan_embed(network, named, config, device, None, files, seconds, min(threads or 2, 2), start)
    result["memory_bytes"] = Estimate.around(_peak_memory(), 0.1)
    # A handcrafted encoder runs on CPUs however many GPUs there are.
    flops = _flops_per_second(network) if any(True for _ in network.parameters()) else 0.0
    audio = result["audio_hours"].expected * 3600
    low, expected, high = (flops * audio / (gpus * GPUS[gpu][0] * mfu) for mfu in ASSUMED_MFU[::-1])
    spent = {"here": (result["seconds"], 1)}
    if flops:
        there = Estimate(expected, low, high) + Estimate.around(start, DRIFT)  # each GPU's process starts
        result["gpus"] = {"device": gpu, "count": gpus, "seconds": there, "flops": flops * audio}
        spent["gpus"] = (there, gpus)
    if price is not None:
        result["price"] = {name: own * (price * count / 3600) for name, (own, count) in spent.items()}
    if as_json:
        echo(json.dumps(result, default=vars))
    else:
        _print_embed(result, device)


def _plan_bench(
    names: list[str],
    suite: str | None,
    task_names: list[str] | None,
    data_dir: Path | None,
    changes: dict[str, Any],
    device: str,
    seconds: float,
    threads: int | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Print what benchmarking encoders on tasks takes on this machine, encoder by encoder.

    Raises:
        UsageError: neither suite nor tasks are given, or the protocol is to be changed.
    """
    from carrara.bench.select_tasks import select_tasks
    from carrara.cli._checks import check_encoder
    from carrara.core.errors import UsageError

    if not suite and not task_names:
        raise UsageError("plan bench needs the tasks; give --suite NAME (`carrara ls suites`) or --task NAME")
    if changes:
        raise UsageError("plan bench plans the constrained protocol as it is; leave --set out")
    selected, datasets = select_tasks(suite, task_names)
    for name in names:
        check_encoder(name)

    from carrara.bench import tasks
    from carrara.bench.plan import plan_bench
    from carrara.encoders._hub.load import load
    from carrara.features.plan import DRIFT, Estimate, process_seconds
    from carrara.nn.device import limit_threads, pick_device

    device = pick_device(device)
    limit_threads(threads)
    resolved = [tasks.task(task) if isinstance(task, str) else task for task in selected]
    results: list[dict[str, Any]] = []
    for name in names:
        # Only the first encoder of a command waits for Python and torch.
        started = time.perf_counter() if results else time.perf_counter() - process_seconds()
        encoder = load(name, device)
        begin = time.perf_counter()
        result = plan_bench(encoder, resolved, data_dir, device, datasets, seconds)
        result["calibration_seconds"] = time.perf_counter() - begin
        result["start_seconds"] = begin - started
        result["seconds"] += Estimate.around(begin - started, DRIFT)
        result["memory_bytes"] = Estimate.around(_peak_memory(), 0.1)
        if price is not None:
            result["price"] = {"here": result["seconds"] * (price / 3600)}
        results.append(result)
        if not as_json:
            _print_bench(result, device)
    if as_json:
        echo(json.dumps(results, default=vars))


def _print_bench(result: dict[str, Any], device: str) -> None:
    echo(f"encoder\t{result['encoder']}")
    for part in result["tasks"]:
        origin = "on disk" if part["is_on_disk"] else "as the dataset states, which is not on disk"
        echo(
            f"{part['task']}\t{part['clips']:,} clips, {part['audio_hours']:,.3g} hours {origin}; features "
            f"{_show_time(part['feature_seconds'])}, probes {_show_time(part['probe_seconds'])}"
        )
    names_of: dict[str, list[str]] = {}
    for name, reason in result["left_out"].items():
        names_of.setdefault(reason, []).append(name)
    for reason, names in names_of.items():
        echo(f"{', '.join(names)}\tleft out: {reason}")
    if not result["tasks"]:
        return
    echo(f"features on {device}\t{_show_time(result['feature_seconds'])}")
    echo(f"probes on {device}\t{_show_time(result['probe_seconds'])}")
    echo(f"time on {device}\t{_show_time(result['seconds'])}{_show_start(result)}")
    echo(f"memory\t{_show(result['memory_bytes'], 2**30)} GiB")
    echo(f"disk\t{_show(result['disk_bytes'], 1e6)} MB")
    if "price" in result:
        echo(f"price here\t{_show(result['price']['here'], 1)}")
    echo(f"from {result['calibration_seconds']:.1f} s of extracting and training here", err=True)


def _plan_pretrain(
    targets: list[str],
    scale: str,
    corpus: list[Path] | None,
    changes: dict[str, Any],
    device: str,
    gpu: str,
    gpus: int,
    price: float | None,
    as_json: bool,
) -> None:
    """Print the plan of `pretrain --dry-run`, with its price.

    Raises:
        UsageError: more than one recipe is named.
    """
    from carrara.cli._checks import check_corpus, check_recipe
    from carrara.core.errors import UsageError

    if len(targets) != 1:
        raise UsageError(f"plan pretrain takes one recipe, not {', '.join(targets)}")
    check_recipe(targets[0], scale, changes)
    check_corpus(corpus or ())

    from carrara.pretrain.dry_run import describe_plan, plan_run

    result = plan_run(targets[0], corpus or (), scale=scale, changes=changes, device=device, gpu=gpu, gpus=gpus)
    if price is not None:
        result["price"] = {key: price * result[key]["count"] * result[key]["hours"] for key in ("this_device", "gpus")}
    if as_json:
        echo(json.dumps(result))
        return
    echo(describe_plan(result))
    for key, money in result.get("price", {}).items():
        echo(f"price of {result[key]['count']} x {result[key]['device']}\t{money:,.2f}")


def _print_embed(result: dict[str, Any], device: str) -> None:
    basis, gpus = result["calibration"], result.get("gpus")
    echo(f"audio\t{result['files']:,} recordings, {_show(result['audio_hours'], 1)} hours")
    echo(f"time on {device}\t{_show_time(result['seconds'])}{_show_start(result)}")
    echo(f"memory\t{_show(result['memory_bytes'], 2**30)} GiB")
    echo(f"disk\t{_show(result['disk_bytes'], 1e6)} MB")
    assumed = f"{ASSUMED_MFU[1]:.0%} of the peak ({ASSUMED_MFU[0]:.0%} to {ASSUMED_MFU[2]:.0%}), if decoding keeps up"
    if gpus:
        echo(f"{gpus['count']} x {gpus['device']}\t{_show_time(gpus['seconds'])}, assuming {assumed}")
    for name, money in result.get("price", {}).items():
        echo(f"price {'here' if name == 'here' else 'of the GPUs'}\t{_show(money, 1)}")
    audio = f"{basis['audio_seconds']:,.0f} s of audio embedded in {basis['seconds']:.1f} s"
    echo(f"from {audio}, and {basis['headers']} headers", err=True)


def _show(value: Estimate, unit: float, digits: int = 3) -> str:
    expected, low, high = (f"{each / unit:,.{digits}g}" for each in (value.expected, value.low, value.high))
    return f"{expected} ({low} to {high})"


def _show_time(value: Estimate) -> str:
    units = ((86_400, "days"), (3600, "hours"), (60, "minutes"))
    unit, name = next(((unit, name) for unit, name in units if value.high > 2 * unit), (1, "seconds"))
    return f"{_show(value, unit)} {name}" if value.high else "none"


def _show_start(result: dict[str, Any]) -> str:
    """Return what of the time is the start of the command, where a reader would notice it."""
    start = result["start_seconds"]
    return f", of which {start:.1f} s start the command" if start > 0.05 * result["seconds"].expected else ""


def _peak_memory() -> float:
    """Return the largest resident memory of this process so far, in bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def _flops_per_second(encoder: Any) -> float:
    """Return the operations of an encoder for a second of audio, of one window of noise."""
    import torch

    from carrara.features.embed import DEFAULT_WINDOW_SECONDS
    from carrara.pretrain.step_cost import FlopCounter

    seconds = encoder.card.window_seconds or DEFAULT_WINDOW_SECONDS
    samples_BT = 0.1 * torch.randn(1, round(seconds * encoder.card.sample_rate))
    with torch.no_grad(), FlopCounter(is_forward=False) as counter:
        encoder(samples_BT.to(next(iter(encoder.parameters()), samples_BT).device))
    return counter.flops / seconds
