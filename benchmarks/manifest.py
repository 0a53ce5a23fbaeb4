"""How long `carrara embed` takes from its start to the first batch on a manifest of many rows, and its peak memory.

    python benchmarks/manifest.py --rows 1000000 -o docs/manifest.json

For CSV and Parquet a process of its own runs the command line on one thread, with the encoder `mfcc`; it ends when the
encoder is called for the first time. Only the first recording exists.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import soundfile
import torch
from pyarrow import csv, parquet
from steps import describe_run

RUN = """
import os, sys, time
began = time.monotonic()
from torch.nn.modules.module import register_module_forward_pre_hook
from carrara.cli._main import main
def stop(*_):
    # Not ru_maxrss, which a child takes over from the process that started it.
    peak = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
    sys.stdout.write(f"{time.monotonic() - began} {time.process_time()} {peak}")
    sys.stdout.flush()
    os._exit(0)
register_module_forward_pre_hook(stop)
main()
"""


def measure(manifest: Path, folder: Path) -> dict[str, float]:
    """Return seconds and memory from the start to the first batch."""
    options = ["-e", "mfcc", "-o", f"{folder / 'out'}{os.sep}", "--threads", "1", "--batch-size", "1"]
    command = [sys.executable, "-c", RUN, "embed", str(manifest), *options]
    environment = {**os.environ, "CARRARA_PROGRESS": "0", "CARRARA_HOME": str(folder / "home")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    wall, cpu, kilobytes = map(float, done.stdout.split())
    return {"wall_seconds": round(wall, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(kilobytes * 1024 / 1e6)}


def main() -> None:
    """Measure both formats and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    result = {**describe_run(torch.device("cpu")), "rows": arguments.rows}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [f"album {row // 12}/{row:07d}.wav" for row in range(arguments.rows)]
        (folder / paths[0]).parent.mkdir()
        soundfile.write(folder / paths[0], np.full(22_050, 0.1), 22_050)
        table = pyarrow.table({"path": paths})
        csv.write_csv(table, folder / "songs.csv")
        parquet.write_table(table, folder / "songs.parquet")
        for kind in ("csv", "parquet"):
            result[kind] = measure(folder / f"songs.{kind}", folder)
            print(kind, result[kind], flush=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
