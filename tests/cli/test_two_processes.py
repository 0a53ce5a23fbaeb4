"""Two processes on one output, home or store: each ends well or in one line, and what is left is whole."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

import carrara
from carrara.cli._main import app
from carrara.core.io import DRAFT_PREFIX
from carrara.core.record import read_records
from carrara.encoders._hub.load import build_encoder
from carrara.formats.weights import save_tensors

RATE = 8000
# Each process imports what the command needs and waits for a line, so that the commands begin together.
COMMAND = """
import sys
import carrara.cli._main
import carrara.bench.run, carrara.features.table_files, carrara.features.neighbour_index
import carrara.encoders._hub.import_official, carrara.encoders.mert
print("ready", flush=True)
sys.stdin.readline()
sys.exit(carrara.cli._main.main())
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def run_together():
    """Run commands at once, each in a process; return their exit codes and what they wrote to standard error."""

    def run(*commands):
        environment = {**os.environ, "CARRARA_PROGRESS": "0"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        children = [
            subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, command)], env=environment, **pipes)
            for command in commands
        ]
        try:
            for child in children:
                assert child.stdout.readline() == "ready\n", child.stderr.read()
            for child in children:
                child.stdin.write("\n")
                child.stdin.flush()
            ends = [child.communicate(timeout=500)[1] for child in children]
        finally:
            for child in children:
                child.kill()
                child.wait()
        return [(child.returncode, said) for child, said in zip(children, ends)]

    return run


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


def check_told(ends):
    """One process at least succeeds; another that does not says in one line that the output is being written."""
    assert any(code == 0 for code, _ in ends), ends
    for code, said in ends:
        assert "Traceback" not in said
        if code:
            assert code == 1 and "another process is writing here" in said and said.count("\n") == 1, said


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    lines = ["path,split,loud"]
    for number in range(24):
        loud = number % 2
        sound = (0.02 + 0.3 * loud) * np.random.default_rng(number).standard_normal(RATE // 4)
        soundfile.write(folder / f"{number:02d}.wav", sound.clip(-1, 1), RATE)
        lines.append(f"{number:02d}.wav,{('train', 'valid', 'test')[number // 2 % 3]},{('no', 'yes')[loud]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "loud.toml").write_text('data = "music"\ntask_type = "multiclass"\nlabel = "loud"\nmax_epochs = 2\n')
    return folder


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_embed_to_one_output(tmp_path, music, run_together, name):
    out = tmp_path / name
    command = ("embed", music, "-e", "noise", "-o", out)
    check_told(run_together(command, command))
    table = carrara.embed(music, "noise")
    assert sorted(pq.read_table(out).to_pylist(), key=lambda row: row["path"]) == table.to_pylist()
    assert not list(tmp_path.glob("out.*.parts"))


def test_bench_to_one_results_folder_while_the_cache_is_cleaned(tmp_path, monkeypatch, music, run_together):
    def command(encoder, results):
        return "bench", encoder, "-t", str(tmp_path / "loud.toml"), "--device", "cpu", "-o", str(tmp_path / results)

    # The same encoder twice, another one, and whatever is in the cache is removed meanwhile.
    clean = ("cache", "clean", "--yes")
    ends = run_together(*(command(name, "results") for name in ("mfcc", "mfcc", "noise")), clean, clean)
    assert [code for code, _ in ends] == [0] * 5, ends
    assert all("Traceback" not in said for _, said in ends)
    records = {record.encoder.name: record for record in read_records(tmp_path / "results")}
    assert set(records) == {"noise", "mfcc"}
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "another"))
    assert CliRunner().invoke(app, command("mfcc", "alone")).exit_code == 0
    (truth,) = read_records(tmp_path / "alone")
    assert truth.scores == records["mfcc"].scores and truth.grid == records["mfcc"].grid
    assert not list((tmp_path / "results").rglob(f"{DRAFT_PREFIX}*"))


def test_index_of_one_table(tmp_path, music, run_together):
    table = tmp_path / "music.parquet"
    assert CliRunner().invoke(app, ["embed", str(music), "-e", "mfcc", "-o", str(table)]).exit_code == 0
    check_told(run_together(("index", table), ("index", table)))
    copy = shutil.copy(table, tmp_path / "copy.parquet")  # without an index: all rows are compared
    for query in (music / "00.wav", music / "13.wav"):
        found, truth = (
            carrara.find(query, library, count=5).to_pylist() for library in (tmp_path / "music.index", copy)
        )
        assert [row["path"] for row in found] == [row["path"] for row in truth] and len(found) == 5


def test_import_to_one_folder_leaves_one_of_the_two(tmp_path, run_together):
    commands = []
    for seed in (1, 2):
        file = tmp_path / f"{seed}.safetensors"
        save_tensors(build_encoder("mert-tiny", seed=seed).state_dict(), file)
        commands.append(("import", "mert-tiny", "--file", file, "-o", tmp_path / "mine"))
    check_told(run_together(*commands))
    digest = carrara.load(tmp_path / "mine").card.weights_sha256
    assert digest in {carrara.load(f"mert-tiny:random-{seed}").card.weights_sha256 for seed in (1, 2)}
    assert json.loads((tmp_path / "mine" / "config.json").read_text())
