"""`carrara board`: the table, the machine's list, pages, and what it says when there is nothing to rank."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.record import Record, write_record


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


TASK = {
    "version": 1, "dataset": "pebble", "split_scheme": "official", "task_type": "multiclass", "label": "key", "labels": ["x", "y"],
    "metrics": ["accuracy"], "monitor": "accuracy", "category": "acoustic",
}  # fmt: skip


def keep(folder, system, task, score):
    values = {
        "task": {"name": task, "version": 1, "fingerprint": "f", "task": TASK},
        "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": system, "weights_sha256": "00", "output_version": 1, "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
        "grid": [],
        "scores": {"accuracy": {"value": score, "low": score - 0.1, "high": score + 0.1, "unit": "clip", "n": 2}},
        "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "2026-11-21",
                "command": "c"},
    }  # fmt: skip
    path = write_record(Record.model_validate(values), folder)
    right = round(100 * score)
    rows = [{"id": f"{place}", "seed": 0, "truth": "1", "answer": str(int(place < right))} for place in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".predictions.parquet"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for system, task, score in (("a", "pebble/key", 0.6), ("b", "pebble/key", 0.2), ("a", "other/row", 0.5)):
        keep(folder, system, task, score)
    return folder


@pytest.fixture(scope="module")
def marble(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marble")
    keep(folder, "a", "gtzan/genre", 0.6)
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
    openings = {"a.json": "[", "a.md": "### ", "a.html": "<!DOCTYPE html>", "a.tex": r"\begin{table}", "a.txt": "Other"}
    for name, opening in openings.items():
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
        (["RESULTS", "--published"], 2, "marble-14 alone; here are Other scores"),
        (["RESULTS", "--source", "thesis-6.2"], 2, "marble-14 alone"),
        (["MARBLE", "--source", "thesis-6.2"], 2, "Did you mean 'thesis-T6.2'"),
        (["RESULTS", "--results", "RESULTS"], 2, "give one folder"),
        (["a", "b"], 2, "`carrara board compare A B"),
        (["compare"], 2, "two systems, not 0"),
        (["compare", "a", "b", "RESULTS"], 2, "two systems, not 3"),
        (["compare", "a", "c", "--results", "RESULTS"], 2, "The systems: a, b."),
        (["compare", "a", "b", "--results", "RESULTS", "--format", "latex"], 2, "a table or JSON, not latex"),
        (["compare", "a", "b", "--results", "RESULTS", "--published"], 2, "leave --published"),
    ],
)
def test_what_cannot_be_done_is_one_line(results, marble, tmp_path, arguments, code, words):
    places = {"RESULTS": results, "MARBLE": marble, "EMPTY": tmp_path}
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


def test_published_scores_stand_beside_ours(marble, tmp_path):
    shown = carrara("board", marble, "--published").stdout
    assert "MERT-v1-330M‡" in shown
    assert "60.0 [50.0, 70.0]" in shown
    assert "‡" not in carrara("board", marble).stdout
    rows = json.loads(carrara("board", "--results", marble, "--source", "thesis-T4.1", "--json").stdout)
    assert [row["published"] for row in rows] == [False, *[True] * 5]
    assert {row["system"]: row["rank"] for row in rows}["a"] == 1
    page = tmp_path / "board.html"
    assert carrara("board", marble, "--published", "-o", page).exit_code == 0
    assert "MERT-v1-330M‡" in page.read_text()
    assert "83.5" in page.read_text()


def test_two_systems_are_compared(results, tmp_path):
    done = carrara("board", "compare", "a", "b", "--results", results)
    assert done.exit_code == 0
    assert "a against b" in done.stdout
    assert "+40.0 [" in done.stdout
    assert "a is better on 1 of 1 rows: pebble/key." in done.stdout
    found = json.loads(carrara("board", "compare", "b", "a", "--results", results, "--json").stdout)
    assert [(row["task"], row["verdict"]) for row in found["rows"]] == [("pebble/key", "worse")]
    assert found["rows"][0]["difference"]["high"] < 0
    written = carrara("board", "compare", "b", "a", "--results", results, "-o", tmp_path / "c.json")
    assert written.stdout == ""
    assert json.loads((tmp_path / "c.json").read_text()) == found


def test_a_folder_may_be_called_compare(results, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(results, tmp_path / "compare")
    monkeypatch.chdir(tmp_path)
    assert "Pebble scores" in carrara("board", "compare").stdout
