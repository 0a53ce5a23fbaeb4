"""Commands that take a recording or a table, on what is none: one line that names it, at once, and no traceback."""

import json
import os
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from carrara.cli._main import app

RATE = 16_000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Three recordings and a table of them, which tests copy and do not change."""
    root = tmp_path_factory.mktemp("sounds")
    for number in range(3):
        soundfile.write(root / f"{number}.wav", np.random.default_rng(number).uniform(-0.3, 0.3, RATE), RATE)
    assert run("embed", *sorted(root.glob("*.wav")), "-e", "mfcc", "-o", root / "t.parquet").exit_code == 0
    return root


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
    return done


def refused(words, *arguments):
    done = run(*arguments)
    lines = [line for line in done.stderr.splitlines() if line.startswith("carrara ")]
    assert done.exit_code in (1, 2) and len(lines) == 1, done.output
    assert all(word in lines[0] for word in words), lines[0]


def make_odd(kind, folder, sound):
    """Make a path that is no recording, or none that may be read, and return it."""
    path = folder / {"long name": "x" * 300 + ".wav", "playlist": "a.mp3", "list of FFmpeg": "a.flac"}.get(
        kind, "a.wav"
    )
    text = {"empty": "", "text": "hello\n" * 99, "page": "<html></html>", "playlist": f"#EXTM3U\n{sound}\n",
            "list of FFmpeg": f"ffconcat version 1.0\nfile {sound}\n"}  # fmt: skip
    if kind in text:
        path.write_text(text[kind])
    elif kind in ("header alone", "cut short"):
        path.write_bytes(sound.read_bytes()[: 44 if kind == "header alone" else 1000])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("broken link", "link to itself"):
        path.symlink_to("nowhere" if kind == "broken link" else path.name)
    elif kind == "folder without audio":
        path.mkdir()
    return path


ODD = ("empty", "text", "page", "playlist", "list of FFmpeg", "header alone", "cut short", "pipe", "broken link",
       "link to itself", "folder without audio", "missing", "long name")  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_no_recording(tmp_path, sounds, kind):
    path = make_odd(kind, tmp_path, sounds / "0.wav")
    refused([path.name], "embed", path, "-e", "mfcc", "-o", tmp_path / "o.parquet")
    refused([path.name], "find", path, "--in", sounds / "t.parquet")
    if kind != "folder without audio":
        # Beside a good one it costs itself only.
        done = run("embed", path, sounds / "0.wav", "-e", "mfcc", "-o", tmp_path / "both.parquet")
        assert done.exit_code == 1 and "1 rows of 1 files" in done.stdout, done.output


def replaced(column, values, kind=None):
    """Return a change of a table that puts other values into a column."""

    def change(table):
        array = pyarrow.array(values(table), kind or table.schema.field(column).type)
        return table.set_column(table.schema.get_field_index(column), column, array)

    return change


def vectors(table):
    return [list(vector) for vector in table["embedding"].to_pylist()]


def with_value(value):
    return lambda table: [[value, *vector[1:]] for vector in vectors(table)]


def with_metadata(text):
    return lambda table: table.replace_schema_metadata({"settings": text})


LISTS = pyarrow.list_(pyarrow.float32())
TABLES = {
    "another program's": (lambda table: pyarrow.table({"path": ["a"]}), "not a table"),
    "no rows": (lambda table: table.slice(0, 0), "has no rows|0 recordings"),
    "no metadata": (lambda table: table.replace_schema_metadata(None), "not a table"),
    "metadata cut short": (with_metadata("{"), "not a table"),
    "metadata of a list": (with_metadata("[1]"), "not a table"),
    "metadata nested deep": (with_metadata("[" * 50_000), "not a table"),
    "lists as pandas writes them": (replaced("embedding", vectors, LISTS), "not lists of one length"),
    "unequal lists": (replaced("embedding", lambda t: [[1.0] * n for n in range(3)], LISTS), "not lists of one length"),
    "texts for embeddings": (replaced("embedding", lambda t: ["a"] * 3, pyarrow.string()), "not lists of one length"),
    "no embedding": (replaced("embedding", lambda t: [None] * 3), "without an embedding"),
    "NaN": (replaced("embedding", with_value(float("nan"))), "not finite"),
    "infinite": (replaced("embedding", with_value(float("inf"))), "not finite"),
    "no paths": (replaced("path", lambda t: [None] * 3), "without path"),
    "no starts": (replaced("start", lambda t: [None] * 3), "without start"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_no_table(tmp_path, sounds, kind):
    change, words = TABLES[kind]
    path = tmp_path / "x.parquet"
    pq.write_table(change(pq.read_table(sounds / "t.parquet")), path)
    check_tables(tmp_path, sounds, path, words)


FILES = {"cut short": "not a table", "text": "not a table", "pipe": "a pipe or device", "missing": "no such table",
         "empty folder": "no such table|no audio files in it", "link to itself": "no such table",
         "long name": "too long|no such table"}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_no_file_of_a_table(tmp_path, sounds, kind):
    path = tmp_path / (("x" * 300 if kind == "long name" else "x") + ".parquet")
    if kind == "cut short":
        path.write_bytes((sounds / "t.parquet").read_bytes()[:-20])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path.name)
    check_tables(tmp_path, sounds, path, FILES[kind])


def check_tables(tmp_path, sounds, path, words):
    commands = (("find", sounds / "0.wav", "--in", path), ("index", path, "-o", tmp_path / "x.index"), ("dedupe", path),
                ("map", path, "-o", tmp_path / "x.png"), ("explore", path, "--no-browser", "--port", "0"))  # fmt: skip
    for command in commands:
        done = run(*command)
        lines = done.stderr.splitlines()
        assert done.exit_code in (1, 2) and len(lines) == 1, (command, done.output)
        assert any(word in lines[0] for word in words.split("|")) and path.name in lines[0], (command, lines[0])
    assert not (tmp_path / "x.png").exists()


def test_an_output_of_another_program_stays_as_it_is(tmp_path, sounds):
    for name, content in {
        "x.parquet": b"PAR1 no table",
        "x.csv": b"a,b\n1,2\n",
        "x.npy": b"no array",
        "x.arrow": b"ARROW1",
        "y.csv": b"x" * 200_000,
    }.items():
        (tmp_path / name).write_bytes(content)
        refused([name], "embed", sounds / "0.wav", "-e", "mfcc", "-o", tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize(
    "name", ["\u202egnp.wav", "a\x1b[31m.wav", "a\nb.wav", " a .wav", "#%:?*.wav", "-a.wav", "{a,b}.wav", "🎵.wav"]
)
def test_odd_names_are_found_again(tmp_path, sounds, name):
    shutil.copy(sounds / "0.wav", tmp_path / name)
    shutil.copy(sounds / "1.wav", tmp_path / "other.wav")
    library = tmp_path / "t.parquet"
    assert run("embed", tmp_path, "-e", "mfcc", "-o", library).exit_code == 0
    assert str(tmp_path / name) in pq.read_table(library)["path"].to_pylist()
    found = run("find", tmp_path / name, "--in", library, "--json")
    assert found.exit_code == 0, found.output
    assert [item["path"] for item in json.loads(found.stdout)] == [str(tmp_path / "other.wav")]
