"""The leaderboard: what is averaged, ranked, left out and marked, against the arithmetic written out."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from carrara.bench.interval import encode_draws
from carrara.bench.leaderboard.notes import borda_counts, leaderboard_notes
from carrara.bench.leaderboard.picture import draw_leaderboard
from carrara.bench.leaderboard.ranking import Interval, build_leaderboard, build_leaderboards, mean_interval
from carrara.bench.leaderboard.tables import best_systems, print_leaderboard, to_frame, to_markdown, to_text, to_values
from carrara.bench.suites import SUITES
from carrara.core.errors import UsageError
from carrara.core.record import Record, Score


def record(system, task, *scores, width=0.02, **changes):
    """Return a record whose task has one metric a score."""
    names = [f"m{index}" for index in range(len(scores))]
    values = {
        "task": {"name": task, "version": 1, "fingerprint": "f" * 16, "task": {"metrics": names, "monitor": "m0"}},
        "data": {"name": task.partition("/")[0], "index": "i", "n": {"train": 3, "valid": 1, "test": 2}},
        "encoder": {"name": system, "weights_sha256": "0123456789abcdef", "output_version": 1, "parameters": 10},
        "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {"layer": "0"}, "monitor": "valid"},
        "grid": [{"layer": "0", "learning_rate": 0.001, "valid": 0.5, "epoch": 3, "epochs": 9}],
        "scores": {
            name: {"value": score, "low": score - width, "high": score + 2 * width, "unit": "clip", "n": 9}
            for name, score in zip([*names, "extra"], [*scores, 0.123])
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


def systems(leaderboard):
    return {system.name: system for system in leaderboard.systems}


def ranks(leaderboard):
    return [(system.name, system.rank) for system in leaderboard.systems]


def test_print_fits_the_width_that_columns_gives(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    leaderboard = build_leaderboard(
        [record(f"system-{number}", f"pebble/{task}", 0.5) for number in range(4) for task in "abcde"]
    )
    wide = str(leaderboard)
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, wide.splitlines())) > 60 >= max(map(len, str(leaderboard).splitlines()))


def test_averages_are_means_over_tasks_of_means_over_metrics():
    by_name = systems(build_leaderboard(FULL))
    assert by_name["good"].results["pebble/tags"].score.value == pytest.approx(70)
    assert by_name["good"].full_average.value == pytest.approx((70 + (90 + 50) / 2) / 2)
    assert by_name["poor"].full_average.value == pytest.approx((30 + 30) / 2)


def test_systems_with_other_tasks_are_ranked_on_those_that_all_have():
    leaderboard = build_leaderboard(FULL)
    assert leaderboard.ranked_tasks == ("pebble/key",)
    assert ranks(leaderboard) == [("part", 1), ("good", 2), ("poor", 3)]
    assert [system.average.value for system in leaderboard.systems] == pytest.approx([80, 70, 30])
    part = systems(leaderboard)["part"]
    assert part.full_average is None
    text = to_text(leaderboard)
    assert "average of the 1 shared" in text and "– 1/2" in text
    assert " 0.0" not in text
    assert any("equal sets of tasks" in note and "pebble/tags" in note for note in leaderboard_notes(leaderboard))


def test_the_average_over_equal_sets_is_the_average_over_all():
    leaderboard = build_leaderboard(FULL[:4])
    assert leaderboard.ranked_tasks == ("pebble/key", "pebble/tags")
    assert all(system.average == system.full_average for system in leaderboard.systems)
    assert "shared" not in to_text(leaderboard)
    assert not any("equal sets" in note for note in leaderboard_notes(leaderboard))


# The demo's own figures: a self-trained model without peer on beats, hand-crafted features without beats, and noise.
DEMO = {
    "mert": (0.520, 0.859, 0.784),
    "mert:random": (0.366, 0.564, 0.676),
    "chroma-mfcc": (0.642, 0.914, None),
    "noise": (0.076, 0.027, 0.305),
}


def demo_records(names):
    tasks = ("pebble/key", "pebble/pitch", "pebble/beats")
    return [record(name, task, score) for name in names for task, score in zip(tasks, DEMO[name]) if score is not None]


def test_a_self_trained_model_below_handcrafted_features_is_shown_below_them():
    leaderboard = build_leaderboard(demo_records(DEMO))
    assert ranks(leaderboard) == [("chroma-mfcc", 1), ("mert", 2), ("mert:random", 3), ("noise", None)]
    # (52.0 + 85.9) / 2 and (64.2 + 91.4) / 2, beats left aside.
    assert systems(leaderboard)["mert"].average.value == pytest.approx(68.95)
    assert systems(leaderboard)["chroma-mfcc"].average.value == pytest.approx(77.8)


@pytest.mark.parametrize("names", [DEMO, ("noise", "chroma-mfcc"), ("noise",), ("noise", "mert")])
def test_a_floor_is_last_and_never_ranked(names):
    leaderboard = build_leaderboard(demo_records(names))
    assert ranks(leaderboard)[-1] == ("noise", None)
    frame = to_frame(leaderboard)
    assert str((frame if "rank" in frame.index else frame.T).loc["rank", "noise"]) == "floor"
    assert any(note.startswith("floor:") for note in leaderboard_notes(leaderboard))
    assert {row["system"]: row["rank"] for row in to_values([leaderboard])}["noise"] is None


def test_a_floor_that_lacks_a_task_does_not_shorten_the_ranking():
    leaderboard = build_leaderboard([*FULL[:4], record("noise", "pebble/key", 0.99)])
    assert leaderboard.ranked_tasks == ("pebble/key", "pebble/tags")
    assert ranks(leaderboard) == [("good", 1), ("poor", 2), ("noise", None)]
    assert systems(leaderboard)["noise"].average is None


def test_a_system_without_tasks_in_common_is_not_ranked_and_does_not_stop_the_others():
    leaderboard = build_leaderboard([*FULL[:4], record("alone", "pebble/genre", 0.9)])
    assert leaderboard.ranked_tasks == ("pebble/key", "pebble/tags")
    assert ranks(leaderboard) == [("good", 1), ("poor", 2), ("alone", None)]
    assert any("want of tasks in common: alone" in note for note in leaderboard_notes(leaderboard))
    apart = build_leaderboard([record("a", "pebble/key", 0.9), record("b", "pebble/genre", 0.1)])
    assert apart.ranked_tasks == ()
    assert ranks(apart) == [("a", None), ("b", None)]


def test_a_suite_has_all_of_its_tasks():
    leaderboard = build_leaderboard(FULL, "pebble")
    assert leaderboard.tasks == SUITES["pebble"].tasks
    assert all(system.full_average is None for system in leaderboard.systems)
    assert ranks(leaderboard)[0] == ("part", 1)


def test_the_intervals_of_tasks_without_draws_add_in_quadrature():
    system = systems(build_leaderboard(FULL))["good"]
    score, average = system.results["pebble/tags"].score, system.full_average
    assert (score.low, score.high) == (pytest.approx(68), pytest.approx(74))
    assert average.low == pytest.approx(average.value - math.sqrt(2**2 + 2**2) / 2)
    assert average.high == pytest.approx(average.value + math.sqrt(4**2 + 4**2) / 2)
    assert mean_interval([Interval(5, 4, 7)]) == (Interval(5, 4, 7), None)


def test_intervals_combine_as_their_draws_are_correlated():
    """Against the variance of the mean itself, of three metrics on two tasks' clips, two of them shared."""
    rng = np.random.default_rng(0)
    first_G, second_G = rng.standard_normal((2, 4000))
    drawn = {"a": 0.03 * first_G, "b": 0.01 * (first_G + second_G), "c": 0.02 * rng.standard_normal(4000)}
    halves = {name: 1.96 * draw_G.std() for name, draw_G in drawn.items()}

    def scored(task, *names):
        made = record("x", task, *(0.5 for _ in names))
        scores = {
            f"m{index}": Score(value=0.5, low=0.5 - halves[name], high=0.5 + halves[name], unit="clip", n=9,
                               draws=encode_draws(drawn[name]))
            for index, name in enumerate(names)
        }  # fmt: skip
        return made.model_copy(update={"scores": scores})

    (system,) = build_leaderboard([scored("pebble/key", "a", "b"), scored("pebble/genre", "c")]).systems
    task = system.results["pebble/key"].score
    expected = 100 * 1.96 * ((drawn["a"] + drawn["b"]) / 2).std()
    assert task.high - task.value == pytest.approx(expected, rel=0.01)
    assert task.value - task.low == pytest.approx(expected, rel=0.01)
    expected = 100 * 1.96 * ((drawn["a"] + drawn["b"]) / 4 + drawn["c"] / 2).std()
    assert system.average.high - system.average.value == pytest.approx(expected, rel=0.01)


