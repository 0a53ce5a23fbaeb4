"""Compare plans with the runs that they are of, each a command in a process of its own; prints JSON.

    chrt -f 1 python benchmarks/plan.py [--encoders chroma-mfcc,clmr:random] [--recipe mert-v0] [--task pebble/key …]

Recordings of noise and tones (or those of --music) are embedded: planned from a few seconds of some of them, then all.
A recipe's tiny scale is planned, then trained for two numbers of steps, whose difference is the time of a step. A task
of Pebble is planned, then benchmarked. Times are seconds on the wall: above all other work (`chrt -f 1`), or on a
machine that does nothing else. `run_over_plan` is within 0.7 to 1.3 where the goal is met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from carrara.core.io import write_text

RATE = 22_050


def write_music(folder: Path, files: int) -> None:
    """Write FLAC files of 10 to 50 seconds."""
    rng = np.random.default_rng(0)
    for number in range(files):
        times_T = np.arange(round(rng.uniform(10, 50) * RATE)) / RATE
        sound_T = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 1000) * times_T) + 0.05 * rng.standard_normal(len(times_T))
        soundfile.write(folder / f"{number}.flac", sound_T, RATE)


def run_command(*arguments: str | Path) -> tuple[str, float]:
    """Return what a command of Carrara prints, and its seconds on the wall.

    Raises:
        SystemExit: it failed.
    """
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "carrara", *map(str, arguments)], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout, seconds


def compare_embed(name: str, music: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Return plan and run of embedding."""
    common = (music, "-e", name, "--threads", "1", "--device", "cpu")
    plan = json.loads(run_command("plan", "embed", *common, "--seconds", f"{seconds:g}", "--json")[0])
    _, spent = run_command("embed", *common, "-o", folder / "out.parquet")
    size = {"files": plan["files"], "audio_seconds": round(plan["audio_hours"]["expected"] * 3600)}
    return size | _compare(*(plan["seconds"][key] for key in ("expected", "low", "high")), spent)


def compare_pretrain(recipe: str, folder: Path, steps: int) -> dict[str, Any]:
    """Return plan and run of a step of pre-training."""
    common = ("--scale", "tiny", "--device", "cpu")
    plan = json.loads(run_command("plan", "pretrain", recipe, *common, "--corpus", folder / "music", "--json")[0])
    spent = [
        run_command(
            "pretrain",
            recipe,
            "--corpus",
            folder / "music",
            "-o",
            folder / f"run-{count}",
            *common,
            "--steps",
            str(count),
        )
        for count in (steps, 3 * steps)
    ]
    values = (plan[key] for key in ("seconds_per_step", "seconds_per_step_low", "seconds_per_step_high"))
    return _compare(*values, (spent[1][1] - spent[0][1]) / (2 * steps))


def compare_bench(task: str, encoder: str, data: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Return plan and run of benchmarking."""
    common = (encoder, "--task", task, "--data-dir", data, "--device", "cpu")
    plan = json.loads(run_command("plan", "bench", *common, "--seconds", f"{seconds:g}", "--json")[0])[0]["seconds"]
    _, spent = run_command("bench", *common, "--output", folder / "results")
    return _compare(plan["expected"], plan["low"], plan["high"], spent)


def _compare(expected: float, low: float, high: float, spent: float) -> dict[str, Any]:
    values = {"plan": expected, "low": low, "high": high, "run": spent, "run_over_plan": spent / expected}
    return {key: round(value, 3) for key, value in values.items()} | {"is_in_range": low <= spent <= high}


def main() -> None:
    """Print the comparisons as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="chroma-mfcc,musicnn-mtt:random")
    parser.add_argument("--recipe", default="mert-v0")
    parser.add_argument("--task", default="", help="of Pebble; needs --data-dir")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--files", type=int, default=20, help="how many to write")
    parser.add_argument("--music", type=Path, help="a folder of recordings to embed instead")
    parser.add_argument("--seconds", type=float, default=4.0, help="of calibration")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, help="comparisons of others in it stay")
    arguments = parser.parse_args()
    results = json.loads(arguments.output.read_text()) if arguments.output and arguments.output.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"CARRARA_HOME": str(folder / "home"), "CARRARA_PROGRESS": "0"}
        (folder / "music").mkdir()
        write_music(folder / "music", arguments.files)
        named = list(filter(None, arguments.encoders.split(",")))
        music = arguments.music or folder / "music"
        works = {
            f"embed {name}, {sum(1 for _ in music.iterdir())} files": (
                lambda name=name: compare_embed(name, music, folder, arguments.seconds)
            )
            for name in named
        }
        if arguments.recipe:
            key = f"pretrain {arguments.recipe}, a step"
            works[key] = lambda: compare_pretrain(arguments.recipe, folder, arguments.steps)
        if arguments.task:
            key = f"bench {named[0]} on {arguments.task}"
            works[key] = lambda: compare_bench(arguments.task, named[0], arguments.data_dir, folder, arguments.seconds)
        for key, work in works.items():
            results[key] = {
                **work(),
                "unit": "seconds on the wall",
                "real_time": os.sched_getscheduler(0) == os.SCHED_FIFO,
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load": round(os.getloadavg()[0], 1),
            }
            print(key, results[key], file=sys.stderr, flush=True)
            if arguments.output:
                write_text(arguments.output, json.dumps(results, indent=1) + "\n")
            for output in folder.glob("out.parquet*"):
                output.unlink()
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
