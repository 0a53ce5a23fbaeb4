"""Measure the peak memory of `carrara embed` on one long recording, for several encoders; prints JSON.

    python benchmarks/memory.py --minutes 180 [--encoders musicnn-mtt:random,…] [--output docs/memory.json]

Of `NAME:saved` and `NAME:saved:int8` the random weights are saved first and loaded from their folder, as imported
weights are: what is not used of a file that is mapped takes no memory.

A process of its own embeds each encoder's recording, on the CPU with one thread; its peak resident size is the kernel's
(ru_maxrss; this process, which it includes, is smaller). The recording is noise around a tone, written as a stream. Of
costly encoders less can be measured, once with half of it beside: what a recording's length does not change is the same
in both. With --output, measurements of other encoders and lengths in that file stay.
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

import numpy as np
import soundfile

from carrara.core.io import write_text
from carrara.encoders import get_card

RATE, BLOCK_SECONDS = 16_000, 60
SAVED = ":saved"
ENCODERS = ("chroma-mfcc", "cqt-mel:random", "musicnn-mtt:random", "effnet-discogs:random", "clmr:random")


def write_noise(path: Path, minutes: float) -> None:
    """Write a recording of so many minutes, block by block, in the format that the ending names."""
    rng, samples = np.random.default_rng(0), round(minutes * 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for begin in range(0, samples, BLOCK_SECONDS * RATE):
            times_T = np.arange(begin, min(begin + BLOCK_SECONDS * RATE, samples)) / RATE
            tone_T = 0.3 * np.sin(2 * np.pi * 220 * times_T)
            file.write((tone_T + 0.05 * rng.standard_normal(len(times_T), np.float32)).astype(np.float32))


def measure(encoder: str, recording: Path, folder: Path) -> dict:
    """Embed a recording in a process of its own; return its peak memory and its times."""
    output = folder / "out.parquet"
    output.unlink(missing_ok=True)
    if SAVED in encoder:
        name, _, int8 = encoder.partition(SAVED)
        save = f"import carrara; carrara.load({name + ':random'!r}).save_pretrained({str(folder / name)!r})"
        subprocess.run([sys.executable, "-c", save], check=True)
        encoder = f"{folder / name}{int8}"
    command = [sys.executable, "-m", "carrara", "embed", recording, "-e", encoder, "-o", output, "--threads", "1"]
    environment = {**os.environ, "CARRARA_PROGRESS": "0", "CARRARA_HOME": str(folder / "home")}
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--device", "cpu", "--json"], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{encoder}: carrara embed ended with exit code {process.returncode}")
    return {
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=180)
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--format", default="flac", help="flac, wav, mp3, ogg")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    if arguments.output and arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recording = folder / f"noise.{arguments.format}"
        write_noise(recording, arguments.minutes)
        for encoder in arguments.encoders.split(","):
            load = os.getloadavg()[0]
            values = measure(encoder, recording, folder)
            results[f"{encoder}, {arguments.minutes:g} minutes of {arguments.format}"] = {
                **values,
                "weights_mb": round(4 * get_card(encoder.partition(":")[0]).parameters / 1e6),
                "load": round(load, 1),
                "date": time.strftime("%Y-%m-%d"),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
            text = json.dumps(results, indent=1)
            if arguments.output:
                write_text(arguments.output, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
