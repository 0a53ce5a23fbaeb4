"""How long a person waits for help and lists: CPU seconds of whole commands, beside a Python that does nothing.

    python benchmarks/startup.py

Peers' figures on a like machine are in style.md 1.0 (lm-eval --help 3.7, mteb --help 16.7, lm-eval ls tasks 45.4).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

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
    runs = parser.parse_args().runs
    for name, command in COMMANDS.items():
        times = [cpu_seconds(command) for _ in range(runs + 1)][1:]
        print(f"{name:<24} {statistics.median(times):6.2f} s CPU   ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