def test_draws_without_a_value_do_not_narrow_an_interval():
    """A score of three clips is shown with the interval of its record, though some draws left all three out."""
    draw_G = np.random.default_rng(0).standard_normal(1000)
    draw_G[::5] = np.nan
    made = record("x", "pebble/key", 0.5)
    score = Score(value=0.5, low=0.1, high=0.8, unit="clip", n=3, draws=encode_draws(draw_G))
    made = made.model_copy(update={"scores": dict.fromkeys(made.scores, score)})
    (system,) = build_leaderboard([made]).systems
    for shown in (system.results["pebble/key"].score, system.average):
        assert (shown.low, shown.high) == (pytest.approx(10), pytest.approx(80))


def test_systems_that_intervals_do_not_separate_share_a_rank():
    scores = zip("abcd", (0.700, 0.690, 0.60, 0.2))
    leaderboard = build_leaderboard([record(name, "pebble/key", score) for name, score in scores])
    assert ranks(leaderboard) == [("a", 1), ("b", 1), ("c", 3), ("d", 4)]
    # Inside the first one's wide interval, but not inside the other's narrow one.
    wide = [record("a", "pebble/key", 0.7, width=0.2), record("b", "pebble/key", 0.6, width=0.01)]
    assert ranks(build_leaderboard(wide)) == [("a", 1), ("b", 2)]


