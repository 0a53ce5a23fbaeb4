"""Every command and snippet of README, quickstart and tutorials runs, on a little music and the tiny Pebble."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
NUM_RECORDINGS = 16


@pytest.fixture
def user(tmp_path, tiny_pebble):
    """A user's working folder and environment: recordings in ~/Music, by class in ~/my-music; `carrara` on the path."""
    home, work = tmp_path / "home", tmp_path / "work"
    (home / "Music").mkdir(parents=True)
    for path in sorted((tiny_pebble / "audio/songs").rglob("*.flac"))[:NUM_RECORDINGS]:
        shutil.copy(path, home / "Music")
    for number, path in enumerate(sorted((home / "Music").iterdir())):
        folder = home / "my-music" / ("train", "train", "valid", "test")[number // 2 % 4] / ("calm", "wild")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    shutil.copytree(tiny_pebble, work / "data/pebble/tiny")
    command = tmp_path / "bin/carrara"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m carrara "$@"\n')
    command.chmod(0o755)
    environment = {
        "HOME": str(home),
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CARRARA_PROGRESS": "0",
        "HF_HUB_OFFLINE": "1",
    }
    return work, environment


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_of_a_page_run(page, user):
    work, environment = user
    command = [sys.executable, ROOT / "docs/_run.py", page]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_a_tutorial_runs_as_a_notebook(user, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    work, environment = user
    spec = importlib.util.spec_from_file_location("_run", ROOT / "docs/_run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    run.write_notebook(ROOT / "docs/tutorials/embed-a-library.md", work / "page.ipynb")
    notebook = nbformat.read(work / "page.ipynb", as_version=4)
    nbformat.validate(notebook)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("(" in text for text in printed)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in navigation] == []


def read_table(text, first_cell):
    """Return a table's cells by row and column name; its heading begins with this cell."""
    lines = text[text.index(f"|  | {first_cell} |") :].split("\n\n")[0].splitlines()
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(heading[1:], row[1:])) for row in rows}


def test_the_half_widths_of_the_readme_are_those_of_the_page_of_scores():
    readme = read_table(PAGES[0].read_text(encoding="utf-8"), "cqt-mel† | chroma-mfcc")
    scores = read_table((ROOT / "docs/pebble-scores.md").read_text(encoding="utf-8"), "relative-chroma | cqt-mel†")
    tasks = [task for task in readme if task.startswith("pebble/")]
    assert len(tasks) == 9 and len(readme[tasks[0]]) == 6
    for task in tasks:
        for system, cell in readme[task].items():
            value, half_width = map(float, cell.split("±"))
            score, low, high = map(float, re.findall(r"-?[\d.]+", scores[task][system]))
            assert value == score and half_width == pytest.approx((high - low) / 2, abs=0.1), (task, system)
