"""The scripts of benchmarks/ as modules and as commands, and what they run on."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(request):
    """Return the script of benchmarks/ that a test module names in SCRIPT."""
    name = request.module.SCRIPT
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch):
    """Run a script's main in this process: importing torch for each takes longer than its work."""

    def run(script, arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.syspath_prepend(BENCHMARKS)
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")

    return run


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


@pytest.fixture
def pebble_folder(pebble_root, tmp_path):
    """What --data-dir takes for the small Pebble."""
    (tmp_path / "data/pebble").mkdir(parents=True)
    (tmp_path / "data/pebble/demo").symlink_to(pebble_root)
    return tmp_path / "data"
