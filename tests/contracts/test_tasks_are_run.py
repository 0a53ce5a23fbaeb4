"""Every task is measured from the command line: by a test on files of its format, or on the page of Pebble's scores.

The tests have their tasks and what these must reach in tables; a new task without an entry fails here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from carrara.bench.tasks import REGISTRY

ROOT = Path(__file__).parents[2]
# Test files and the names of their tables; a key or a string of a table is a task that the file runs.
TABLES = {
    "tests/bench/marble/test_marble_tasks.py": {"CHANCE", "VARIANTS", "FRAMES"},
    "tests/bench/marble/test_marble_v2_tasks.py": {"EXPECTED"},
    "tests/bench/marble/test_other_datasets.py": {"EXPECTED"},
    "tests/encoders/text/test_laion_clap.py": {"TEXT_TASKS"},
}


def run_in_tests():
    names = set()
    for file, tables in TABLES.items():
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in tables:
                names |= set(ast.literal_eval(node.value))
                tables = tables - {node.targets[0].id}
        assert not tables, f"{file} has no {tables}"
    return names


def test_every_task_is_run():
    page = (ROOT / "docs/pebble-scores.md").read_text(encoding="utf-8")
    on_page = set(re.findall(r"^\| (pebble/[a-z-]+)", page, re.MULTILINE)) | {"pebble/timbre"}
    assert "`pebble/timbre`" in page
    assert set(REGISTRY.names()) - run_in_tests() - on_page == set()
    assert run_in_tests() - set(REGISTRY.names()) == set(), "no such task"
