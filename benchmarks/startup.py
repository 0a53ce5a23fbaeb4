"""How long a person waits for help and lists: CPU seconds of whole commands, beside a Python that does nothing.

    python benchmarks/startup.py [-o docs/startup.json]

Peers' figures on a like machine are in style.md 1.0 (lm-eval --help 3.7, mteb --help 16.7, lm-eval ls tasks 45.4).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import carrara": [sys.executable, "-c", "import carrara"],
    "carrara --help": [sys.executable, "-m", "carrara", "--help"],
    "carrara bench --help": [sys.executable, "-m", "carrara", "bench", "--help"],
    "carrara ls": [sys.executable, "-m", "carrara", "ls"],
    "carrara ls tasks": [sys.executable, "-m", "carrara", "ls", "tasks"],
}


def cpu_seconds(command: list[str]) -> float:
    """Return the user and system seconds that one run of a command took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median of several runs of each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="runs of each command (default 7)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1),
        "runs": options.runs,
    }
    for name, command in COMMANDS.items():
        times = [cpu_seconds(command) for _ in range(options.runs + 1)][1:]
        extremes = [round(min(times), 3), round(max(times), 3)]
        result[name] = {"cpu_seconds": round(statistics.median(times), 3), "range": extremes}
        print(name, result[name], flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
