"""`carrara leaderboard` and `carrara compare`: tables, JSON, pages, and messages when there is nothing to rank."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from carrara.cli._main import app
from carrara.core.record import Record, write_record


def carrara(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


TASK = {
    "version": 1,
    "dataset": "pebble",
    "split_scheme": "official",
    "task_type": "multiclass",
    "label": "key",
    "labels": ["x", "y"],
    "metrics": ["accuracy"],
    "monitor": "accuracy",
    "category": "acoustic",
}


def write_results(folder, system, task, score):
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
    correct = round(100 * score)
    rows = [{"id": f"{clip}", "seed": 0, "truth": "1", "prediction": str(int(clip < correct))} for clip in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".predictions.parquet"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for system, task, score in (("a", "pebble/key", 0.6), ("b", "pebble/key", 0.2), ("a", "other/task", 0.5)):
        write_results(folder, system, task, score)
    return folder


@pytest.fixture(scope="module")
def marble(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marble")
    write_results(folder, "a", "gtzan/genre", 0.6)
    return folder


def test_json_is_the_agreed_list(results):
    done = carrara("leaderboard", results, "--json")
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert rows[1:] == [
        {
            "system": system,
            "protocol": "constrained",
            "tasks": {"pebble/key": {"accuracy": {each: pytest.approx(value) for each, value in score.items()}}},
            "average": pytest.approx(score["value"]),
            "rank": rank,
        }
        for system, rank, score in (
            ("a", 1, {"value": 60, "low": 50, "high": 70}),
            ("b", 2, {"value": 20, "low": 10, "high": 30}),
        )
    ]
    assert (rows[0]["system"], list(rows[0]["tasks"])) == ("a", ["other/task"])
    assert carrara("leaderboard", results, "--format", "json").stdout == done.stdout


def test_table_and_markdown(results):
    table = carrara("leaderboard", results).stdout
    assert "Pebble scores, constrained protocol" in table
    assert "60.0 [50.0, 70.0]" in table
    markdown = carrara("leaderboard", results, "--suite", "pebble", "--format", "markdown").stdout
    assert markdown.startswith("### Pebble scores")
    assert "other/task" not in markdown


def test_files_are_written_by_their_ending(results, tmp_path):
    openings = {"a.json": "[", "a.md": "### ", "a.html": "<!DOCTYPE html>", "a.tex": r"\begin{table}", "a.txt": "Other"}
    for name, opening in openings.items():
        done = carrara("leaderboard", results, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        assert (tmp_path / name).read_text().lstrip().startswith(opening)
    done = carrara("leaderboard", results, "--suite", "pebble", "-o", tmp_path / "a.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["leaderboard", "no/such/folder"], 1, "no such folder of results; `carrara bench"),
        (["leaderboard", "EMPTY"], 2, "no records in it"),
        (["leaderboard", "RESULTS", "--suite", "peble"], 2, "Did you mean 'pebble' or 'pebble-2'?"),
        (["leaderboard", "RESULTS", "--json", "--format", "html"], 2, "give one of them"),
        (["leaderboard", "RESULTS", "--published"], 2, "marble-v2 only, but the records are of Other scores"),
        (["leaderboard", "RESULTS", "--source", "thesis-6.2"], 2, "marble-v2 only"),
        (["leaderboard", "MARBLE", "--source", "thesis-6.2"], 2, "Did you mean 'thesis-T6.2'"),
        (["leaderboard", "RESULTS", "--format", "picture"], 2, "needs a file"),
        (["leaderboard", "RESULTS", "-o", "x.png"], 2, "give --suite"),
        (["compare", "a", "c", "--results", "RESULTS"], 2, "The systems: a, b."),
        (["compare", "a", "b", "--results", "EMPTY"], 2, "no records in it"),
        (["compare", "a", "b", "--results", "RESULTS", "--suite", "peble"], 2, "Did you mean 'pebble' or 'pebble-2'?"),
    ],
)
def test_misuse_is_one_line(results, marble, tmp_path, arguments, code, words):
    folders = {"RESULTS": results, "MARBLE": marble, "EMPTY": tmp_path}
    done = carrara(*(folders.get(word, word) for word in arguments))
    assert done.exit_code == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_suite_without_any_record(results, tmp_path):
    shutil.copytree(results, tmp_path / "some", ignore=shutil.ignore_patterns("pebble*"))
    done = carrara("leaderboard", tmp_path / "some", "--suite", "pebble")
    assert done.exit_code == 2
    assert "none of the records" in done.stderr


def test_published_scores_need_no_record_of_their_suite(results):
    done = carrara("leaderboard", results, "--suite", "marble-14", "--published")
    assert done.exit_code == 0, done.stderr
    assert "MERT-v1-330M‡" in done.stdout


def test_published_scores_are_shown_beside_ours(marble, tmp_path):
    table = carrara("leaderboard", marble, "--published").stdout
    assert "MERT-v1-330M‡" in table
    assert "60.0 [50.0, 70.0]" in table
    assert "‡" not in carrara("leaderboard", marble).stdout
    rows = json.loads(carrara("leaderboard", marble, "--source", "thesis-T4.1", "--json").stdout)
    assert [row["protocol"] for row in rows] == ["constrained", *["published"] * 5]
    assert [row["rank"] for row in rows] == [1, *[None] * 5]
    page = tmp_path / "leaderboard.html"
    assert carrara("leaderboard", marble, "--published", "-o", page).exit_code == 0
    assert "MERT-v1-330M‡" in page.read_text()
    assert "83.5" in page.read_text()


def test_two_systems_are_compared(results, tmp_path):
    done = carrara("compare", "a", "b", "--results", results)
    assert done.exit_code == 0
    assert "a against b" in done.stdout
    assert "+40.0 [" in done.stdout
    assert "a is better on 1 of 1 tasks: pebble/key." in done.stdout
    comparison = json.loads(carrara("compare", "b", "a", "--results", results, "--json").stdout)
    assert [(each["task"], each["verdict"]) for each in comparison["tasks"]] == [("pebble/key", "worse")]
    assert comparison["tasks"][0]["difference"]["high"] < 0
    written = carrara("compare", "b", "a", "--results", results, "-o", tmp_path / "c.json")
    assert written.stdout == ""
    assert json.loads((tmp_path / "c.json").read_text()) == comparison
    carrara("compare", "b", "a", "--results", results, "-o", tmp_path / "c.txt")
    assert "b against a" in (tmp_path / "c.txt").read_text()
