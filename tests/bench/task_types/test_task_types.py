"""Multiclass, multilabel and regression: losses against torch's for each probe, scores against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch.nn import functional as F

from carrara.bench.task_types.multiclass import TASK_TYPE as multiclass
from carrara.bench.task_types.multilabel import TASK_TYPE as multilabel
from carrara.bench.task_types.regression import TASK_TYPE as regression
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task


def make_task(task_type, labels, metrics, monitor, label="x"):
    return Task(
        version=1,
        dataset="d",
        split_scheme="s",
        task_type=task_type,
        label=label,
        labels=labels,
        metrics=metrics,
        monitor=monitor,
        category="score",
        name="d/x",
    )


def clips(*values, label="x"):
    return [Clip(str(index), Path("a.wav"), labels={label: value}) for index, value in enumerate(values)]


CLASSES = make_task("multiclass", ("a", "b", "3"), ("accuracy",), "accuracy")
TAGS = make_task("multilabel", ("a", "b", "c"), ("roc_auc", "average_precision"), "roc_auc")
NUMBERS = make_task("regression", ("valence", "arousal"), ("r2_valence", "r2_arousal"), "r2")


def test_multiclass():
    truths = multiclass.truths(CLASSES, clips("b", 3, "a"))
    assert truths == [1, 2, 0]
    targets = torch.from_numpy(multiclass.targets(CLASSES, None, truths, None))
    logits = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([F.cross_entropy(own, targets) for own in logits])
    torch.testing.assert_close(multiclass.loss(logits, targets), expected)
    predictions = multiclass.decode(CLASSES, None, torch.eye(3)[None, [1, 2, 1]], None)
    assert predictions == [[1, 2, 1]]
    assert multiclass.metrics(CLASSES, truths, predictions[0]) == {"accuracy": pytest.approx(2 / 3)}
    assert multiclass.outputs(CLASSES) == 3
    with pytest.raises(DataError, match=r"clip '0': its x is 'z'"):
        multiclass.truths(CLASSES, clips("z"))


def test_multiclass_computes_only_the_requested_metrics():
    keys = make_task("multiclass", ("C major", "G major"), ("key_weighted",), "key_weighted")
    assert multiclass.metrics(keys, [0, 1], [1, 1]) == {"key_weighted": pytest.approx(0.75)}


def test_multilabel():
    truths = multilabel.truths(TAGS, clips(["a"], ["b", "unknown"], [], ["a", "b"]))
    np.testing.assert_array_equal(truths, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
    targets = torch.from_numpy(multilabel.targets(TAGS, None, truths, None))
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([F.binary_cross_entropy_with_logits(own, targets) for own in logits])
    torch.testing.assert_close(multilabel.loss(logits, targets), expected)
    predictions = multilabel.decode(TAGS, None, logits, None)
    with pytest.warns(UserWarning, match="1 of 3 tags .* left out of the mean: c"):
        scores = multilabel.metrics(TAGS, truths, predictions[1])
    known = np.array(truths)[:, :2], logits[1, :, :2].numpy()
    assert scores["roc_auc"] == pytest.approx(sk.roc_auc_score(*known, average="macro"))
    assert scores["average_precision"] == pytest.approx(sk.average_precision_score(*known, average="macro"))
    with pytest.raises(DataError, match="it has no label 'x'"):
        multilabel.truths(TAGS, clips(["a"], label="y"))


def test_confident_predictions_stay_in_order():
    predictions = multilabel.decode(TAGS, None, torch.tensor([[[20.0, 30.0, -40.0]]]), None)
    assert predictions[0][0][0] < predictions[0][0][1] < 1


def test_regression():
    draw = np.random.default_rng(0)
    values = draw.normal((5, 3), (2, 0.5), (20, 2))
    numbered = [
        Clip(str(i), Path("a"), labels={"valence": v, "arousal": a}) for i, (v, a) in enumerate(values.tolist())
    ]
    truths = regression.truths(NUMBERS, numbered)
    state = regression.fit(NUMBERS, truths)
    targets = regression.targets(NUMBERS, state, truths, None)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(targets.std(0), 1, atol=1e-6)
    back = regression.decode(NUMBERS, state, torch.from_numpy(targets)[None], None)[0]
    np.testing.assert_allclose(back, values, atol=1e-5)
    logits = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(2))
    expected = torch.stack([F.mse_loss(own, torch.from_numpy(targets)) for own in logits])
    torch.testing.assert_close(regression.loss(logits, torch.from_numpy(targets)), expected)
    predictions = regression.decode(NUMBERS, state, logits, None)[2]
    scores = regression.metrics(NUMBERS, truths, predictions)
    valence, arousal = sk.r2_score(np.array(truths), np.array(predictions), multioutput="raw_values")
    assert scores == pytest.approx({"r2_valence": valence, "r2_arousal": arousal, "r2": (valence + arousal) / 2})


def test_numbers_that_do_not_vary_or_are_absent():
    clips = [Clip(name, Path(name), split="train") for name in "ab"]
    with pytest.raises(DataError, match="arousal is the same for every train clip"):
        regression.check_truths(NUMBERS, clips, [np.array([1.0, 2.0]), np.array([2.0, 2.0])], strict=False)
    with pytest.raises(DataError, match="it has no label 'arousal'"):
        regression.truths(NUMBERS, [Clip("a", Path("a"), labels={"valence": 1.0})])
    nested = [Clip("a", Path("a"), labels={"x": {"arousal": 2.0, "valence": 1.0}})]
    np.testing.assert_array_equal(regression.truths(NUMBERS, nested), [[1.0, 2.0]])
