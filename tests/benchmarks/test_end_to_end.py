"""The benchmark of whole runs: its stages are the parts of `carrara embed`, and its ratios follow from their times."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import carrara

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_stages_are_the_parts_of_a_run_and_a_small_run_writes_its_ratios(tmp_path, monkeypatch):
    for name in ("CARRARA_HOME", "CARRARA_PROGRESS", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.setenv(name, "0")  # restored afterwards
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import end_to_end

    files = end_to_end.write_songs(tmp_path, 2, 3.0)
    encoder = carrara.load("musicnn-mtt:random")
    calls = []
    encoder.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(inputs[0].shape)))
    stages = end_to_end.embed_stages(encoder, files, None, "cpu", 1, tmp_path)
    rows = parquet.read_table(tmp_path / "songs.parquet")
    assert not np.stack(rows["embedding"].to_pylist()).any()  # the last that prepared it was decoding alone
    shapes = list(calls)
    calls.clear()
    stages["encode"]()
    assert calls == shapes[: len(calls)] and sum(shape[0] for shape in calls) == len(files)
    stages["embed"]()
    ours = np.stack(parquet.read_table(tmp_path / "songs.parquet")["embedding"].to_pylist())
    whole = np.stack(carrara.embed(files, encoder)["embedding"].to_pylist())
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)

    output = tmp_path / "end.json"
    small = ["--encoder", "musicnn-mtt:random", "--songs", "2", "--seconds", "3", "--rounds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *small, "-o", str(output)])
    end_to_end.main()
    row = json.loads(output.read_text())["musicnn-mtt:random, 1 threads"]
    low, high = row["ratios"]
    assert 0 < low <= row["ratio"] <= high
    assert 0 < row["bound"] <= 1
