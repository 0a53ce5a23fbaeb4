"""The benchmark of encoding computes the same by ours and by transformers, with all instructions and with AVX2 only."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_ours_and_the_peer_compute_the_same_and_runs_are_added_to_the_file(tmp_path):
    output = tmp_path / "encode.json"
    small = ["--small", "--rounds", "2", "--batch", "2", "--threads", "1", "-o", str(output)]
    for instructions in ("native", "avx2"):
        command = [sys.executable, BENCHMARKS / "encode.py", *small, "--instructions", instructions]
        subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    native, avx2 = json.loads(output.read_text())
    assert (native["instructions"], avx2["instructions"], avx2["capability"]) == ("native", "avx2", "AVX2")
    for run in (native, avx2):
        ours, quantized, peer = run["rows"]
        assert ours["difference"] < 1e-5 < quantized["difference"] < 0.1 and peer["cpu_ratio"] == 1
        low, high = ours["cpu_ratios"]
        assert 0 < low <= ours["cpu_ratio"] <= high
