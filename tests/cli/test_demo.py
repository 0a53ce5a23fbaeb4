"""The demo from nothing to a report, on a few clips and steps; a second run measures nothing again."""

import json

import pytest
from typer.testing import CliRunner

from carrara.cli import _demo
from carrara.cli._main import app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARRARA_HOME", str(root / "home"))
        patch.setattr(_demo, "SIZE", "tiny")
        patch.setattr(_demo, "TASKS", ("pebble/key", "pebble/emotion", "pebble/beats"))
        arguments = ["demo", "-o", str(root / "out"), "--data-dir", str(root / "pebble/tiny"), "--steps", "4"]
        first = CliRunner().invoke(app, arguments)
        stamps = {path: path.stat().st_mtime_ns for path in (root / "out/results").rglob("*.json")}
        second = CliRunner().invoke(app, arguments)
    return root, first, second, stamps


def test_it_ends_with_a_leaderboard_a_report_and_commands_to_try(twice):
    root, first, _, stamps = twice
    assert first.exit_code == 0, first.output
    assert "Pebble scores, constrained protocol" in first.stdout
    for system in ("cqt-mel", "cqt-mel:random", "chroma-mfcc", "noise"):
        assert system in first.stdout
    assert "carrara embed ~/Music" in first.stderr
    assert len(stamps) == 11, "chroma-mfcc has no beats"
    record = json.loads(next(path for path in stamps if "key" in path.name).read_text())
    assert record["data"]["n"] == {"train": 36, "valid": 12, "test": 24} and not record["partial"]
    page = (root / "out/report.html").read_text()
    assert "<svg" in page and "http" not in page.partition("</style>")[2].replace("https://github.com", "")


def test_the_result_is_explained_and_the_report_plays_and_shows_it(twice):
    root, first, _, _ = twice
    said = first.stdout.partition("What it means:")[2]
    for system in ("cqt-mel (rank", "cqt-mel:random (rank", "chroma-mfcc (rank", "noise has"):
        assert system in said
    page = (root / "out/report.html").read_text()
    assert page.count("<audio controls") == 3 and page.count('src="data:audio/mpeg;base64,') == 3
    assert page.count('class="matrix"') == 3, "key by three systems"
    assert "Maps of the features" not in page, "the map needs the task genre"
    for seed in ("seed of pre-training", "seed of cqt-mel:random", "seed of Pebble", "probes' seed 1234"):
        assert seed in page


def test_a_second_run_says_what_was_done_and_only_prints_the_leaderboard(twice):
    _, first, second, stamps = twice
    assert second.stderr.count("done before") == 3 and "3 of 3 records were there" in second.stderr
    assert "done before" not in first.stderr and "records were there" not in first.stderr
    assert second.exit_code == 0 and second.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_the_report_of_its_records_has_the_matrices_too(twice):
    root, *_ = twice
    done = CliRunner().invoke(app, ["leaderboard", str(root / "out/results"), "-o", str(root / "leaderboard.html")])
    assert done.exit_code == 0, done.output
    assert (root / "leaderboard.html").read_text(encoding="utf-8").count('class="matrix"') == 3
