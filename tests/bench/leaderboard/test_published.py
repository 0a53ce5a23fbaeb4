"""Published scores: the table is whole, its averages come out by the rule, and they are shown unranked."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from carrara.bench import tasks
from carrara.bench.leaderboard.notes import leaderboard_notes
from carrara.bench.leaderboard.published import (
    HALVES,
    TABLE,
    TASKS,
    published_scores,
    published_system,
    published_systems,
    read_published_scores,
)
from carrara.bench.leaderboard.ranking import CATEGORIES, add_published, build_leaderboard, complete_categories
from carrara.bench.leaderboard.tables import to_frame, to_markdown, to_text, to_values
from carrara.bench.suites import MARBLE_14, PEBBLE_2
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.cli._main import app
from carrara.core.errors import DataError, UsageError
from carrara.core.record import Record

SHARED = Path(__file__).parents[3].parent / "shared/spec/published_scores.tsv"
# What a printed average is over: all tasks, the nine of the thesis's chapter 4, the four of JukeMIR.
NINE = (
    "giantsteps/key",
    "magnatagatune/tags",
    "gtzan/genre",
    "gtzan/beats",
    "emomusic/emotion",
    "nsynth/pitch",
    "nsynth/instrument",
    "vocalset/singer",
    "vocalset/technique",
)
FOUR = ("giantsteps/key", "magnatagatune/tags", "gtzan/genre", "emomusic/emotion")
AVERAGED = {"ALL": MARBLE_14.tasks, "ALL9": NINE, "ALL4": FOUR}
# Recomputed by hand from the printed scores [notes/benchmark §2.4].
FOURTEEN = {
    ("Music2Vec", "thesis-T6.3"): 59.94,
    ("MERT-v0-95M", "thesis-T6.3"): 62.27,
    ("MERT-v0-95M-public", "thesis-T6.3"): 62.94,
    ("MERT-v1-95M", "thesis-T6.3"): 63.26,
    ("MERT-v1-330M", "thesis-T6.3"): 64.20,
    ("Previous-SOTA", "thesis-T6.3"): 64.54,
    ("HuBERT-base-music", "thesis-T5.2"): 55.83,
    ("data2vec-base-music", "thesis-T5.2"): 51.27,
    ("MERT-95M-Kmeans", "thesis-T5.2"): 62.75,
    ("MERT-95M-public-Kmeans", "thesis-T5.2"): 62.31,
    ("MERT-95M-RVQVAE", "thesis-T5.2"): 63.42,
    ("MERT-330M-RVQVAE", "thesis-T5.2"): 64.52,
}


def record(system, task, value, scale="ratio"):
    values = {
        "task": {
            "name": task,
            "version": 1,
            "fingerprint": "f",
            "task": {"metrics": ["m"], "monitor": "m"},
        },
        "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": system, "weights_sha256": "00", "output_version": 1, "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
        "grid": [],
        "scores": {
            "m": {"value": value, "low": value * 0.9, "high": value * 1.1, "unit": "clip", "n": 9, "scale": scale}
        },
        "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "d", "command": "c"},
    }
    return Record.model_validate(values)


MEASURED = [
    record("mine", task, 5.0 if task == "musdb18/stems" else 0.5, "dB" if task == "musdb18/stems" else "ratio")
    for task in MARBLE_14.tasks
]


@pytest.fixture(scope="module")
def lines() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_table_is_complete(lines):
    scores = published_scores()
    assert len(scores) == 1109 + 167
    assert [score.value for score in scores] == [float(line["value"]) for line in lines]
    assert Counter(score.source for score in scores) == Counter(line["source_table"] for line in lines)
    if SHARED.is_file():
        assert TABLE.read_bytes().startswith(SHARED.read_bytes())


def test_every_printed_task_of_the_thesis_is_a_task_of_the_suite(lines):
    named = {(line["dataset"], line["task"]) for line in lines if line["source_table"].startswith("thesis")}
    assert {pair for pair in named if not pair[0].startswith("ALL")} == set(TASKS) - {("Chords1217", "chords")}
    assert sorted({*TASKS.values()} - {"chords1217/chords"}) == sorted(MARBLE_14.tasks)


def test_metrics_have_the_names_that_tasks_use():
    for name in set(TASKS.values()) & set(tasks.REGISTRY.names()):
        printed = {score.metric for score in published_scores() if score.task == name}
        # Which F-measure of beats is printed is not known.
        assert printed == set(tasks.task(name).metrics) or name == "gtzan/beats"


def recomputed_averages():
    """Return every printed average and the one that the rule gives: the mean over tasks of the mean over metrics."""
    averages = []
    for score in published_scores():
        if score.dataset in AVERAGED:
            sources = next((halves for halves in HALVES if score.source in halves), (score.source,))
            recomputed = published_system(score.system, sources).average(AVERAGED[score.dataset])
            averages.append((score, recomputed))
    return averages


def test_all_46_averages_of_the_thesis_equal_the_computed_ones():
    thesis = [(score, value) for score, value in recomputed_averages() if score.source.startswith("thesis")]
    assert len(thesis) == 46
    assert Counter(score.dataset for score, _ in thesis) == {"ALL": 13, "ALL9": 14, "ALL4": 19}
    assert [score for score, value in thesis if value is None or abs(value - score.value) > 0.06] == []
    by_system = {(score.system, score.source): value for score, value in thesis}
    for key, value in FOURTEEN.items():
        assert by_system[key] == pytest.approx(value, abs=0.006)


def test_ten_averages_of_the_posters_differ_from_the_computed_ones():
    off = {
        (score.system, round(value, 2))
        for score, value in recomputed_averages()
        if value is not None and abs(value - score.value) > 0.06
    }
    assert len(off) == 10
    assert {("Music2Vec[start]", 52.74), ("MERT-90M", 68.49)} <= off


def test_categories_are_those_of_figure_6_2(lines):
    """The mean over tasks of the mean over metrics, by the names that the thesis itself uses."""
    values = defaultdict(list)
    for line in lines:
        if line["system"] == "MERT-v1-330M" and line["source_table"] in ("thesis-T6.2", "thesis-T6.3"):
            values[line["dataset"], line["task"]].append(float(line["value"]))
    mean = {key: sum(own) / len(own) for key, own in values.items()}
    expected = {
        "acoustic": [("NSynth", "instrument"), ("MTG-Instrument", "instrument"), ("VocalSet", "singer")],
        "score": [("NSynth", "pitch")],
        "performance": [("VocalSet", "technique")],
        "high-level": [("GS", "key"), ("MTT", "tagging"), ("MTG-Top50", "tagging"), ("GTZAN", "genre"),
                       ("MTG-Genre", "genre"), ("EMO", "emotion"), ("MTG-MoodTheme", "emotion")],
    }  # fmt: skip
    mert = next(system for system in published_systems() if system.name == "MERT-v1-330M")
    categories = complete_categories("marble-14", mert.tasks)
    assert set(categories) == set(expected)
    for category, keys in expected.items():
        assert mert.average(categories[category]) == pytest.approx(sum(mean[key] for key in keys) / len(keys))
    assert mert.average(categories["acoustic"]) == pytest.approx((72.6 + (78.1 + 19.8) / 2 + 87.1) / 3, abs=0.5)


def test_a_category_with_a_missing_task_has_no_mean():
    without_singer = set(MARBLE_14.tasks) - {"vocalset/singer"}
    assert set(complete_categories("marble-14", without_singer)) == {"score", "performance", "high-level"}
    assert complete_categories("pebble", without_singer) == {}
    leaderboard = build_leaderboard([each for each in MEASURED if each.task.name != "vocalset/singer"])
    assert "acoustic" not in leaderboard.systems[0].categories
    assert "category: score" in to_text(leaderboard)
    assert "category: acoustic" not in to_text(leaderboard)


@pytest.mark.parametrize("name", sorted(set(MARBLE_14.tasks) & set(tasks.REGISTRY.names())))
def test_a_tasks_own_category_is_the_figures(name):
    categories = {task: category for category, own in CATEGORIES["marble-14"].items() for task in own}
    if name in categories:
        assert tasks.task(name).category == categories[name]


def test_pebbles_categories_are_its_tasks_own_without_those_that_need_frames():
    of_task = {task: category for category, own in CATEGORIES["pebble-2"].items() for task in own}
    for name in PEBBLE_2.tasks:
        task = tasks.task(name)
        needs_frames = task.task_type == "source_separation" or TASK_TYPES.get(task.task_type).frame_level
        assert of_task.get(name) == (None if needs_frames else task.category), name


def test_published_systems_are_shown_and_change_no_rank():
    plain = build_leaderboard(MEASURED, "marble-14")
    (both,) = add_published([plain])
    assert both.systems == plain.systems
    assert [system.rank for system in both.systems] == [1]
    by_name = {system.name: system for system in both.published}
    assert len(by_name) == 10
    assert by_name["MERT-v1-330M"].printed_average == 64.2
    assert by_name["MERT-v1-330M"].average(both.tasks) == pytest.approx(64.20, abs=0.006)
    assert by_name["Jukebox-5B"].average(both.tasks) is None
    assert next(iter(by_name)) == "Previous-SOTA"
    frame = to_frame(both).map(str)
    assert list(frame.columns[:2]) == ["mine", "Previous-SOTA‡"]
    assert list(frame.loc["rank"]) == ["1", *["–"] * 10]
    assert frame.loc["average of 14", "Jukebox-5B‡"] == "– 12/14"
    assert frame.loc["mtg-jamendo/genre ↑", "Jukebox-5B‡"] == "54.2§"
    assert frame.loc["gtzan/beats ↑", "Jukebox-5B‡"] == "–"
    published_cells = frame.drop(columns="mine").to_numpy().ravel()
    assert not any("[" in text for text in published_cells)
    assert all("[" in text for text in frame["mine"].drop("rank"))
    assert "‡" in to_markdown(both)


def test_notes_say_what_the_sources_say():
    notes = "\n".join(leaderboard_notes(add_published([build_leaderboard(MEASURED, "marble-14")])[0]))
    assert "Previous-SOTA‡: previous SOTA, mixed sources" in notes
    assert "MERT-v0-95M-public‡ on mtg-jamendo/instrument: arXiv 2306.10548 table 4 prints 77.5" in notes
    assert notes.count("time limit") == 1
    assert "‡ printed in thesis-T6.2, thesis-T6.3" in notes
    assert "musdb18/stems; an average over it mixes dB with percent" in notes
    assert "20 ms" in notes
    (few,) = add_published([build_leaderboard(MEASURED[:1])])
    assert few.tasks == ("giantsteps/key",)
    assert "dB" not in "".join(leaderboard_notes(few))
    assert few.published[0].average(few.tasks) == 74.3


def test_published_stems_are_in_db_even_where_no_system_measured_them():
    (both,) = add_published([build_leaderboard(MEASURED[:1], "marble-14")])
    assert "musdb18/stems (dB) ↑" in to_frame(both).index
    assert both.systems[0].full_average is None


def test_values_name_what_is_published():
    rows = json.loads(json.dumps(to_values(add_published([build_leaderboard(MEASURED, "marble-14")]))))
    assert [row["protocol"] for row in rows] == ["constrained", *["published"] * 10]
    assert all({"system", "protocol", "tasks", "average", "rank"} <= set(row) for row in rows)
    mert = next(row for row in rows if row["system"] == "MERT-v1-95M")
    assert mert["tasks"]["magnatagatune/tags"]["roc_auc"] == {"value": 91.0, "low": None, "high": None}
    assert mert["printed_average"] == 63.3
    assert mert["rank"] is None
    assert mert["average"] == pytest.approx(63.26, abs=0.006)


def test_percent_and_db_are_averaged_as_they_are():
    mine = build_leaderboard(MEASURED, "marble-14").systems[0]
    assert mine.results["musdb18/stems"].score.value == pytest.approx(5.0)
    assert mine.average is not None
    assert mine.average.value == pytest.approx((13 * 50 + 5) / 14)
    assert mine.categories["acoustic"].value == pytest.approx(50)


def test_the_halves_of_a_table_are_joined_and_equal_names_are_not():
    names = [system.name for system in published_systems(["thesis-T4.1", "thesis-T6.2", "thesis-T6.3"])]
    assert len(set(names)) == len(names) == 15
    assert {"Previous-SOTA (thesis-T4.1)", "Previous-SOTA (thesis-T6.2, thesis-T6.3)"} <= set(names)
    assert {len(system.tasks) for system in published_systems(["thesis-T6.2"])} == {8, 9}


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'thesis-T6.2'"):
        published_systems(["thesis-6.2"])
    pebble = build_leaderboard([record("mine", "pebble/key", 0.5)])
    with pytest.raises(UsageError, match="marble-14 and marble-v2 only, but the records are of Pebble scores"):
        add_published([pebble])
    mixed = add_published([pebble, build_leaderboard(MEASURED)])
    assert [len(each.published) for each in mixed] == [0, 10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system\tdataset\n", "its first line"),
        (TABLE.read_text(encoding="utf-8").splitlines()[0] + "\na\tb\tc\td\tmany\te\t\n", ":2: not one number"),
        (TABLE.read_text(encoding="utf-8").splitlines()[0] + "\n\na\tb\n", ":3: not one number"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "table.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_published_scores(path)


SPEC_2026 = Path(__file__).parents[3].parent / "shared/spec/published_2026.tsv"


def test_the_scores_of_2026_are_those_of_the_sources_and_say_that_they_were_not_rerun(lines):
    new = [line for line in lines if line["source_table"] in ("mert-v2-card", "pupujepa-T3-T5")]
    assert len(new) == 167 and all(line["note"].startswith("not rerun") for line in new)
    if SPEC_2026.is_file():
        with SPEC_2026.open(encoding="utf-8", newline="") as file:
            spec = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [(line["system"], line["value"]) for line in new] == [(line["system"], line["value"]) for line in spec]


def test_published_systems_alone_make_a_leaderboard(tmp_path):
    (both,) = add_published([], ["mert-v2-card", "pupujepa-T3-T5"], "marble-v2")
    assert both.title == "MARBLE-v2 scores, published" and len(both.tasks) == 10 and len(both.published) == 11
    by_name = {system.name: system for system in both.published}
    full = by_name["MERT-v2-FullSong"]
    # Only where all ten are printed is there an average; emotion and tags are means of two metrics.
    assert full.average(both.tasks) is not None and by_name["MuQ"].average(both.tasks) is None
    printed = {(line.task, line.metric): line.value for line in published_scores() if line.system == "MERT-v2-FullSong"}
    own = [[value for (task, _), value in printed.items() if task == name] for name in both.tasks]
    assert full.average(both.tasks) == pytest.approx(sum(sum(own_values) / len(own_values) for own_values in own) / 10)
    assert "20 ms" not in "\n".join(leaderboard_notes(both))
    assert "Scores in percent (R² too)." in leaderboard_notes(both)
    for arguments in (["--published"], ["--source", "mert-v2-card", "--suite", "marble-v2"]):
        done = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "none"), *arguments, "--json"])
        assert done.exit_code == 0, done.output
        assert all(row["protocol"] == "published" for row in json.loads(done.stdout))
    refused = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "none"), "--published", "--suite", "pebble"])
    assert refused.exit_code != 0
