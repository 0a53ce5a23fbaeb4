"""The constant answer of each task type, against scikit-learn's dummies and closed forms; its records."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import average_precision_score

from carrara.bench.leaderboard.ranking import build_leaderboard
from carrara.bench.task_types import REGISTRY
from carrara.bench.task_types._base import ProbeTaskType
from carrara.core.errors import UsageError
from carrara.core.task import Task
from carrara.encoders._hub.load import build_encoder

CHORDS = ("N", "C:maj", "A:min")


def make_task(task_type, labels, metrics, **changes):
    return Task(
        version=1, dataset="d", split_scheme="s", task_type=task_type, label="x", labels=labels, metrics=metrics,
        monitor=metrics[0], category="score", name="d/x", **changes,
    )  # fmt: skip


def constant(task, truths, counts=(3, 5), rate=None):
    return REGISTRY.get(task.task_type).constant(task, truths, counts, rate)


def test_features_are_one_whatever_the_samples_are():
    encoder = build_encoder("majority")
    assert encoder.card.is_constant
    assert torch.equal(encoder(torch.randn(2, 16_000)), torch.ones(2, 1, 50, 1))


def test_the_most_frequent_class_is_that_of_a_dummy_classifier():
    truths = np.random.default_rng(0).integers(0, 5, 40).tolist()
    expected = DummyClassifier(strategy="most_frequent").fit(np.zeros((40, 1)), truths).predict(np.zeros((2, 1)))
    task = make_task("multiclass", tuple("abcde"), ("accuracy",))
    assert constant(task, truths) == expected.tolist()
    windows = make_task("multiclass", tuple("abcde"), ("accuracy_windows",), aggregate="window")
    assert constant(windows, truths) == [[expected[0]] * 3, [expected[0]] * 5]


def test_numbers_are_the_mean_and_tags_their_frequency():
    draw = np.random.default_rng(1)
    numbers = draw.standard_normal((30, 2))
    expected = DummyRegressor().fit(np.zeros((30, 1)), numbers).predict(np.zeros((2, 1)))
    regression = make_task("regression", ("v", "a"), ("r2",))
    np.testing.assert_allclose(constant(regression, list(numbers)), expected)
    predictions = constant(regression, list(numbers), (1,) * 30)
    values = REGISTRY.get("regression").metrics(regression, list(numbers), predictions)
    assert values["r2"] == pytest.approx(0, abs=1e-12)

    tags = (draw.random((30, 3)) < (0.2, 0.5, 0.7)).astype(np.float32)
    task = make_task("multilabel", tuple("abc"), ("average_precision", "roc_auc"))
    predictions = constant(task, list(tags), (1,) * 30)
    np.testing.assert_allclose(predictions, np.tile(tags.mean(0), (30, 1)))
    scores = REGISTRY.get("multilabel").metrics(task, list(tags), predictions)
    expected_ap = average_precision_score(tags, np.asarray(predictions), average="macro")
    assert scores["average_precision"] == pytest.approx(expected_ap) and scores["roc_auc"] == pytest.approx(0.5)


def test_the_tempo_is_the_one_that_is_right_most_often():
    task = make_task("tempo", ("tempo",), ("tempo_accuracy1",))
    truths = [60.0, 120.0, 121.0, 122.0, 90.0, 240.0]
    best = max(sorted(truths), key=lambda tempo: sum(abs(tempo - truth) <= 0.04 * truth for truth in truths))
    assert constant(task, truths) == [best, best] == [120.0, 120.0]


def test_beats_are_a_steady_grid_as_long_as_each_clip():
    task = make_task("beat_tracking", ("beat",), ("beat_f_70ms",))
    truths = [np.arange(0.3, 8, 0.5), np.arange(0.3, 4, 0.5), np.array([]), np.arange(0.1, 3, 0.4)]
    first, second = constant(task, truths, (30, 50), 10.0)
    np.testing.assert_allclose(first, np.arange(0.3, 3.0, 0.5))
    np.testing.assert_allclose(second, np.arange(0.3, 5.0, 0.5))
    assert REGISTRY.get("beat_tracking").metrics(task, truths[:1], constant(task, truths, (80,), 10.0))[
        "beat_f_70ms"
    ] == pytest.approx(1)


def test_segments_have_the_value_that_takes_longest():
    chords = make_task("chord_recognition", CHORDS, ("chord_majmin",))
    truths = [[[0.0, 1.0, "N"], [1.0, 5.0, "C:sus4"]], [[0.0, 2.0, "A:min7"], [2.0, 3.5, "C:maj"]]]
    assert constant(chords, truths, (20,), 10.0) == [[[0.0, 2.0, "A:min"]]]

    melody = make_task("melody", ("rest", "60", "61"), ("melody_raw_pitch",))
    mostly_rest = [[[0.0, 1.0, 261.6], [4.0, 4.5, 277.2]]]
    assert constant(melody, mostly_rest, (20,), 10.0) == [[[0.0, 2.0, -261.6]]]
    assert constant(melody, [[[0.0, 3.0, 261.6], [4.0, 4.5, 277.2]]], (20,), 10.0) == [[[0.0, 2.0, 261.6]]]

    structure = make_task("structure", ("verse", "chorus"), ("boundary_f_3s",))
    sections = [[[0.0, 8.0, "verse"], [8.0, 16.0, "chorus"], [16.0, 30.0, "bridge"], [30.0, 38.0, "chorus"]]]
    assert constant(structure, sections, (200,), 10.0) == [
        [[0.0, 8.0, "chorus"], [8.0, 16.0, "chorus"], [16.0, 20.0, "chorus"]]
    ]


def test_every_kind_of_task_that_probes_learn_has_one_or_says_so():
    for name in REGISTRY.names():
        task_type = REGISTRY.get(name)
        if isinstance(task_type, ProbeTaskType) and type(task_type).constant is ProbeTaskType.constant:
            with pytest.raises(UsageError, match="noise"):
                task_type.constant(make_task("multiclass", ("a",), ("accuracy",)), [], (), None)


def test_a_record_of_each_protocol_is_a_floor_of_the_leaderboard(measure, task, tags):
    height = task(
        "regression", label="height", labels=("height",), metrics=("r2_height",), monitor="r2", name="tones/height"
    )
    beats = task(
        "beat_tracking", label="beats", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms",
        name="tones/beats",
    )  # fmt: skip
    tasks = (task(), tags, height, beats)
    majority = build_encoder("majority")
    records = measure(*tasks, encoder=majority, seeds=(1, 2)) + measure(task())
    for record in records[:-1]:
        assert record.protocol.tried == 0 and record.protocol.chosen == {"layer": "constant"}
    scores = {record.task.name: record.mean_score() for record in records[:-1]}
    assert scores["tones/pitch"] == pytest.approx(6 / 18)
    assert scores["tones/height"] == pytest.approx(0, abs=1e-9)
    assert scores["tones/beats"] == pytest.approx(1), "all clips have the same beats"
    board = build_leaderboard(records)
    floor = next(system for system in board.systems if system.name == "majority")
    assert floor.is_floor and floor.rank is None and board.systems[-1] is floor
    for protocol in ("linear", "few-shot", "semi-constrained"):
        record = measure(task(), encoder=majority, protocol=protocol)[0]
        assert record.mean_score() == pytest.approx(6 / 18) and record.protocol.name == protocol


def test_corrupted_audio_changes_nothing(measure, task):
    record = measure(task(), encoder=build_encoder("majority"), corruptions=("noise:20db",))[0]
    assert record.robustness["noise:20db"]["accuracy"].value == record.scores["accuracy"].value
