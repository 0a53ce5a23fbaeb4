"""The load test of the service runs in a small size and prints a line for each number of clients."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_small_load_prints_a_table():
    command = [sys.executable, BENCHMARKS / "serve.py", "mfcc", "--clients", "1", "2", "--requests", "6"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=BENCHMARKS.parent).stdout
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if " clients " in line]
    assert [row[0] for row in rows] == ["1 clients", "2 clients"]
    assert all(0 < float(row[2]) <= float(row[3]) for row in rows)
