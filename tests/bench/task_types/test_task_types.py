"""Multiclass, multilabel and numbers: losses against torch's own a probe at a time, scores against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch.nn import functional as F

from carrara.bench.task_types import multiclass, multilabel, regression
from carrara.core.clip import Clip
from carrara.core.errors import DataError
from carrara.core.task import Task


def task(answer, labels, scores, watch, label="x"):
    return Task(
        version=1,
        dataset="d",
        split_scheme="s",
        task_type=answer,
        label=label,
        labels=labels,
        metrics=scores,
        monitor=watch,
        category="score",
        name="d/x",
    )


def clips(*values, label="x"):
    return [Clip(str(place), Path("a.wav"), labels={label: value}) for place, value in enumerate(values)]


ONE = task("multiclass", ("a", "b", "3"), ("accuracy",), "accuracy")
ANY = task("multilabel", ("a", "b", "c"), ("roc_auc", "average_precision"), "roc_auc")
NUM = task("regression", ("valence", "arousal"), ("r2_valence", "r2_arousal"), "r2")


def test_one_of():
    truths = multiclass.truths(ONE, clips("b", 3, "a"))
    assert truths == [1, 2, 0]
    targets = torch.from_numpy(multiclass.targets(ONE, None, truths, None))
    logits = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([F.cross_entropy(one, targets) for one in logits])
    torch.testing.assert_close(multiclass.loss(logits, targets), expected)
    answers = multiclass.decode(ONE, None, torch.eye(3)[None, [1, 2, 1]], None)
    assert answers == [[1, 2, 1]]
    assert multiclass.metrics(ONE, truths, answers[0]) == {"accuracy": pytest.approx(2 / 3)}
    assert multiclass.TASK_TYPE.outputs(ONE) == 3
    with pytest.raises(DataError, match=r"clip '0': its x is 'z'"):
        multiclass.truths(ONE, clips("z"))


def test_one_of_names_only_the_metrics_that_are_asked_for():
    keys = task("multiclass", ("C major", "G major"), ("key_weighted",), "key_weighted")
    assert multiclass.metrics(keys, [0, 1], [1, 1]) == {"key_weighted": pytest.approx(0.75)}


def test_any_of():
    truths = multilabel.truths(ANY, clips(["a"], ["b", "unheard of"], [], ["a", "b"]))
    np.testing.assert_array_equal(truths, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
    targets = torch.from_numpy(multilabel.targets(ANY, None, truths, None))
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([F.binary_cross_entropy_with_logits(one, targets) for one in logits])
    torch.testing.assert_close(multilabel.loss(logits, targets), expected)
    answers = multilabel.decode(ANY, None, logits, None)
    with pytest.warns(UserWarning, match="1 of 3 tags .* left out of the mean: c"):
        found = multilabel.metrics(ANY, truths, answers[1])
    known = np.array(truths)[:, :2], logits[1, :, :2].numpy()
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(*known, average="macro"))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(*known, average="macro"))
    with pytest.raises(DataError, match="it has no x"):
        multilabel.truths(ANY, clips(["a"], label="y"))


def test_confident_answers_stay_in_order():
    answers = multilabel.decode(ANY, None, torch.tensor([[[20.0, 30.0, -40.0]]]), None)
    assert answers[0][0][0] < answers[0][0][1] < 1


def test_numbers():
    draw = np.random.default_rng(0)
    values = draw.normal((5, 3), (2, 0.5), (20, 2))
    asked = [Clip(str(i), Path("a"), labels={"valence": v, "arousal": a}) for i, (v, a) in enumerate(values.tolist())]
    truths = regression.truths(NUM, asked)
    state = regression.fit(NUM, truths)
    targets = regression.targets(NUM, state, truths, None)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(targets.std(0), 1, atol=1e-6)
    back = regression.decode(NUM, state, torch.from_numpy(targets)[None], None)[0]
    np.testing.assert_allclose(back, values, atol=1e-5)
    logits = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(2))
    expected = torch.stack([F.mse_loss(one, torch.from_numpy(targets)) for one in logits])
    torch.testing.assert_close(regression.loss(logits, torch.from_numpy(targets)), expected)
    answers = regression.decode(NUM, state, logits, None)[2]
    found = regression.metrics(NUM, truths, answers)
    valence, arousal = sk.r2_score(np.array(truths), np.array(answers), multioutput="raw_values")
    assert found == pytest.approx({"r2_valence": valence, "r2_arousal": arousal, "r2": (valence + arousal) / 2})


def test_numbers_that_do_not_vary_or_are_not_there():
    with pytest.raises(DataError, match="arousal is the same"):
        regression.fit(NUM, [np.array([1.0, 2.0]), np.array([2.0, 2.0])])
    with pytest.raises(DataError, match="it has no arousal"):
        regression.truths(NUM, [Clip("a", Path("a"), labels={"valence": 1.0})])
    nested = [Clip("a", Path("a"), labels={"x": {"arousal": 2.0, "valence": 1.0}})]
    np.testing.assert_array_equal(regression.truths(NUM, nested), [[1.0, 2.0]])
