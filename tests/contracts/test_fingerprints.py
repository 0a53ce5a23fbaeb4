"""A task whose question changes raises its version: the fingerprints stand in a file and are compared."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "golden" / "write_fingerprints.py"
SPEC = importlib.util.spec_from_file_location("write_fingerprints", PATH)
WRITER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(WRITER)
GOLDEN = json.loads(WRITER.GOLDEN.read_text())
CURE = "; then run `python tests/golden/write_fingerprints.py`"


@pytest.mark.parametrize("name", sorted({*GOLDEN, *WRITER.current()}))
def test_a_changed_task_has_a_new_version(name):
    version, found = WRITER.current().get(name, (None, None))
    known_version, known = GOLDEN.get(name, (None, None))
    assert known is not None, f"{name} is new{CURE}"
    assert found is not None, f"{name} is gone: a published name stays{CURE}"
    assert found == known or version > known_version, f"{name} changed: raise its version and say so in its docstring"
    assert found == known, f"{name}@{version} is not written down yet{CURE}"
