"""The board: what is averaged, ranked, left out and marked, against the arithmetic written out."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from carrara.bench.leaderboard.notes import borda
from carrara.bench.leaderboard.picture import board_picture
from carrara.bench.leaderboard.ranking import Span, board, boards, mean
from carrara.bench.leaderboard.text import best, markdown, table, table_text, values
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError
from carrara.core.record import Record


def record(system, task, *scores, width=0.02, **changes):
    """Return a record whose task has one metric a score."""
    names = [f"m{place}" for place in range(len(scores))]
    values = {
        "task": {"name": task, "version": 1, "fingerprint": "f" * 16, "task": {"scores": names, "monitor": "m0"}},
        "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": system, "weights_sha256": "0123456789abcdef", "output_version": 1, "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {"layer": "0"}, "monitor": "valid"},
        "grid": [{"layer": "0", "learning_rate": 0.001, "valid": 0.5, "epoch": 3, "epochs": 9}],
        "scores": {
            name: {"value": score, "low": score - width, "high": score + 2 * width, "unit": "clip", "n": 9}
            for name, score in zip([*names, "also"], [*scores, 0.123])
        },
        "run": {
            "seed": 0,
            "device": "cpu",
            "seconds": {},
            "versions": {},
            "git": "",
            "date": "2026-11-21",
            "command": "c",
        },
    }
    for path, value in changes.items():
        part, _, key = path.partition("__")
        if key:
            values[part][key] = value
        else:
            values[part] = value
    return Record.model_validate(values)


FULL = [
    record("good", "pebble/key", 0.7),
    record("good", "pebble/tags", 0.9, 0.5),
    record("poor", "pebble/key", 0.3),
    record("poor", "pebble/tags", 0.4, 0.2),
    record("part", "pebble/key", 0.8),
]


def systems(found):
    return {system.name: system for system in found.systems}


def test_averages_are_means_over_rows_of_means_over_metrics():
    found = systems(board(FULL))
    assert found["good"].cells["pebble/tags"].span.value == pytest.approx(70)
    assert found["good"].average.value == pytest.approx((70 + (90 + 50) / 2) / 2)
    assert found["poor"].average.value == pytest.approx((30 + 30) / 2)


def test_what_is_missing_is_missing():
    one = board(FULL)
    part = systems(one)["part"]
    assert part.average is None
    assert part.rank is None
    assert part.common.value == pytest.approx(80)
    assert one.common == ("pebble/key",)
    assert [system.name for system in one.systems] == ["good", "poor", "part"]
    assert [system.rank for system in one.systems] == [1, 2, None]
    assert "–" in table_text(one)
    assert "1/2" in table_text(one)
    assert " 0.0" not in table_text(one)


def test_a_suite_asks_for_all_of_its_rows():
    one = board(FULL, "pebble")
    assert one.tasks == SUITES["pebble"].tasks
    assert all(system.rank is None for system in one.systems)


def test_the_intervals_of_rows_add_in_quadrature():
    one = systems(board(FULL))["good"]
    cell = one.cells["pebble/tags"].span
    assert (cell.low, cell.high) == (pytest.approx(68), pytest.approx(74))
    assert one.average.low == pytest.approx(one.average.value - math.sqrt(2**2 + 2**2) / 2)
    assert one.average.high == pytest.approx(one.average.value + math.sqrt(4**2 + 4**2) / 2)
    assert mean([Span(5, 4, 7)]) == Span(5, 4, 7)


def test_those_that_cannot_be_told_apart_share_a_rank():
    found = board([record(name, "pebble/key", score) for name, score in zip("abcd", (0.700, 0.690, 0.60, 0.2))])
    assert [(system.name, system.rank) for system in found.systems] == [("a", 1), ("b", 1), ("c", 3), ("d", 4)]
    # Inside the one's wide interval, but not inside the other's narrow one.
    wide = board([record("a", "pebble/key", 0.7, width=0.2), record("b", "pebble/key", 0.6, width=0.01)])
    assert [system.rank for system in wide.systems] == [1, 2]


def test_a_partial_record_is_marked_and_counts_in_nothing():
    short = record("quick", "pebble/key", 0.99, partial=True, task__fingerprint="other")
    found = board([*FULL, short, record("quick", "pebble/tags", 0.9, 0.9)])
    quick = systems(found)["quick"]
    assert (quick.average, quick.rank) == (None, None)
    assert "99.0 [97.0, 103.0]*" in table_text(found)
    assert any("partial" in note for note in found.notes)


def test_families_and_protocols_never_share_a_table():
    records = [*FULL, record("good", "gtzan/genre", 0.7), record("good", "pebble/key", 0.9, protocol__name="linear")]
    found = boards(records)
    assert [one.title for one in found] == [
        "MARBLE-14 scores, constrained protocol",
        "Pebble scores, constrained protocol",
        "Pebble scores, linear protocol",
    ]
    assert [len(one.systems) for one in found] == [1, 3, 1]
    with pytest.raises(UsageError, match="one family and one protocol"):
        board(records)
    with pytest.raises(UsageError, match="no records"):
        board([])
    with pytest.raises(UsageError, match="Did you mean 'pebble'"):
        boards(records, "peble")


def test_records_of_another_question_are_left_out_and_named():
    old = record("old", "pebble/key", 0.99, task__fingerprint="other", run__date="2020-01-01")
    found = board([*FULL, old])
    assert set(systems(found)) == {"good", "poor", "part"}
    assert any(note.startswith("Left out: old on pebble/key@1 of 2020-01-01") for note in found.notes)
    found = board([*FULL, old, record("new", "pebble/key", 0.5, task__version=2)])
    assert [system.name for system in found.systems if "pebble/key" in system.cells] == ["new"]
    assert sum(note.startswith("Left out") for note in found.notes) == 4


def test_marks_of_training_and_of_equal_names():
    trained = record("good", "pebble/key", 0.7, encoder__trained_on=("pebble/unlabelled",), encoder__weights="ff" * 9)
    found = board([FULL[0], trained, record("new", "pebble/key", 0.1, encoder__trained_on=("pebbles",))])
    assert set(systems(found)) == {"good@01234567", "good@ffffffff", "new"}
    assert [system.name for system in found.systems if system.cells["pebble/key"].trained] == ["good@ffffffff"]
    assert table_text(found).count("†") == 2


def test_borda_is_named_when_it_disagrees():
    rows = {"steady": (0.61, 0.61, 0.20), "peaked": (0.60, 0.60, 0.95)}
    tasks = ("pebble/key", "pebble/tags", "pebble/genre")
    found = board([record(name, task, score) for name, scores in rows.items() for task, score in zip(tasks, scores)])
    assert found.systems[0].name == "peaked"
    assert borda(found.systems, tasks) == {"steady": 2, "peaked": 1}
    assert any("Borda" in note and "steady, peaked" in note for note in found.notes)
    assert not any("Borda" in note for note in board(FULL).notes)


def test_lower_is_better_says_so_and_is_in_no_average():
    low = record("good", "pebble/beats", 0.9)
    score = low.scores["m0"].model_copy(update={"better": "lower"})
    low = low.model_copy(update={"metrics": {"m0": score}})
    found = board([FULL[0], low])
    assert found.systems[0].average.value == pytest.approx(70)
    assert "pebble/beats ↓" in table_text(found)
    assert "pebble/key ↑" in table_text(found)


def test_values_are_the_agreed_json():
    listed = json.loads(json.dumps(values([board(FULL)])))
    assert [row["system"] for row in listed] == ["good", "poor", "part"]
    assert all({"system", "protocol", "rows", "average"} <= set(row) for row in listed)
    assert [row["rank"] for row in listed] == [1, 2, None]
    assert not any(row["published"] or row["levels"] for row in listed)
    assert listed[2]["average"] is None
    assert listed[0]["rows"]["pebble/tags"]["m1"] == {
        "value": pytest.approx(50),
        "low": pytest.approx(48),
        "high": pytest.approx(54),
    }
    for row in listed[:2]:
        cells = [sum(score["value"] for score in scores.values()) / len(scores) for scores in row["rows"].values()]
        assert row["average"] == pytest.approx(sum(cells) / len(cells))


def test_markdown_and_table_survive_hostile_names():
    name = "[bold]x[/] | <b>y</b> [z](javascript:alert)"
    found = board([record(name, "pebble/key", 0.5)])
    assert name in table_text(found)
    lines = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "](" not in markdown(found)
    assert "<b>" not in markdown(found).replace("\\<", "")


def test_many_systems_stand_by_rows():
    many = board([record(f"s{place:02}", "pebble/key", place / 40) for place in range(30)])
    lines = [line.split() for line in table_text(many).splitlines()]
    assert next(line[0] for line in lines if line and line[0][1:].isdigit()) == "s29"
    page = io.StringIO()
    table(many, Console(file=page, force_terminal=True, width=100))
    assert "s29" in page.getvalue()


def test_the_picture_is_a_picture(tmp_path):
    from matplotlib.image import imread

    path = board_picture(tmp_path / "board.png", board(FULL), "two cores")
    assert path == tmp_path / "board.png"
    image = imread(path)
    assert image.shape[1] > image.shape[0] > 100
    assert image[..., :3].std() > 0.02


def test_what_took_too_long_is_marked():
    found = board([record("slow", "pebble/key", 0.5, over_wall=True, partial=True), FULL[0]])
    assert "50.0 [48.0, 54.0]*§" in table_text(found)
    assert sum("computational wall" in note for note in found.notes) == 1
    assert "§" not in table_text(board(FULL))


def test_decibels_are_shown_as_they_are_and_said_to_be_mixed():
    level = record("good", "musdb18/stems", 5.0, 3.0, width=1.0)
    scores = {name: score.model_copy(update={"scale": "dB"}) for name, score in level.scores.items()}
    found = board([level.model_copy(update={"metrics": scores}), record("good", "gtzan/genre", 0.5)])
    (one,) = found.systems
    assert one.cells["musdb18/stems"].span == Span(4, 3, 6)
    assert one.average.value == pytest.approx((50 + 4) / 2)
    assert "musdb18/stems (dB) ↑" in table_text(found)
    assert any("mixes dB with percent" in note for note in found.notes)
    assert not any("dB" in note for note in board(FULL).notes)


def test_equal_bests_are_both_the_best():
    same = [record(name, "pebble/key", score) for name, score in (("a", 0.5), ("b", 0.5), ("c", 0.4))]
    assert best(board(same)) == {"pebble/key": {"a", "b"}}
    assert best(board(same[:1])) == {}
