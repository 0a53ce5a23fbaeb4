"""Every script of examples/ runs as its docstring says, on a little music and the tiny Pebble."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.data import REGISTRY

ROOT = Path(__file__).parents[2]
MAX_LINES = 60
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_pebble):
    """Returns a function that runs an example in a folder with recordings, the tiny Pebble and an encoder."""
    folder = tmp_path_factory.mktemp("examples")
    pebble = folder / "data/pebble/tiny"
    shutil.copytree(tiny_pebble, pebble)
    songs = [clip for clip in REGISTRY.get("pebble").clips(pebble, "songs") if clip.split]
    (folder / "music").mkdir()
    for clip in songs[:8]:
        shutil.copy(clip.path, folder / "music")
    for clip in songs[:40]:
        label = "calm" if clip.labels["tempo"] < 110 else "fast"
        (folder / "recordings" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip.path, folder / "recordings" / label)

    def run(script, *arguments):
        environment = {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CARRARA_HOME": str(folder / "home"), "HOME": str(folder),
            "OMP_NUM_THREADS": "1", "CARRARA_PROGRESS": "0", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        command = [sys.executable, ROOT / "examples" / script, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run.folder = folder
    return run


@pytest.mark.slow
def test_embedding_and_similar_songs(run):
    assert "8 recordings" in run("embed_library.py", "music", "music.parquet")
    arguments = ["embed", str(run.folder / "music"), "-e", "chroma-mfcc", "-o", str(run.folder / "table.parquet")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    song, *_, other = sorted((run.folder / "music").iterdir())
    *nearest, walk = run("similar_songs.py", "table.parquet", str(song), str(other)).splitlines()
    assert len(nearest) == 7 and other.name in "".join(nearest), "all but the song itself"
    similarities = [float(line.split()[0]) for line in nearest]
    assert similarities == sorted(similarities, reverse=True)
    assert walk.startswith(f"{song.stem} → ") and walk.endswith(f" → {other.stem}") and walk.count("→") == 5


@pytest.mark.slow
def test_pretraining_fine_tuning_and_layers(run):
    assert "mert:random" in run("pretrain.py", "music", "mert", "data/pebble/tiny", "2")
    assert run("fine_tune.py", "mert", "data/pebble/tiny", "tuned", "1").count(": accuracy ") == 3
    printed = run("plot_layers.py", "mert", "data/pebble/tiny", "layers.svg")
    assert printed.count("chosen") == 2 and "'weighted-sum'" in printed
    assert (run.folder / "layers.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_own_encoder_own_task_and_leaderboard(run):
    printed = run("own_encoder.py", "data/pebble/tiny", "own-encoder")
    assert re.search(r"spectrogram", printed, re.IGNORECASE) and "floor" in printed
    assert "chroma" in run("own_task.py", "recordings", "own-task")
    assert "leaderboard.png" in run("leaderboard.py", "data", "leaderboard.png", "tiny")
    assert (run.folder / "leaderboard.png").stat().st_size > 10_000


def test_examples_are_short_and_run_by_a_test():
    tested = Path(__file__).read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert len(script.read_text(encoding="utf-8").splitlines()) <= MAX_LINES, script.name
        assert f'"{script.name}"' in tested, f"{script.name} is run by no test"
