"""`carrara cache clean` removes what nobody uses, and nothing that a running process reads or writes."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.io import DRAFT_PREFIX
from carrara.features.cache import list_stores, remove_stores
from carrara.features.extract import WindowSpec, extract


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def clean(*options):
    result = CliRunner().invoke(app, ["cache", "clean", "--yes", *options])
    assert result.exit_code == 0, result.output
    return result


def test_features_that_are_read_stay_until_they_are_not(tmp_path, plain, clips):
    features = extract(plain(), clips(1.0, 2.0), WindowSpec(pool="mean"))
    before = np.array(features.layer("0"))
    result = clean()
    assert result.stdout.startswith("0 stores removed")
    assert "kept, another process has it open" in result.stderr
    np.testing.assert_array_equal(features.layer("0"), before)
    assert json.loads(clean("--json").stdout)["in_use"] == [str(features.store.folder)]
    size = sum(file.stat().st_size for file in features.store.folder.iterdir())
    del features
    assert json.loads(clean("--json").stdout) == {"removed": 1, "bytes": size, "in_use": []}
    assert list((tmp_path / "home" / "features").iterdir()) == []


def test_cleaning_again_and_again_disturbs_no_extraction(plain, clips):
    sounds = clips(0.5, 1.0, 1.5)
    truth = np.array(extract(plain(), sounds, WindowSpec(pool="mean")).layer("0"))
    ended, freed = threading.Event(), []

    def clean_all():
        while not ended.is_set():
            freed.append(remove_stores(list_stores(), others=True).freed)

    with ThreadPoolExecutor(1) as thread:
        cleaning = thread.submit(clean_all)
        try:
            for _ in range(30):
                again = extract(plain(), sounds, WindowSpec(pool="mean"))
                np.testing.assert_array_equal(again.layer("0"), truth)
        finally:
            ended.set()
        cleaning.result()
    assert any(freed)


HOLD = """
import sys, time
from pathlib import Path
from carrara.core.io import atomic_write
with atomic_write(Path(sys.argv[1])) as tmp:
    tmp.write_bytes(bytes(100_000))
    print(tmp, flush=True)
    time.sleep(60)
"""


def test_drafts_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path):
    children = []
    for name in ("encoders/a/model.safetensors", "shards/b.json"):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "home" / name)]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    try:
        assert all(DRAFT_PREFIX in child.stdout.readline() for child in children)
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        assert json.loads(clean("--json").stdout)["bytes"] == 100_000
        assert [path.parent.name for path in (tmp_path / "home").rglob(f"{DRAFT_PREFIX}*")] == ["shards"]
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
