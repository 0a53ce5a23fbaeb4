"""Heads over features that were made up: what only time can tell, events, windows of frames, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carrara.bench.probes.heads import REGISTRY as HEADS
from carrara.bench.protocols import linear
from carrara.bench.protocols.constrained import SUM
from carrara.bench.protocols.semi_constrained import PROTOCOL, SemiConstrainedSettings, to_hear
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.errors import DataError, UsageError
from carrara.core.settings import replace as changed

COUNTS = {"train": 48, "valid": 24, "test": 32}
FAST = {"learning_rates": (1e-2,), "hidden": 16, "dropout": 0.0}


def fast(**changes):
    return SemiConstrainedSettings(**FAST | changes)


def right(outcome):
    return np.mean([np.asarray(given) == np.asarray(outcome.truths) for given in outcome.answers])


@pytest.fixture
def in_time(setting, row):
    """Clips of eight or more frames of which no mean tells the class: `order` of two tones, or tones `together`."""

    def make(kind, **changes):
        truths, features = {}, {}
        for place, (name, count) in enumerate(COUNTS.items()):
            draw = np.random.default_rng(place)
            truths[name] = (np.arange(count) % 2).tolist()
            clips = []
            for truth in truths[name]:
                half = int(draw.integers(4, 8))
                tones = np.eye(4)[[0] * half + [1] * half] if kind == "order" else np.zeros((2 * half, 4))
                if kind == "order" and truth:
                    tones = tones[::-1]
                if kind == "together":
                    tones[::2, 0] = tones[(1 - truth) :: 2, 1] = 1
                clips.append(tones + 0.05 * draw.standard_normal(tones.shape))
            features[name] = {"0": clips, "1": [2 * clip for clip in clips]}
        return setting(row(labels=("a", "b"), **changes), truths, features, rate=10.0)

    return make


def means(made):
    features = {
        name: {layer: [clip.mean(0, keepdims=True) for clip in clips] for layer, clips in own.items()}
        for name, own in made.features.items()
    }
    return replace(made, features=features, rate=None)


@pytest.mark.parametrize(("kind", "head"), [("order", "lstm"), ("order", "conv"), ("together", "attention-pool")])
def test_what_only_time_can_tell_is_heard_by_heads_over_frames_and_not_from_means(in_time, kind, head):
    made = in_time(kind, max_epochs=60)
    outcome = PROTOCOL.run(made.inputs(settings=fast(head=head)))
    assert right(outcome) > 0.95
    assert right(linear.PROTOCOL.run(means(made).inputs())) < 0.75
    assert outcome.chosen[0]["head"] == head and outcome.chosen[0]["layer"] == SUM
    assert outcome.read(made.side("test")) == [list(given) for given in outcome.answers]


def test_every_rate_and_seed_is_tried_and_validation_chooses(clouds):
    made = clouds(spread=0.8, max_epochs=12)
    how = fast(layer="1", learning_rates=(1e-5, 1e-2), dropout=0.2)
    outcome = PROTOCOL.run(made.inputs(seeds=(1, 2), settings=how))
    assert outcome.tried == 4
    assert [(point.seed, point.learning_rate) for point in outcome.grid] == [(1, 1e-5), (1, 1e-2), (2, 1e-5), (2, 1e-2)]
    for seed, chosen in zip((1, 2), outcome.chosen):
        own = {point.learning_rate: point.valid for point in outcome.grid if point.seed == seed}
        assert own[chosen["learning_rate"]] == max(own.values())
    assert right(outcome) > 0.8
    alone = PROTOCOL.run(made.inputs(seeds=(2,), settings=how))
    assert alone.grid == outcome.grid[2:] and alone.answers[0] == outcome.answers[1]


def test_one_layer_may_be_named(clouds):
    made = clouds(spread=0.3, max_epochs=12)
    by_layer = {
        layer: PROTOCOL.run(made.inputs(settings=changed(fast(), {"layer": layer}))) for layer in (0, 1, "weighted-sum")
    }
    assert right(by_layer[0]) < 0.6 < 0.95 < right(by_layer[1])
    assert [outcome.chosen[0]["layer"] for outcome in by_layer.values()] == ["0", "1", SUM]
    for features in made.features.values():
        features["cnn"] = [np.ones((1, 3))] * len(features["0"])
        del features["0"]
    only = PROTOCOL.run(made.inputs(settings=fast()))
    assert only.chosen[0]["layer"] == "1", "the extra is no part of the sum, and one row has none"
    assert PROTOCOL.run(made.inputs(settings=fast(layer="cnn"))).chosen[0]["layer"] == "cnn"
    with pytest.raises(UsageError, match="layer=7: there is no such layer; there are weighted-sum, 1, cnn"):
        PROTOCOL.run(made.inputs(settings=fast(layer="7")))


@pytest.mark.parametrize("head", ["mlp", "lstm", "conv"])
def test_beats_are_found_frame_by_frame(setting, row, head):
    truths, features = {}, {}
    for place, name in enumerate(COUNTS):
        draw = np.random.default_rng(place)
        truths[name], clips = [], []
        for _ in range(6):
            first, period = draw.integers(2, 20), int(draw.integers(20, 30))
            places = np.arange(first, 300, period)
            clip = 0.1 * draw.standard_normal((300, 4))
            clip[places, 0] += 1
            truths[name].append(places / 50)
            clips.append(clip)
        features[name] = {"0": clips}
    patient = {"max_epochs": 80, "plateau_patience": 80, "stop_patience": 80}
    beats = row(
        "beat_tracking",
        labels=("beat",),
        metrics=("beat_f_70ms",),
        monitor="beat_f_70ms",
        window_seconds=1.0,
        **patient,
    )
    made = setting(beats, truths, features, rate=50.0)
    outcome = PROTOCOL.run(made.inputs(settings=fast(head=head, learning_rates=(2e-2,))))
    score = TASK_TYPES.get("beat_tracking").metrics(beats, outcome.truths, outcome.answers[0])["beat_f_70ms"]
    assert score > 0.8


def test_numbers_and_tags_are_answered_too(clouds, row):
    made = clouds(spread=0.4)
    made.task = row("multilabel", labels=("a", "b"), metrics=("roc_auc",), monitor="roc_auc", max_epochs=20)
    classes = made.truths
    made.truths = {name: [np.eye(3, dtype=np.float32)[one][:2] for one in own] for name, own in classes.items()}
    outcome = PROTOCOL.run(made.inputs(settings=fast(layer="1")))
    assert TASK_TYPES.get("multilabel").metrics(made.task, outcome.truths, outcome.answers[0])["roc_auc"] > 0.95
    made.task = row("regression", labels=("x",), metrics=("r2",), monitor="r2", max_epochs=40)
    made.truths = {name: [np.array([10.0 + one]) for one in own] for name, own in classes.items()}
    outcome = PROTOCOL.run(made.inputs(settings=fast(layer="1")))
    assert TASK_TYPES.get("regression").metrics(made.task, outcome.truths, outcome.answers[0])["r2"] > 0.8


@pytest.mark.parametrize(
    ("tail", "expected"), [("keep", [[10, 10, 6], [7], [10, 10]]), ("drop", [[10, 10], [7], [10, 10]])]
)
def test_windows_are_cut_from_a_clips_frames(in_time, row, made, tail, expected):
    setting = in_time("order", window_seconds=1.0, tail=tail, aggregate="window", scores=("accuracy_windows",))
    setting.features["train"] = {"0": [np.arange(4.0 * n).reshape(n, 4) for n in (26, 7, 23)]}
    setting.truths["train"] = [0, 1, 1]
    side = setting.side("train")
    met, examples = to_hear(HEADS.get("lstm"), made(), setting.task, TASK_TYPES.get("multiclass"), side)
    assert [[int(examples.counts_N[place]) for place in own] for own in met.rows_U] == expected
    starts = [low for clip, own in zip((0, 26, 33), expected) for low in clip + 10 * np.arange(len(own))]
    firsts = np.cumsum(examples.counts_N) - examples.counts_N
    np.testing.assert_array_equal(examples.rows_R[firsts], starts)
    assert met.rate is None and met.truths == side.truths


def test_a_last_window_that_lacks_only_the_frames_a_recordings_end_lacks_is_a_whole_one(in_time, made):
    class Short(made):
        def frames(self, samples):
            return max(1, (samples - 5) // 10)

    setting = in_time("order", window_seconds=1.0, tail="drop")
    setting.features["train"] = {"0": [np.zeros((Short().frames(300), 4))] * 2}
    _, examples = to_hear(HEADS.get("lstm"), Short(), setting.task, TASK_TYPES.get("multiclass"), setting.side("train"))
    assert examples.counts_N.tolist() == [10, 10, 9] * 2


@pytest.mark.parametrize("aggregate", ["embedding", "logit", "ensemble", "window"])
def test_windows_of_frames_answer_for_their_clip_as_the_task_says(in_time, aggregate):
    watch = "accuracy_windows" if aggregate == "window" else "accuracy"
    made = in_time("together", window_seconds=0.5, aggregate=aggregate, scores=(watch,), watch=watch, max_epochs=30)
    outcome = PROTOCOL.run(made.inputs(settings=fast(head="attention-pool")))
    given = outcome.answers[0]
    if aggregate == "window":
        assert all(len(own) > 1 for own in given)
        given = [own[0] for own in given]
    assert np.mean(np.asarray(given) == outcome.truths) > 0.9
    assert ("windows" in outcome.chosen[0]) == (aggregate == "ensemble")


def test_the_test_side_is_opened_after_all_scores_that_choose(in_time, watched_answers):
    made = in_time("order", max_epochs=2)
    order_of_events = watched_answers(made)
    PROTOCOL.run(made.inputs(settings=fast(head="conv")))
    assert order_of_events[-1] == "test" and set(order_of_events[:-1]) == {"train", "valid", "scored 24"}


def test_what_cannot_be_is_refused_before_anything_is_heard(clouds, row, made):
    setting = clouds()
    inputs = setting.inputs()
    with pytest.raises(UsageError, match="--protocol constrained"):
        PROTOCOL.run(replace(inputs, answer=replace(inputs.answer, run=lambda inputs: None)))
    with pytest.raises(UsageError, match=r"no head 'lsmt'\. Did you mean 'lstm'"):
        PROTOCOL.run(setting.inputs(settings=fast(head="lsmt")))
    with pytest.raises(UsageError, match=r"attention-pool has no answer for each frame.*conv, linear, lstm, mlp"):
        PROTOCOL.run(replace(inputs, answer=TASK_TYPES.get("beat_tracking"), settings=fast(head="attention-pool")))
    with pytest.raises(UsageError, match=r"lstm hears frames, and made has none; use --set head=mlp"):
        PROTOCOL.run(setting.inputs(settings=fast(head="lstm"), encoder=made(frame_rate=None)))
    assert setting.opened == []
    with pytest.raises(UsageError, match="learning_rates"):
        changed(fast(), {"learning_rates": []})


def test_a_head_over_frames_is_not_asked_about_windows(in_time):
    made = in_time("order", max_epochs=1)
    outcome = PROTOCOL.run(made.inputs(settings=fast(head="lstm")))
    with pytest.raises(UsageError, match="hears frames, and windows were given"):
        outcome.read(means(made).side("test"))


def test_no_finite_score_is_told(clouds, row):
    made = clouds(max_epochs=2)
    made.task = row("multilabel", labels=("a",), metrics=("roc_auc",), monitor="roc_auc", max_epochs=2)
    made.truths = {name: [np.ones(1, dtype=np.float32)] * len(truths) for name, truths in made.truths.items()}
    with (
        pytest.warns(UserWarning, match="no positive or no negative"),
        pytest.raises(DataError, match="finite roc_auc on the validation"),
    ):
        PROTOCOL.run(made.inputs(settings=fast()))
