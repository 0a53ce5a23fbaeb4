"""Seconds of a training step, ours beside a plain loop over Hugging Face's network, and two processes beside one.

    python benchmarks/train.py -o train.json
    python benchmarks/train.py --channels 512 --dim 768 --layers 12 --heads 12 --rounds 3
    python benchmarks/train.py --only tagging
    python benchmarks/train.py --only compile                   ours with torch.compile beside ours without, in turn

Masked prediction of one codebook of 100 classes from 5-s crops at 16 kHz, beside HubertModel; tagging of 10-s
spectrograms without patchout, beside ASTForAudioClassification. Forward, backward, clipping and fused AdamW in float32
on the CPU, on equal shapes; both run in turn in one process. The peak memory of each comes from a process of its own.

Two processes divide the batch of masked prediction and average their gradients by DistributedDataParallel over gloo,
each on one thread; in turn with them, one process on one thread takes the whole batch. Efficiency is its time over
twice theirs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from steps import (
    MEL_BANDS,
    AstLoss,
    HubertLoss,
    MaskedPredictionLoss,
    NetworkSize,
    TaggingLoss,
    describe_run,
    draw_masked_batch,
    make_step,
    time_in_turn,
)
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

RATE, CLASSES, TAGS, FRAMES_A_SECOND = 16_000, 100, 50, 62.5
CPU = torch.device("cpu")
OBJECTIVES = {
    "masked-prediction": {"ours": MaskedPredictionLoss, "transformers": HubertLoss},
    "tagging": {"ours": TaggingLoss, "transformers": AstLoss},
}


def network_size(arguments: argparse.Namespace) -> NetworkSize:
    """Return the sizes of the network."""
    return NetworkSize(arguments.channels, arguments.dim, arguments.layers, arguments.heads)


def build_objective(arguments: argparse.Namespace, name: str, implementation: str) -> tuple[nn.Module, Tensor]:
    """Return a module from a batch to its loss, and a random batch."""
    torch.manual_seed(0)
    size = network_size(arguments)
    loss = OBJECTIVES[name][implementation]
    if name == "tagging":
        frames = round(arguments.tagging_seconds * FRAMES_A_SECOND)
        tags_BC = torch.randint(2, (arguments.batch, TAGS)).float()
        return loss(size, frames, tags_BC), torch.randn(arguments.batch, frames, MEL_BANDS)
    samples = round(arguments.seconds * RATE)
    batch = draw_masked_batch(arguments.batch, samples, (CLASSES,))
    return loss(size, batch), 0.1 * torch.randn(arguments.batch, samples)


def measure_objective(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return seconds a step of ours and of the peer, the ratio, audio a second, and peak memory."""
    calls = {}
    for implementation in OBJECTIVES[name]:
        objective, batch = build_objective(arguments, name, implementation)
        step = make_step(objective)
        calls[implementation] = lambda step=step, batch=batch: step(batch)
    seconds = time_in_turn(calls, arguments.rounds, CPU)
    crop = arguments.tagging_seconds if name == "tagging" else arguments.seconds
    row: dict[str, Any] = {"objective": name, "batch": arguments.batch, "crop_seconds": crop}
    for implementation, median in seconds.items():
        row[f"{implementation}_seconds"] = median
        row[f"{implementation}_audio_seconds_a_second"] = arguments.batch * crop / median
        row[f"{implementation}_peak_mb"] = _peak_memory(name, implementation)
    row["ratio"] = seconds["transformers"] / seconds["ours"]
    return row


