"""The benchmark of large manifests measures the command line up to its first batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of memory from /proc")
def test_a_small_manifest_is_measured(tmp_path):
    output = tmp_path / "manifest.json"
    command = [sys.executable, BENCHMARKS / "manifest.py", "--rows", "50", "-o", output]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    result = json.loads(output.read_text())
    for kind in ("csv", "parquet"):
        assert result[kind]["cpu_seconds"] > 0 and 100 < result[kind]["peak_mb"] < 2000
