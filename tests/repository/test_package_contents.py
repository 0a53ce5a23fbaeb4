"""What a wheel and an sdist hold: every file of the package, and in the sdist what its tests and documents need."""

import re
import subprocess
import tomllib
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked_files():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [PurePath(line) for line in done.stdout.splitlines()]


def test_every_file_of_the_package_is_in_the_wheel():
    endings = {
        f".{pattern.rpartition('.')[2]}" for pattern in SETTINGS["tool"]["setuptools"]["package-data"]["carrara"]
    }
    files = [path for path in tracked_files() if path.parts[0] == "carrara"]
    lacking = [path for path in files if path.suffix not in {".py", *endings} and path.name != "py.typed"]
    assert files and not lacking, "pyproject.toml: package-data has no pattern for them"
    packages = {path.parent for path in files if path.name == "__init__.py"}
    assert not [path for path in files if path.suffix == ".py" and path.parent not in packages], "no package"


def test_the_sdist_has_every_document_test_and_example():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    grafted = set(re.findall(r"^graft (\S+)", manifest, re.MULTILINE))
    included = {name for line in re.findall(r"^include (.+)", manifest, re.MULTILINE) for name in line.split()}
    own = {"carrara", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}  # setuptools adds these itself
    lacking = [path for path in tracked_files() if path.parts[0] not in grafted | included | own]
    assert [path for path in lacking if not path.parts[0].startswith(".")] == []


def test_workflows_run_commands_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    commands = [line for path in workflows for line in re.findall(r"run: (.+)", path.read_text(encoding="utf-8"))]
    assert {"make lint", "make test", "make demo", "make docs", "make package"} <= set(commands)
    assert all(command.removeprefix("make ") in targets for command in commands)


def test_the_container_copies_files_that_exist_and_ends_without_root():
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    sources = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert {"constraints.txt", "pyproject.toml", "carrara"} <= set(sources)
    assert all((ROOT / name).exists() for name in sources)
    assert [line.split()[1] for line in lines if line.startswith("USER ")] == ["1000"]