def measure_compiled(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return CPU seconds a step of masked prediction, eager and compiled, in turn, and seconds of the first compiled.

    CPU time, because other jobs' load does not count in it.
    """
    calls = {}
    for name in ("eager", "compiled"):
        objective, batch = build_objective(arguments, "masked-prediction", "ours")
        if name == "compiled":
            objective.compile()
        step = make_step(objective)
        calls[name] = lambda step=step, batch=batch: step(batch)
    started = time.perf_counter()
    calls["compiled"]()
    first = time.perf_counter() - started
    seconds = time_in_turn(calls, arguments.rounds, CPU, clock=time.process_time)
    return {**{f"{name}_cpu_seconds": median for name, median in seconds.items()}, "first_step_seconds": first,
            "ratio": seconds["eager"] / seconds["compiled"]}  # fmt: skip


def _peak_memory(name: str, implementation: str) -> float:
    """Return the peak memory in MB of a new process that takes two steps."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name, implementation]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_processes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return seconds a step of one process and of two, and the efficiency."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run_rank, (folder, arguments), nprocs=2)
        seconds = json.loads((Path(folder) / "seconds.json").read_text(encoding="utf-8"))
    return {
        "objective": "masked-prediction",
        "batch": arguments.batch,
        "one_process_seconds": seconds["one"],
        "two_processes_seconds": seconds["two"],
        "efficiency": seconds["one"] / (2 * seconds["two"]),
    }


def _run_rank(rank: int, folder: str, arguments: argparse.Namespace) -> None:
    """Train the whole batch on rank 0 alone and half of it on each rank, in turn; rank 0 writes the median seconds."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = argparse.Namespace(**{**vars(arguments), "batch": arguments.batch // 2})
    objective, half_batch = build_objective(half, "masked-prediction", "ours")
    divided = make_step(DistributedDataParallel(objective))

    def step_on_both() -> None:
        distributed.barrier()
        divided(half_batch)

    calls: dict[str, Callable[[], object]] = {"two": step_on_both}
    if rank == 0:
        whole, whole_batch = build_objective(arguments, "masked-prediction", "ours")
        alone = make_step(whole)
        calls = {"one": lambda: alone(whole_batch), **calls}
    seconds = time_in_turn(calls, arguments.rounds, CPU)
    if rank == 0:
        (Path(folder) / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    distributed.destroy_process_group()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*OBJECTIVES, "processes", "compile"], help="measure this alone")
    parser.add_argument("--channels", type=int, default=128, help="of the convolutions (default 128)")
    parser.add_argument("--dim", type=int, default=256, help="of the Transformer (default 256)")
    parser.add_argument("--layers", type=int, default=4, help="of the Transformer (default 4)")
    parser.add_argument("--heads", type=int, default=4, help="of the Transformer (default 4)")
    parser.add_argument("--batch", type=int, default=8, help="crops a step, an even number (default 8)")
    parser.add_argument("--seconds", type=float, default=5, help="of a crop for masked prediction (default 5)")
    parser.add_argument("--tagging-seconds", type=float, default=10, help="of a crop for tagging (default 10)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print a table, and write the JSON file."""
    arguments = _parse()
    if arguments.memory_of:
        objective, batch = build_objective(arguments, *arguments.memory_of)
        step = make_step(objective)
        for _ in range(2):
            step(batch)
        # Not getrusage: a new process inherits the peak of the one that started it.
        peak = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.M)
        print(int(peak[1]) / 1024 if peak else math.nan)
        return
    results: dict[str, Any] = describe_run(CPU)
    print(f"{results['device']}, {results['threads']} threads, load {results['load']}, torch {torch.__version__}")
    if arguments.only not in ("processes", "compile"):
        print(f"{'a step':<20} {'ours':>9} {'transformers':>13} {'ratio':>6}   peak memory of both")
    for name in OBJECTIVES:
        if arguments.only in (None, name):
            row = results[name] = measure_objective(arguments, name)
            print(
                f"{name:<20} {row['ours_seconds']:7.3f} s {row['transformers_seconds']:11.3f} s {row['ratio']:6.2f}"
                f"   {row['ours_peak_mb']:.0f} MB, {row['transformers_peak_mb']:.0f} MB",
                flush=True,
            )
    if arguments.only in (None, "processes"):
        row = results["processes"] = measure_processes(arguments)
        print(
            f"one process {row['one_process_seconds']:.3f} s a step, two {row['two_processes_seconds']:.3f} s: "
            f"efficiency {row['efficiency']:.2f}"
        )
    if arguments.only == "compile":
        row = results["compile"] = measure_compiled(arguments)
        print(
            f"eager {row['eager_cpu_seconds']:.3f} s of CPU a step, compiled {row['compiled_cpu_seconds']:.3f} s "
            f"(ratio {row['ratio']:.2f}), the first compiled step {row['first_step_seconds']:.0f} s"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
