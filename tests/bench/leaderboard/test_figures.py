"""Figures 6.1 and 6.2: means against the printed table, hours and parameters against table 6.1, files, own records."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ET

import pytest
from PIL import Image
from typer.testing import CliRunner

from carrara.bench.leaderboard.figures import draw_figures, figure_systems, level_tasks, task_kinds
from carrara.bench.leaderboard.published import SUITE_SOURCES, TABLE
from carrara.bench.leaderboard.ranking import add_published
from carrara.cli._main import app
from carrara.core.errors import UsageError

# Table 6.1: hours of training audio (the thesis's number, or the ends of its range) and millions of parameters.
TABLE_6_1 = {
    "Music2Vec": (1e3, 95),
    "MERT-v0-95M": (1e3, 95),
    "MERT-v1-95M": (17e3, 95),
    "MERT-v1-330M": (160e3, 330),
    "MULE": (117.5e3, 62.4),
    "CLMR": (1700, 2.5),
    "MusiCNN": (10e3, 8),
    "Jukebox-5B": (60e3, 5000),
}


@pytest.fixture
def published():
    return add_published([])[0]


def printed(system, dataset, task):
    with TABLE.open(encoding="utf-8") as file:
        values = [
            float(row["value"])
            for row in csv.DictReader(file, delimiter="\t")
            if (row["system"], row["dataset"], row["task"]) == (system, dataset, task)
            and row["source_table"] in ("thesis-T6.2", "thesis-T6.3")
        ]
    return sum(values) / len(values)


def test_levels_and_task_types_are_means_of_the_printed_scores(published):
    systems = {system.name: system for system in figure_systems(published)}
    levels, kinds = level_tasks(published), task_kinds(published)
    assert {level: len(tasks) for level, tasks in levels.items()} == {
        "acoustic": 3, "score": 1, "performance": 1, "high-level": 7,
    }  # fmt: skip
    assert sum(map(len, kinds.values())) == 14 and len(kinds) == 10
    for name in TABLE_6_1:
        own = systems[f"{name}‡"]
        tagging = (printed(name, "MTT", "tagging") + printed(name, "MTG-Top50", "tagging")) / 2
        assert own.mean(kinds["tagging"]) == pytest.approx(tagging)
        acoustic = [
            printed(name, *key)
            for key in (("NSynth", "instrument"), ("MTG-Instrument", "instrument"), ("VocalSet", "singer"))
        ]
        assert own.mean(levels["acoustic"]) == pytest.approx(sum(acoustic) / 3)
    assert systems["CLMR‡"].mean(kinds["beats"]) is None and systems["CLMR‡"].mean(()) is None


@pytest.mark.parametrize("name", list(TABLE_6_1))
def test_hours_and_parameters_are_those_of_table_6_1(published, name):
    system = next(each for each in figure_systems(published) if each.name == f"{name}‡")
    hours, millions = TABLE_6_1[name]
    assert system.hours[0] <= hours <= system.hours[1]
    assert abs(math.log(system.parameters / 1e6 / millions)) < 0.06


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_names_every_system(published, tmp_path, ending):
    path = draw_figures(tmp_path / f"figures.{ending}", published)
    if ending == "png":
        with Image.open(path) as image:
            assert image.width > 1500 and len(image.convert("RGB").getcolors(10**6)) > 50
        return
    root = ET.parse(path).getroot()
    assert root.tag.endswith("svg")
    # matplotlib writes every text, drawn as paths, into a comment.
    text = path.read_text(encoding="utf-8")
    for system in published.published:
        if system.name != "Previous-SOTA":
            assert text.count(f"<!-- {system.name}‡ -->") >= 2, system.name
    for word in ("previous state of the art‡", "hours of training audio", "acoustic level (3 tasks)", "stems (dB)"):
        assert f"<!-- {word} -->" in text


def test_own_records_stand_beside_the_published_ones(measure, task, tags, tmp_path):
    measure(task(), tags)
    picture, results = tmp_path / "own.svg", str(tmp_path / "results")
    result = CliRunner().invoke(app, ["leaderboard", results, "--figure", str(picture)])
    assert result.exit_code == 0 and str(picture) in result.stderr
    text = picture.read_text(encoding="utf-8")
    assert "<!-- bands (measured here) -->" in text and "<!-- pitch -->" in text
    with_both = CliRunner().invoke(app, ["leaderboard", results, "--figure", str(picture), "-o", "x.md"])
    assert with_both.exit_code == 2 and "--figure" in with_both.stderr


def test_another_ending_is_refused(published, tmp_path):
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        draw_figures(tmp_path / "figures.pdf", published)
    assert not list(tmp_path.iterdir())


def test_more_systems_than_colours_differ_by_hatching(tmp_path, monkeypatch):
    """The systems of 2026 are eleven; their parameters are those that MERT-v2's card prints, in millions."""
    monkeypatch.chdir(tmp_path)
    words = ["leaderboard", "none", "--published", "--suite", "marble-v2"]
    done = CliRunner().invoke(app, [*words, "--figure", "figure.svg"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figure.svg").read_text().count("<pattern") == 1
    table = CliRunner().invoke(app, words).stdout
    assert "MERT-v2-FullSong‡" in table and "Music2Vec" not in table
    board = add_published([], SUITE_SOURCES["marble-v2"], "marble-v2")[0]
    systems = {system.name.rstrip("‡"): system for system in figure_systems(board)}
    expected = {"MERT-v2-30s": 632, "Dasheng-1.2B": 1200, "MuQ": 310, "A-JEPA": 307, "PupuJEPA-Huge": 632}
    assert {name: systems[name].parameters / 1e6 for name in expected} == pytest.approx(expected, rel=0.06)
    assert systems["Dasheng-1.2B"].hours == (272_000, 272_000) and systems["A-JEPA"].hours is None
