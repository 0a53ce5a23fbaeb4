"""`carrara board`: the table, the machine's list, pages, and what it says when there is nothing to rank."""

import json

import pytest
from typer.testing import CliRunner

from carrara.app.cli import app
from carrara.core.record import Record, write_record


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for system, task, score in (("a", "pebble/key", 0.6), ("b", "pebble/key", 0.2), ("a", "other/row", 0.5)):
        values = {
            "task": {"name": task, "version": 1, "fingerprint": "f", "task": {"scores": ["accuracy"]}},
            "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
            "encoder": {"name": system, "weights": "00", "code": 1, "parameters": 10},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "on": "valid"},
            "grid": [],
            "scores": {"accuracy": {"value": score, "low": score - 0.1, "high": score + 0.1, "unit": "clip", "n": 2}},
            "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "2026-11-21",
                    "command": "c"},
        }  # fmt: skip
        write_record(Record.model_validate(values), folder)
    return folder


def test_json_is_the_agreed_list(results):
    done = carrara("board", results, "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [(row["system"], list(row["rows"])) for row in rows] == [
        ("a", ["other/row"]),
        ("a", ["pebble/key"]),
        ("b", ["pebble/key"]),
    ]
    assert rows[1]["average"] == pytest.approx(60)
    assert carrara("board", results, "--format", "json").stdout == done.stdout


def test_table_and_markdown(results):
    shown = carrara("board", results).stdout
    assert "Pebble scores, constrained protocol" in shown
    assert "60.0 [50.0, 70.0]" in shown
    marked = carrara("board", results, "--suite", "pebble", "--format", "markdown").stdout
    assert marked.startswith("### Pebble scores")
    assert "other/row" not in marked


def test_files_are_written_by_their_ending(results, tmp_path):
    for name, opening in (("a.json", "["), ("a.md", "### "), ("a.html", "<!DOCTYPE html>"), ("a.txt", "Other scores")):
        done = carrara("board", results, "-o", tmp_path / name)
        assert done.exit_code == 0
        assert done.stdout == ""
        assert (tmp_path / name).read_text().lstrip().startswith(opening)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no/such/folder"], 1, "no such folder of results; `carrara bench"),
        (["EMPTY"], 2, "no records in it"),
        (["RESULTS", "--suite", "peble"], 2, "Did you mean 'pebble'?"),
        (["RESULTS", "--json", "--format", "html"], 2, "give one of them"),
    ],
)
def test_what_cannot_be_done_is_one_line(results, tmp_path, arguments, code, words):
    places = {"RESULTS": results, "EMPTY": tmp_path}
    done = carrara("board", *(places.get(word, word) for word in arguments))
    assert done.exit_code == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_suite_that_none_of_the_records_is_of(results, tmp_path):
    import shutil

    shutil.copytree(results, tmp_path / "some", ignore=shutil.ignore_patterns("pebble*"))
    done = carrara("board", tmp_path / "some", "--suite", "pebble")
    assert done.exit_code == 2
    assert "none of these records" in done.stderr
