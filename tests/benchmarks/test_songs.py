"""The benchmark of a song writes what each step costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_step_has_a_time(tmp_path):
    output = tmp_path / "songs.json"
    command = [sys.executable, BENCHMARKS / "songs.py", "--seconds", "40", "--runs", "1", "-o", output]
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    result = json.loads(output.read_text())
    assert result["decode_times_real_time"] == pytest.approx(40 / result["decode_cpu_seconds"], rel=0.02)
    for name in ("effnet-discogs:random", "musicnn-msd:random"):
        assert result[name]["cpu_seconds"] > 0
