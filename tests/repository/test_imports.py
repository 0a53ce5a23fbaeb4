"""Imports point down and cost nothing: the layers hold, and help and lists load neither torch nor arrays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "pyarrow", "soundfile", "av", "soxr", "mir_eval"}


def loaded_by(code):
    """Return the names of the top-level modules that a fresh Python has after running `code`."""
    full = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(arguments):
    return (
        "import contextlib, io\nfrom typer.testing import CliRunner\nfrom carrara.cli._main import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\nassert result.exit_code == 0, result.output"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import carrara",
        command(["--help"]),
        command(["bench", "--help"]),
        command(["pretrain", "--help"]),
        command(["ls"]),
        command(["ls", "encoders"]),
        command(["ls", "tasks", "--json"]),
    ],
)
def test_help_and_lists_load_nothing_heavy(code):
    assert not loaded_by(code) & HEAVY


@pytest.mark.slow
def test_encoders_load_without_torchs_compiler_or_sympy():
    """They would be 110 MB and seconds of every command; torch imports them for some operations on the meta device."""
    small = {"dim": 8, "depths": (1,), "heads": (1,), "text_layers": 1, "vocabulary": 20, "text_dim": 16}
    code = (
        "from carrara.encoders._hub.load import build_encoder\n"
        "for name in ('mert-tiny', 'music2vec-tiny', 'maest-tiny', 'mel-conformer-tiny', 'cqt-mel-tiny'):\n"
        "    build_encoder(name)\n"
        f"build_encoder('laion-clap-general', changes={small!r})"
    )
    loaded = loaded_by(code)
    assert "torch" in loaded and not loaded & {"sympy", "cloudpickle", "triton", "mpmath"}


TABLES = ["leaderboard --published", "leaderboard --published --format csv", "show pebble/key", "show gtzan"]
MISTAKES = [
    "bench nothing -t pebble/key",
    "bench noise -t pebble/nothing",
    "bench noise -p nothing",
    "check nothing",
    "compare a b --results nothing",
    "dedupe nothing.parquet",
    "embed /nothing -e mfcc -o x.parquet",
    "embed . -e nothing -o x.parquet",
    "embed . -e mfcc -o x.pdf",
    "import nothing",
    "import mert-v1-95m --file nothing",
    "leaderboard nothing",
    "leaderboard -o x.pdf",
    "map nothing.parquet",
    "pretrain nothing -c . -o x",
    "pretrain mert-v0 -c /nothing -o x",
    "push nothing a/b",
    "reproduce nothing",
    "tag /nothing -e mfcc",
]


def test_tables_and_mistakes_in_commands_import_no_torch():
    """Of one process, since each start takes a second."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom carrara.cli._main import app\n"
        f"for arguments in {TABLES + MISTAKES!r}:\n"
        "    result = CliRunner().invoke(app, arguments.split())\n"
        f"    assert (result.exit_code == 0) == (arguments in {TABLES!r}), result.output\n"
        "    assert 'torch' not in sys.modules, arguments"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


STORED = ["show mert-v1-95m --json", "show musicnn-msd", "show protocols:linear", "show cqt", "show lstm"]
STORED += ["show thesis-5-3", "ls encoders --table", "ls encoders --commercial"]


def show_all(home):
    """Return what the commands of STORED print, and whether their process imported torch."""
    code = (
        "import json, sys\nfrom typer.testing import CliRunner\nfrom carrara.cli._main import app\n"
        f"outputs = [CliRunner().invoke(app, arguments.split()).stdout for arguments in {STORED!r}]\n"
        "print(json.dumps([outputs, 'torch' in sys.modules]))"
    )
    environment = {**os.environ, "CARRARA_HOME": str(home), "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_facts_of_encoders_and_protocols_import_torch_only_once(tmp_path):
    first, imported = show_all(tmp_path)
    assert imported and all(first)
    assert show_all(tmp_path) == [first, False]
    store = tmp_path / "facts" / "encoders.json"
    store.write_text(store.read_text().replace("CC-BY-NC-4.0", "of nobody"))
    assert "of nobody" in show_all(tmp_path)[0][0]  # the store is what was read
    store.write_text(json.dumps(json.loads(store.read_text()) | {"sources": "those of another version"}))
    assert show_all(tmp_path) == [first, True]


def test_core_and_data_import_no_torch():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("core", "audio", "data")
        for path in sorted((ROOT / "carrara" / room).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(modules) > 15
    assert "torch" not in loaded_by("\n".join(f"import {module}" for module in modules))


def test_importing_carrara_creates_nothing(tmp_path):
    code = "import carrara, carrara.cli._main"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"HOME": str(tmp_path), "PATH": ""})
    assert list(tmp_path.iterdir()) == []
