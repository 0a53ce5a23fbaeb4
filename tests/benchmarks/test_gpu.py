"""The benchmark of a GPU, in its tiny form on the CPU: every section measures, and none stops the others."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import signal

    import gpu

    before = signal.signal(signal.SIGALRM, gpu.stop_section)
    yield gpu
    signal.signal(signal.SIGALRM, before)


def tiny_setup(gpu):
    return gpu.Setup(torch.device("cpu"), True, gpu.NetworkSize(16, 32, 2, 4), 1.0, (1,), 1)


def test_a_section_that_fails_or_takes_too_long_keeps_its_rows_and_ends_with_a_line(gpu, monkeypatch, capsys):
    def fail(setup, rows):
        rows.append({"value": 1})
        raise RuntimeError("out of memory\nand a long trace")

    def wait(setup, rows):
        rows.append({"value": 2})
        for _ in range(100):
            try:
                time.sleep(1)
            except Exception as problem:  # as compilers do
                raise AssertionError from problem

    monkeypatch.setitem(gpu.SECTIONS, "train", (fail, 10))
    monkeypatch.setitem(gpu.SECTIONS, "encode", (wait, 0.3))
    failed, stopped = (gpu.run_section(name, tiny_setup(gpu)) for name in ("train", "encode"))
    assert (failed["status"], failed["rows"]) == ("failed", [{"value": 1}])
    assert (stopped["status"], stopped["rows"]) == ("over budget", [{"value": 2}])
    assert stopped["seconds"] < 60
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "out of memory" in lines[0]


def test_the_budgets_of_all_sections_are_below_eight_minutes(gpu):
    assert sum(budget for _, budget in gpu.SECTIONS.values()) < 8 * 60


def test_forward_operations_are_those_counted_by_hand(gpu):
    """One layer of D = 16 over F frames: 4 projections, 2 attention products, 2 feed-forward maps."""
    deep, shallow = (gpu.NetworkSize(8, 16, layers, 1) for layers in (3, 2))
    setup = tiny_setup(gpu)
    for build in (gpu.hubert_encoder, gpu.hubert_peer):
        difference = gpu.forward_flops(setup, build(deep)) - gpu.forward_flops(setup, build(shallow))
        frames, dim = 74, 16
        assert difference == 2 * frames * dim * (4 * dim + 2 * frames + 8 * dim)


@pytest.mark.slow
def test_every_section_measures_in_its_tiny_form(tmp_path):
    output = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--small", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    results = json.loads(output.read_text())
    sections = results["sections"]
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(
        ("matrix", "sanity", "train", "data", "encode", "embed", "grid"), "ok"
    ), done.stdout + done.stderr
    assert done.returncode == 0
    # The CPU agrees with itself exactly, and with the peer to float tolerance.
    assert all(row["error"] == 0 for row in sections["sanity"]["rows"] if "bfloat16" not in row["compared"])
    assert all(row["difference"] < 1e-5 for row in sections["encode"]["rows"])
    cases = [(row["compiled"], row["activation_checkpointing"]) for row in sections["train"]["rows"]]
    assert cases == [(False, False), (False, True), (True, False), (True, True), (False, False)]
    assert all(row["mfu"] > 0 for row in sections["train"]["rows"])
    assert all(0 <= row["waiting_fraction"] < 1 for row in sections["data"]["rows"])
    assert {"device", "driver", "versions", "date", "command"} <= set(results)


@pytest.mark.slow
def test_without_a_gpu_it_names_the_option_that_helps(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "-o", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--device cpu --small" in done.stderr
