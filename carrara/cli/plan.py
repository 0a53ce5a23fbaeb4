"""`carrara plan`: what embedding or pre-training will take, before it is begun."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from carrara.cli._echo import echo

EMBEDDING, TRAINING = "Embedding", "Pre-training"
ASSUMED_MFU = (0.05, 0.2, 0.5)  # of a GPU's peak that an encoder reaches: low, expected, high; not measured here

Targets = Annotated[
    list[str], typer.Argument(help="For embed the paths, as of `carrara embed`; for pretrain the name of a recipe.")
]
EncoderName = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Whose embeddings.", rich_help_panel=EMBEDDING)
]
Per = Annotated[Literal["clip", "window", "frame"], typer.Option(help="What a row is.", rich_help_panel=EMBEDDING)]
Sample = Annotated[
    str | None, typer.Option(metavar="NxSECONDS", help="Only excerpts, as of embed.", rich_help_panel=EMBEDDING)
]
Files = Annotated[
    int | None, typer.Option(min=1, help="For so many recordings like the named.", rich_help_panel=EMBEDDING)
]
Seconds = Annotated[float, typer.Option(min=1, help="Seconds of calibration, at least.", rich_help_panel=EMBEDDING)]
Threads = Annotated[int | None, typer.Option(min=1, help="As of embed.", rich_help_panel=EMBEDDING)]
Scale = Annotated[str, typer.Option(help="Scale of the recipe.", rich_help_panel=TRAINING)]
Corpus = Annotated[
    list[Path] | None, typer.Option("--corpus", "-c", help="What it trains on.", rich_help_panel=TRAINING)
]
Gpu = Annotated[str, typer.Option(help="a100-40, a100-80, h100, h200, rtx-3090, rtx-4090.")]
Price = Annotated[
    float | None, typer.Option(min=0, help="Of an hour of this machine, and of each GPU, in any currency.")
]


def plan(
    kind: Annotated[Literal["embed", "pretrain"], typer.Argument(help="embed or pretrain.")],
    targets: Targets,
    encoder: EncoderName = None,
    per: Per = "clip",
    layer: Annotated[str, typer.Option(help="As of embed.", rich_help_panel=EMBEDDING)] = "mean",
    sample: Sample = None,
    files: Files = None,
    seconds: Seconds = 10.0,
    threads: Threads = None,
    scale: Scale = "base",
    corpus: Corpus = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    gpu: Gpu = "h100",
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 8,
    price: Price = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure for some seconds, then say what the whole work takes: time, memory, disk and money, here and on GPUs.

    - `carrara plan embed ~/Music -e mert-v1-95m:random`
    - `carrara plan embed ~/Music -e musicnn-msd:random --sample 3x10 --files 10000000 --price 0.05`
    - `carrara plan pretrain mert-v1-95m --gpu h100 --gpus 64 --price 2.5`

    Nothing is written. A range in brackets holds the truth in about 95 of 100 cases while the machine is as busy as
    during the calibration. Times on GPUs are computed from operations and an assumed fraction of the peak.
    """
    from carrara.core.settings import parse_assignments

    assignments = parse_assignments(changes or [])
    if kind == "pretrain":
        _plan_pretrain(targets, scale, corpus, assignments, device, gpu, gpus, price, as_json)
        return
    from carrara.audio.files import check_paths, list_audio_files
    from carrara.core.errors import UsageError, did_you_mean

    if encoder is None:
        raise UsageError("plan embed needs the encoder; give -e NAME (`carrara ls encoders` lists them)")
    check_paths([Path(target) for target in targets])
    named = list_audio_files(targets)
    begin = time.perf_counter()
    from carrara.core.settings import parse_settings
    from carrara.encoders._hub.load import load, with_settings
    from carrara.features.embed import EmbedConfig
    from carrara.features.plan import Estimate, plan_embed
    from carrara.nn.device import limit_threads, pick_device
    from carrara.pretrain.gpus import GPUS

    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: is not known.{did_you_mean(gpu, GPUS)} There are: {', '.join(GPUS)}")
    config = parse_settings(EmbedConfig, {"per": per, "layer": layer, "sample": sample}, "plan embed")
    device = pick_device(device)
    limit_threads(threads)
    network = with_settings(load(encoder), assignments)
    start_seconds = time.perf_counter() - begin
    result = plan_embed(network, named, config, device, None, files, seconds, min(threads or 2, 2))
    result["start_seconds"] = start_seconds
    result["memory_bytes"] = Estimate.around(_peak_memory(), 0.1)
    # A handcrafted encoder runs on CPUs however many GPUs there are.
    flops = _flops_per_second(network) if any(True for _ in network.parameters()) else 0.0
    audio = result["audio_hours"].expected * 3600
    low, expected, high = (flops * audio / (gpus * GPUS[gpu][0] * mfu) for mfu in ASSUMED_MFU[::-1])
    spent = {"here": (result["seconds"], 1)}
    if flops:
        there = Estimate(expected, low, high)
        result["gpus"] = {"device": gpu, "count": gpus, "seconds": there, "flops": flops * audio}
        spent["gpus"] = (there, gpus)
    if price is not None:
        result["price"] = {
            name: Estimate(*(price * count * value / 3600 for value in (own.expected, own.low, own.high)))
            for name, (own, count) in spent.items()
        }
    if as_json:
        echo(json.dumps(result, default=vars))
    else:
        _print_embed(result, device)


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
    from carrara.core.errors import UsageError
    from carrara.pretrain.dry_run import describe_plan, plan_run

    if len(targets) != 1:
        raise UsageError(f"plan pretrain takes one recipe, not {', '.join(targets)}")
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
    from carrara.features.plan import Estimate

    def show(value: Estimate, unit: float, digits: int = 3) -> str:
        expected, low, high = (f"{each / unit:,.{digits}g}" for each in (value.expected, value.low, value.high))
        return f"{expected} ({low} to {high})"

    def show_time(value: Estimate) -> str:
        units = ((86_400, "days"), (3600, "hours"), (60, "minutes"))
        unit, name = next(((unit, name) for unit, name in units if value.high > 2 * unit), (1, "seconds"))
        return f"{show(value, unit)} {name}"

    basis, gpus = result["calibration"], result.get("gpus")
    echo(f"audio\t{result['files']:,} recordings, {show(result['audio_hours'], 1)} hours")
    echo(f"time on {device}\t{show_time(result['seconds'])}, after {result['start_seconds']:.1f} s to start")
    echo(f"memory\t{show(result['memory_bytes'], 2**30)} GiB")
    echo(f"disk\t{show(result['disk_bytes'], 1e6)} MB")
    assumed = f"{ASSUMED_MFU[1]:.0%} of the peak ({ASSUMED_MFU[0]:.0%} to {ASSUMED_MFU[2]:.0%}), if decoding keeps up"
    if gpus:
        echo(f"{gpus['count']} x {gpus['device']}\t{show_time(gpus['seconds'])}, assuming {assumed}")
    for name, money in result.get("price", {}).items():
        echo(f"price {'here' if name == 'here' else 'of the GPUs'}\t{show(money, 1)}")
    audio = f"{basis['audio_seconds']:,.0f} s of audio embedded in {basis['seconds']:.1f} s"
    echo(f"from {audio}, and {basis['headers']} headers", err=True)


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
