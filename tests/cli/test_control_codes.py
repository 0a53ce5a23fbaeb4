"""Control codes in names of systems, tasks and files reach neither the terminal nor a table."""

import io
import json
import re
import unicodedata

import numpy as np
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner

from carrara.bench.leaderboard import tables
from carrara.bench.leaderboard.ranking import build_leaderboards
from carrara.cli._main import app
from carrara.core.printable import one_line, printable
from carrara.core.record import Record, read_records, write_record

HOSTILE = "a\x1b[31m\x1b]0;title\x07b\u202egnp.\u2066c\x9b2Jd\u200f\x7f\n| e"
TASK = {"metrics": ["accuracy"], "monitor": "accuracy"}


def has_codes(text):
    return [
        char for char in text if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]


def record(encoder, task):
    return Record.model_validate(
        {
            "task": {"name": task, "version": 1, "fingerprint": "f", "task": TASK},
            "data": {"name": "x", "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
            "encoder": {"name": encoder, "weights_sha256": "0123456789abcdef", "output_version": 1, "parameters": 1},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "accuracy"},
            "grid": [],
            "scores": {"accuracy": {"value": 0.5, "low": 0.3, "high": 0.7, "unit": "clip", "n": 2}},
            "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "d", "command": "c"},
        }
    )


@pytest.fixture
def results(tmp_path):
    write_record(record(HOSTILE, HOSTILE), tmp_path)
    write_record(record("good", HOSTILE), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("form", "ending"), [("table", "txt"), ("markdown", "md"), ("html", "html"), ("latex", "tex"), ("json", "json")]
)
@pytest.mark.parametrize("to_file", [False, True])
def test_leaderboards(results, form, ending, to_file, tmp_path):
    out = tmp_path / f"board.{ending}"
    arguments = ["leaderboard", str(results), "--format", form, *(["-o", str(out)] if to_file else [])]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = out.read_text(encoding="utf-8") if to_file else done.stdout
    assert "good" in text and not has_codes(text) and not has_codes(done.stderr)
    if form == "json":
        assert {entry["system"] for entry in json.loads(text)} == {HOSTILE, "good"}
    if form == "markdown":
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_a_table_on_a_terminal(results):
    (board,) = build_leaderboards(list(read_records(results)))
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    tables.print_leaderboard(board, console)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # bold and dim are the table's own
    assert "good" in text and not has_codes(text) and "]0;title" in text


def test_messages_warnings_and_listings(results, tmp_path):
    name = HOSTILE.replace("\n", "")
    folder = tmp_path / "own"
    folder.mkdir()
    soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    (folder / f"{name}.mp3").write_bytes(b"no sound" * 100)
    (folder / "labels.jsonl").write_text(json.dumps({"path": f"{name}.wav", "id": HOSTILE, "split": "train", "m": 1}))
    next(results.rglob("*@1.json")).write_text("{")
    for arguments in (
        ["embed", folder, "-e", "mfcc", "-o", tmp_path / "o.parquet"],
        ["leaderboard", results],
        ["compare", name, "good", "--results", results],
        ["show", name],
        ["show", "data:folder", "--clips", "--data-dir", folder],
        ["show", "data:folder", "--clips", "--data-dir", folder, "--json"],
        ["check", "folder", "--data-dir", folder],
        ["bench", name, "-t", "pebble/key"],
    ):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert not has_codes(done.output), (arguments, done.output)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


def test_escapes_are_json_of_the_same_text():
    text = HOSTILE + "\udcff"
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text
    assert one_line("a\tb\nc") == "a\\tb\\nc" and printable("a\tb\nc é 日本 🎵") == "a\tb\nc é 日本 🎵"
