"""The benchmark of neighbours runs in a small size, writes what it measured, and its truth is the exact search."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_small_run_writes_its_measurements(tmp_path):
    output = tmp_path / "find.json"
    command = [sys.executable, BENCHMARKS / "find.py", "--rows", "3000", "--dim", "16", "--queries", "20"]
    subprocess.run([*command, "--output", output], check=True, capture_output=True, cwd=BENCHMARKS.parent)
    result = json.loads(output.read_text())
    assert (result["rows"], result["dim"], result["new_recordings"]) == (3000, 16, 1000)
    assert result["exact_recall_at_10"] == 1
    assert result["recall_at_10"] > 0.9
    assert all(
        result[key] > 0 for key in ("index_cpu_ms", "resident_idle_mb", "build_cpu_seconds", "update_wall_seconds")
    )