def test_a_partial_record_is_marked_and_counts_in_nothing():
    short = record("quick", "pebble/key", 0.99, partial=True, task__fingerprint="other")
    leaderboard = build_leaderboard([*FULL, short, record("quick", "pebble/tags", 0.9, 0.9)])
    quick = systems(leaderboard)["quick"]
    assert (quick.full_average, quick.average, quick.rank) == (None, None, None)
    # `part` and `quick` share no complete task, so those with more tasks are ranked.
    assert ranks(leaderboard)[:2] == [("good", 1), ("poor", 2)]
    assert "99.0 [97.0, 103.0]*" in to_text(leaderboard)
    assert any("partial" in note for note in leaderboard_notes(leaderboard))


def test_suites_and_protocols_never_share_a_leaderboard():
    records = [
        *FULL,
        record("good", "gtzan/genre", 0.7),
        record("good", "pebble/key", 0.9, protocol__name="linear"),
        record("good", "pebble/key", 0.9, protocol__name="constrained:layers=transformer+cnn"),
    ]
    leaderboards = build_leaderboards(records)
    assert [leaderboard.title for leaderboard in leaderboards] == [
        "MARBLE-14 scores, constrained protocol",
        "Pebble scores, constrained protocol",
        "Pebble scores, constrained:layers=transformer+cnn protocol",
        "Pebble scores, linear protocol",
    ]
    assert [len(leaderboard.systems) for leaderboard in leaderboards] == [1, 3, 1, 1]
    with pytest.raises(UsageError, match="one suite and one protocol"):
        build_leaderboard(records)
    with pytest.raises(UsageError, match="no records"):
        build_leaderboard([])
    with pytest.raises(UsageError, match="Did you mean 'pebble'"):
        build_leaderboards(records, "peble")


def test_records_of_another_task_version_or_other_clips_are_left_out_and_named():
    old = record("old", "pebble/key", 0.99, task__fingerprint="other", run__date="2020-01-01")
    leaderboard = build_leaderboard([*FULL, old])
    assert set(systems(leaderboard)) == {"good", "poor", "part"}
    notes = leaderboard_notes(leaderboard)
    assert any(note.startswith("Left out: old on pebble/key@1 of 2020-01-01") for note in notes)
    leaderboard = build_leaderboard([*FULL, old, record("new", "pebble/key", 0.5, task__version=2)])
    assert [system.name for system in leaderboard.systems if "pebble/key" in system.results] == ["new"]
    assert sum(note.startswith("Left out") for note in leaderboard_notes(leaderboard)) == 4


def test_marks_of_training_and_of_equal_names():
    trained = record(
        "good", "pebble/key", 0.7, encoder__trained_on=("pebble/unlabelled",), encoder__weights_sha256="ff" * 9
    )
    leaderboard = build_leaderboard(
        [FULL[0], trained, record("new", "pebble/key", 0.1, encoder__trained_on=("pebbles",))]
    )
    assert set(systems(leaderboard)) == {"good@01234567", "good@ffffffff", "new"}
    assert [each.name for each in leaderboard.systems if "†" in each.results["pebble/key"].marks] == ["good@ffffffff"]
    assert to_text(leaderboard).count("†") == 2


def test_borda_is_named_when_it_disagrees():
    scores = {"steady": (0.61, 0.61, 0.20), "peaked": (0.60, 0.60, 0.95)}
    tasks = ("pebble/key", "pebble/tags", "pebble/genre")
    leaderboard = build_leaderboard([record(name, *pair) for name, own in scores.items() for pair in zip(tasks, own)])
    assert leaderboard.systems[0].name == "peaked"
    assert borda_counts(leaderboard.systems, tasks) == {"steady": 2, "peaked": 1}
    assert any("Borda" in note and "steady, peaked" in note for note in leaderboard_notes(leaderboard))
    assert not any("Borda" in note for note in leaderboard_notes(build_leaderboard(FULL)))


