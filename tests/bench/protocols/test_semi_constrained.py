"""Heads on random features: classes that only time separates, beats, windows of frames, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carrara.bench.protocols import linear
from carrara.bench.protocols.constrained import SUM
from carrara.bench.protocols.semi_constrained import PROTOCOL, SemiConstrainedSettings, cut_windows
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.errors import DataError, UsageError
from carrara.core.settings import replace as with_changes

COUNTS = {"train": 48, "valid": 24, "test": 32}
FAST = {"learning_rates": (1e-2,), "hidden": 16, "dropout": 0.0}


def fast(**changes):
    return SemiConstrainedSettings(**FAST | changes)


def accuracy_of(data, result):
    return np.mean(
        [np.asarray(own) == np.asarray(data.truths["test"]) for own in result.predictor.predict(data.test())]
    )


@pytest.fixture
def in_time(random_data, make_task):
    """Clips of eight or more frames whose mean does not give the class: `order` of two tones, or tones `together`."""

    def make(kind, **changes):
        truths, features = {}, {}
        for index, (name, count) in enumerate(COUNTS.items()):
            draw = np.random.default_rng(index)
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
        return random_data(make_task(labels=("a", "b"), **changes), truths, features, rate=10.0)

    return make


def means(data):
    features = {
        name: {layer: [clip.mean(0, keepdims=True) for clip in clips] for layer, clips in own.items()}
        for name, own in data.features.items()
    }
    return replace(data, features=features, rate=None)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head"), [("order", "lstm"), ("order", "conv"), ("together", "attention-pool")])
def test_heads_on_frames_learn_what_only_time_separates(in_time, kind, head):
    data = in_time(kind, max_epochs=60)
    result = data.run(PROTOCOL, settings=fast(head=head))
    assert accuracy_of(data, result) > 0.95
    assert accuracy_of(means(data), means(data).run(linear.PROTOCOL)) < 0.75
    assert result.chosen[0]["head"] == head and result.chosen[0]["layer"] == SUM


def test_every_rate_and_seed_is_tried_and_validation_chooses(clouds):
    data = clouds(spread=0.8, max_epochs=12)
    settings = fast(layer="1", learning_rates=(1e-5, 1e-2), dropout=0.2)
    result = data.run(PROTOCOL, seeds=(1, 2), settings=settings)
    assert result.tried == 4
    assert [(point.seed, point.learning_rate) for point in result.grid] == [(1, 1e-5), (1, 1e-2), (2, 1e-5), (2, 1e-2)]
    for seed, chosen in zip((1, 2), result.chosen):
        own = {point.learning_rate: point.valid for point in result.grid if point.seed == seed}
        assert own[chosen["learning_rate"]] == max(own.values())
    assert accuracy_of(data, result) > 0.8
    alone = data.run(PROTOCOL, seeds=(2,), settings=settings)
    assert alone.grid == result.grid[2:]
    assert alone.predictor.predict(data.test())[0] == result.predictor.predict(data.test())[1]


def test_one_layer_may_be_named(clouds):
    data = clouds(spread=0.3, max_epochs=12)
    by_layer = {
        layer: data.run(PROTOCOL, settings=with_changes(fast(), {"layer": layer})) for layer in (0, 1, "weighted-sum")
    }
    assert accuracy_of(data, by_layer[0]) < 0.6 < 0.95 < accuracy_of(data, by_layer[1])
    assert [result.chosen[0]["layer"] for result in by_layer.values()] == ["0", "1", SUM]
    for features in data.features.values():
        features["cnn"] = [np.ones((1, 3))] * len(features["0"])
        del features["0"]
    only = data.run(PROTOCOL, settings=fast())
    assert only.chosen[0]["layer"] == "1", "the extra is no part of the sum, and a single layer has no sum"
    assert data.run(PROTOCOL, settings=fast(layer="cnn")).chosen[0]["layer"] == "cnn"
    with pytest.raises(UsageError, match="layer=7: there is no such layer; there are weighted-sum, 1, cnn"):
        data.run(PROTOCOL, settings=fast(layer="7"))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mlp", "lstm", "conv"])
def test_beats_are_predicted_frame_by_frame(random_data, make_task, head):
    truths, features = {}, {}
    for index, name in enumerate(COUNTS):
        draw = np.random.default_rng(index)
        truths[name], clips = [], []
        for _ in range(6):
            first, period = draw.integers(2, 20), int(draw.integers(20, 30))
            frames = np.arange(first, 300, period)
            clip = 0.1 * draw.standard_normal((300, 4))
            clip[frames, 0] += 1
            truths[name].append(frames / 50)
            clips.append(clip)
        features[name] = {"0": clips}
    patient = {"max_epochs": 80, "plateau_patience": 80, "stop_patience": 80}
    beats = make_task(
        "beat_tracking",
        labels=("beat",),
        metrics=("beat_f_70ms",),
        monitor="beat_f_70ms",
        window_seconds=1.0,
        **patient,
    )
    data = random_data(beats, truths, features, rate=50.0)
    predictions = data.run(PROTOCOL, settings=fast(head=head, learning_rates=(2e-2,))).predictor.predict(data.test())
    score = data.task_type.metrics(beats, truths["test"], predictions[0])["beat_f_70ms"]
    assert score > 0.8


def test_regression_and_tags_are_learned_too(clouds, make_task):
    data = clouds(spread=0.4)
    data.task = make_task("multilabel", labels=("a", "b"), metrics=("roc_auc",), monitor="roc_auc", max_epochs=20)
    classes = data.truths
    data.truths = {name: [np.eye(3, dtype=np.float32)[index][:2] for index in own] for name, own in classes.items()}
    predictions = data.run(PROTOCOL, settings=fast(layer="1")).predictor.predict(data.test())[0]
    assert data.task_type.metrics(data.task, data.truths["test"], predictions)["roc_auc"] > 0.95
    data.task = make_task("regression", labels=("x",), metrics=("r2",), monitor="r2", max_epochs=40)
    data.truths = {name: [np.array([10.0 + index]) for index in own] for name, own in classes.items()}
    predictions = data.run(PROTOCOL, settings=fast(layer="1")).predictor.predict(data.test())[0]
    assert data.task_type.metrics(data.task, data.truths["test"], predictions)["r2"] > 0.8


@pytest.mark.parametrize(
    ("tail", "expected"), [("keep", [[10, 10, 6], [7], [10, 10]]), ("drop", [[10, 10], [7], [10, 10]])]
)
def test_windows_are_cut_from_a_clips_frames(in_time, card_only, tail, expected):
    monitor = {"metrics": ("accuracy_windows",), "monitor": "accuracy_windows"}
    data = in_time("order", window_seconds=1.0, partial_window=tail, aggregate="window", **monitor)
    data.features["train"] = {"0": [np.arange(4.0 * n).reshape(n, 4) for n in (26, 7, 23)]}
    data.truths["train"] = [0, 1, 1]
    split = data.split("train")
    by_window, examples = cut_windows(card_only(), data.task, split)
    assert [[int(examples.counts_N[index]) for index in own] for own in by_window.rows_U] == expected
    starts = [low for clip, own in zip((0, 26, 33), expected) for low in clip + 10 * np.arange(len(own))]
    firsts = np.cumsum(examples.counts_N) - examples.counts_N
    np.testing.assert_array_equal(examples.rows_R[firsts], starts)
    assert by_window.frame_rate is None and by_window.truths == split.truths


def test_a_last_window_that_lacks_only_the_frames_missing_at_a_recordings_end_is_complete(in_time, card_only):
    class Short(card_only):
        def num_frames(self, samples):
            return max(1, (samples - 5) // 10)

    data = in_time("order", window_seconds=1.0, partial_window="drop")
    data.features["train"] = {"0": [np.zeros((Short().num_frames(300), 4))] * 2}
    _, examples = cut_windows(Short(), data.task, data.split("train"))
    assert examples.counts_N.tolist() == [10, 10, 9] * 2


@pytest.mark.parametrize("aggregate", ["embedding", "logit", "ensemble", "window"])
def test_windows_of_frames_predict_for_their_clip_as_the_task_says(in_time, aggregate):
    monitor = "accuracy_windows" if aggregate == "window" else "accuracy"
    data = in_time(
        "together", window_seconds=0.5, aggregate=aggregate, metrics=(monitor,), monitor=monitor, max_epochs=30
    )
    result = data.run(PROTOCOL, settings=fast(head="attention-pool"))
    predictions = result.predictor.predict(data.test())[0]
    if aggregate == "window":
        assert all(len(own) > 1 for own in predictions)
        predictions = [own[0] for own in predictions]
    assert np.mean(np.asarray(predictions) == data.truths["test"]) > 0.9
    assert ("windows" in result.chosen[0]) == (aggregate == "ensemble")


def test_what_does_not_fit_is_refused_before_features_are_extracted(clouds, make_task, card_only):
    data = clouds()

    def window_spec(task, frame_rate=10.0, **settings):
        card = card_only(frame_rate).card
        return PROTOCOL.window_spec(task, TASK_TYPES.get(task.task_type), card, fast(**settings))

    with pytest.raises(UsageError, match="--protocol constrained"):
        window_spec(make_task("retrieval", metrics=("map",), monitor="map"))
    with pytest.raises(UsageError, match=r"no head 'lsmt'\. Did you mean 'lstm'"):
        window_spec(data.task, head="lsmt")
    with pytest.raises(UsageError, match=r"attention-pool gives no prediction for each frame.*conv, linear, lstm, mlp"):
        window_spec(make_task("beat_tracking"), head="attention-pool")
    with pytest.raises(UsageError, match=r"lstm reads frames, and made has none; use --set head=mlp"):
        window_spec(data.task, frame_rate=None, head="lstm")
    assert window_spec(data.task, layer="cnn").cnn
    assert window_spec(data.task, head="lstm").pool == "frames"
    with pytest.raises(UsageError, match="learning_rates"):
        with_changes(fast(), {"learning_rates": []})


def test_a_head_on_frames_refuses_features_of_windows(in_time):
    data = in_time("order", max_epochs=1)
    result = data.run(PROTOCOL, settings=fast(head="lstm"))
    with pytest.raises(UsageError, match="reads frames, and the features are windows"):
        result.predictor.predict(means(data).test())


def test_a_task_without_a_finite_score_is_named(clouds, make_task):
    data = clouds(max_epochs=2)
    data.task = make_task("multilabel", labels=("a",), metrics=("roc_auc",), monitor="roc_auc", max_epochs=2)
    data.truths = {name: [np.ones(1, dtype=np.float32)] * len(truths) for name, truths in data.truths.items()}
    with (
        pytest.warns(UserWarning, match="no positive or no negative"),
        pytest.raises(DataError, match="finite roc_auc on the validation"),
    ):
        data.run(PROTOCOL, settings=fast())
