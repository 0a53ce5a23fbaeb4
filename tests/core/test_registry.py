"""Registries: names from files, listing without importing, entry points, similar names."""

import subprocess
import sys

import pytest

from carrara.core.errors import UsageError
from carrara.core.registry import Registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    package = tmp_path / "attic"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "_base.py").write_text('"""Not on the registry."""')
    (package / "mtg_jamendo.py").write_text('"""A thing.\n\nIts paragraph.\n"""\nTHING = 1\n')
    (package / "inner" / "key.py").write_text('"""Another."""\nTHING = 2\n')
    (package / "bomb.py").write_text('"""Explodes when imported."""\nraise RuntimeError("imported")\n')
    (package / "family.py").write_text('"""A family."""\nVARIANTS = {"fam-a": "first", "fam-b": "second"}\nTHING = 3\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("thing", "attic", "THING")
    for name in [name for name in sys.modules if name.split(".")[0] == "attic"]:
        del sys.modules[name]


def test_names_are_file_names_and_variants_replace_their_family(registry):
    assert registry.names() == ["bomb", "fam-a", "fam-b", "inner/key", "mtg-jamendo"]


def test_listing_imports_nothing(registry):
    assert registry.entries["bomb"].summary == "Explodes when imported."
    assert registry.entries["fam-b"].summary == "second"
    assert registry.entries["mtg-jamendo"].text == "A thing.\n\nIts paragraph."


def test_get_takes_hyphens_and_underscores(registry):
    assert registry.get("mtg_jamendo") == registry.get("mtg-jamendo") == 1
    assert registry.get("inner/key") == 2
    assert registry.get("fam-b") == 3


def test_an_unknown_name_is_refused_with_a_similar_one(registry):
    with pytest.raises(UsageError, match="no thing 'mtg-jamando'.*'mtg-jamendo'"):
        registry.get("mtg-jamando")


def test_other_packages_add_through_entry_points(tmp_path, monkeypatch):
    (tmp_path / "guest.py").write_text('"""From elsewhere."""\nTASK = "hello"\n')
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[carrara.tasks]\nguest-task = guest\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = Registry("task", "carrara.bench.tasks", "TASK", "carrara.tasks")
    assert tasks.entries["guest-task"].summary == "From elsewhere."
    assert tasks.get("guest-task") == "hello"


def test_listing_a_hundred_files_reads_docstrings_only(tmp_path):
    package = tmp_path / "hundred"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for number in range(100):
        (package / f"thing_{number:03}.py").write_text(f'"""Thing {number}."""\nimport torch\nTHING = {number}\n')
    code = (
        "import sys; from carrara.core.registry import Registry;"
        "names = Registry('thing', 'hundred', 'THING').names(); print(len(names), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["100", "False"]