def test_lower_is_better_says_so_and_is_in_no_average():
    low = record("good", "pebble/beats", 0.9)
    score = low.scores["m0"].model_copy(update={"better": "lower"})
    leaderboard = build_leaderboard([FULL[0], low.model_copy(update={"scores": {"m0": score}})])
    assert leaderboard.systems[0].average.value == pytest.approx(70)
    assert "pebble/beats ↓" in to_text(leaderboard)
    assert "pebble/key ↑" in to_text(leaderboard)
    assert "Lower is better for pebble/beats: in no average." in leaderboard_notes(leaderboard)


def test_values_are_the_agreed_json():
    rows = json.loads(json.dumps(to_values([build_leaderboard(FULL[:4])])))
    assert [row["system"] for row in rows] == ["good", "poor"]
    assert all(set(row) == {"system", "protocol", "tasks", "average", "rank"} for row in rows)
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["tasks"]["pebble/tags"]["m1"] == {
        "value": pytest.approx(50),
        "low": pytest.approx(48),
        "high": pytest.approx(54),
    }
    for row in rows:
        scores = [sum(each["value"] for each in metrics.values()) / len(metrics) for metrics in row["tasks"].values()]
        assert row["average"] == pytest.approx(sum(scores) / len(scores))
    # Where task sets differ, the average is over those that all have, as the rank is.
    assert [row["average"] for row in to_values([build_leaderboard(FULL)])] == pytest.approx([80, 70, 30])


def test_names_and_commands_in_notes_are_code():
    text = to_markdown(build_leaderboard([record("noise", "pebble/key", 0.1), record("a", "pebble/key", 0.5)]))
    assert "\n- floor: " in text and "Probes on `noise` give" in text and "\\`" not in text
    # A backtick of a name pairs with none of the note.
    hostile = to_markdown(build_leaderboard([record("a`<b>", "pebble/key", 0.1), record("noise", "pebble/key", 0.5)]))
    assert "<b>" not in hostile.replace("\\<", "")


def test_markdown_and_table_survive_hostile_names():
    name = "[bold]x[/] | <b>y</b> [z](javascript:alert)"
    leaderboard = build_leaderboard([record(name, "pebble/key", 0.5)])
    assert name in to_text(leaderboard)
    lines = [line for line in to_markdown(leaderboard).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "](" not in to_markdown(leaderboard)
    assert "<b>" not in to_markdown(leaderboard).replace("\\<", "")
    page = io.StringIO()
    print_leaderboard(leaderboard, Console(file=page, force_terminal=True, width=200, no_color=True))
    assert name in page.getvalue()


def test_many_systems_are_shown_as_rows():
    many = build_leaderboard([record(f"s{index:02}", "pebble/key", index / 40) for index in range(30)])
    lines = [line.split() for line in to_text(many).splitlines()]
    assert next(line[0] for line in lines if line and line[0][1:].isdigit()) == "s29"
    page = io.StringIO()
    print_leaderboard(many, Console(file=page, force_terminal=True, width=100))
    assert "s29" in page.getvalue()


def test_the_picture_is_a_picture(tmp_path):
    from matplotlib.image import imread

    path = draw_leaderboard(tmp_path / "leaderboard.png", build_leaderboard(FULL), "two cores")
    assert path == tmp_path / "leaderboard.png"
    image = imread(path)
    assert image.shape[1] > image.shape[0] > 100
    assert image[..., :3].std() > 0.02


def test_a_run_beyond_the_time_limit_is_marked():
    slow = record("slow", "pebble/key", 0.5, exceeded_time_limit=True, partial=True)
    leaderboard = build_leaderboard([slow, FULL[0]])
    assert "50.0 [48.0, 54.0]*§" in to_text(leaderboard)
    assert sum("time limit" in note for note in leaderboard_notes(leaderboard)) == 1
    assert "§" not in to_text(build_leaderboard(FULL))


def test_decibels_are_shown_as_they_are_and_a_note_says_that_they_are_mixed():
    stems = record("good", "musdb18/stems", 5.0, 3.0, width=1.0)
    scores = {name: score.model_copy(update={"scale": "dB"}) for name, score in stems.scores.items()}
    leaderboard = build_leaderboard([stems.model_copy(update={"scores": scores}), record("good", "gtzan/genre", 0.5)])
    (system,) = leaderboard.systems
    assert system.results["musdb18/stems"].score == Interval(4, 3, 6)
    assert system.average.value == pytest.approx((50 + 4) / 2)
    assert "musdb18/stems (dB) ↑" in to_text(leaderboard)
    assert any("mixes dB with percent" in note for note in leaderboard_notes(leaderboard))
    assert not any("dB" in note for note in leaderboard_notes(build_leaderboard(FULL)))


def test_equal_bests_are_both_the_best():
    same = [record(name, "pebble/key", score) for name, score in (("a", 0.5), ("b", 0.5), ("c", 0.4))]
    assert best_systems(build_leaderboard(same)) == {"pebble/key": {"a", "b"}}
    assert best_systems(build_leaderboard(same[:1])) == {}
