"""Compare plans with the runs that they are of, in CPU seconds of one thread; prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--encoders chroma-mfcc,clmr:random] [--recipe mert-v0] [--output …]

Recordings of noise and tones are embedded: planned from a few seconds of some of them, then all. A recipe's tiny scale
is planned, then trained for two numbers of steps, whose difference is the time of a step. Both count the CPU seconds
of this process, so that other jobs of the machine disturb little; the time on the wall is as much on a machine that
does nothing else. `run_over_plan` is within 0.7 to 1.3 where the goal is met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from carrara.core.io import write_text
from carrara.encoders._hub.load import load
from carrara.features.embed import EmbedConfig
from carrara.features.parquet import write_embeddings
from carrara.features.plan import plan_embed
from carrara.pretrain.dry_run import plan_run
from carrara.pretrain.run import pretrain

RATE = 22_050


def write_music(folder: Path, files: int) -> list[Path]:
    """Write FLAC files of 10 to 50 seconds."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(files):
        times_T = np.arange(round(rng.uniform(10, 50) * RATE)) / RATE
        sound_T = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 1000) * times_T) + 0.05 * rng.standard_normal(len(times_T))
        paths.append(folder / f"{number}.flac")
        soundfile.write(paths[-1], sound_T, RATE)
    return paths


def compare_embed(name: str, files: list[Path], seconds: float, folder: Path) -> dict:
    """Return plan and run of embedding."""
    encoder = load(name)
    plan = plan_embed(encoder, files, EmbedConfig(), seconds=seconds, threads=1)["seconds"]
    begin = time.process_time()
    write_embeddings(encoder, files, folder / f"{name.partition(':')[0]}.parquet", EmbedConfig(), threads=1)
    return _compare(plan.expected, plan.low, plan.high, time.process_time() - begin)


def compare_pretrain(recipe: str, files: list[Path], steps: int, folder: Path) -> dict:
    """Return plan and run of a step of pre-training."""
    plan = plan_run(recipe, files, scale="tiny", device="cpu")
    spent = []
    for count in (steps, 3 * steps):
        begin = time.process_time()
        pretrain(recipe, files, folder / f"{recipe}-{count}", scale="tiny", steps=count, device="cpu")
        spent.append(time.process_time() - begin)
    low, high = plan["seconds_per_step_low"], plan["seconds_per_step_high"]
    return _compare(plan["seconds_per_step"], low, high, (spent[1] - spent[0]) / (2 * steps))


def _compare(expected: float, low: float, high: float, spent: float) -> dict:
    values = {"plan": expected, "low": low, "high": high, "run": spent, "run_over_plan": spent / expected}
    return {key: round(value, 3) for key, value in values.items()} | {"is_in_range": low <= spent <= high}


def main() -> None:
    """Print the comparisons as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="chroma-mfcc,musicnn-mtt:random,clmr:random")
    parser.add_argument("--recipe", default="mert-v0")
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="of calibration")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    time.perf_counter = time.process_time  # the clock of the plans
    loads = [os.getloadavg()[0]]
    results: dict = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CARRARA_HOME"] = str(folder / "home")
        files = write_music(folder, arguments.files)
        for name in filter(None, arguments.encoders.split(",")):
            results[f"embed {name}"] = compare_embed(name, files, arguments.seconds, folder)
            print(name, results[f"embed {name}"], flush=True)
        if arguments.recipe:
            key = f"pretrain {arguments.recipe}, a step"
            results[key] = compare_pretrain(arguments.recipe, files, arguments.steps, folder)
    loads.append(os.getloadavg()[0])
    text = json.dumps(
        {
            **results,
            "unit": "CPU seconds of one thread",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load": [round(load, 1) for load in loads],
        },
        indent=1,
    )
    print(text)
    if arguments.output:
        write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    main()
