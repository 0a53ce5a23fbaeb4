"""Heads of scikit-learn: the search and the predictions are those of scikit-learn run by hand; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.svm import SVC, SVR

from carrara.bench.protocols.semi_constrained import PROTOCOL, SemiConstrainedSettings
from carrara.core.errors import UsageError

COSTS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
KINDS = {
    "logistic-regression": lambda c: LogisticRegression(C=c, max_iter=1000),
    "svm": lambda c: SVC(C=c, break_ties=True),
}


def settings(head, **changes):
    return SemiConstrainedSettings(head=head, **changes)


def matrix(data, split, layer):
    """Return a clip's mean row of a layer in the store's half precision, all clips."""
    return np.concatenate(data.features[split][layer]).astype(np.float16).astype(np.float64)


def standardised(data, layer):
    train = matrix(data, "train", layer)
    return {split: (matrix(data, split, layer) - train.mean(0)) / train.std(0) for split in ("train", "valid", "test")}


@pytest.mark.parametrize("head", list(KINDS))
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a", "b", "never", "c")])
def test_classes_are_those_of_scikit_learn_by_hand(clouds, head, labels):
    data = clouds(spread=1.2, labels=labels)
    for truths in data.truths.values():
        truths[:] = [3 if truth == 2 and len(labels) == 4 else truth for truth in truths]
    result = data.run(PROTOCOL, seeds=(1, 2), settings=settings(head))
    best = (-np.inf, None, None, None)
    for layer in ("0", "1"):
        x = standardised(data, layer)
        for c in COSTS:
            model = KINDS[head](c).fit(x["train"], data.truths["train"])
            score = accuracy_score(data.truths["valid"], model.predict(x["valid"]))
            if score > best[0]:
                best = score, layer, c, model.predict(x["test"])
    assert result.tried == 2 * len(COSTS) == len(result.grid)
    assert result.chosen == ({"layer": best[1], "head": head, "C": best[2]},) * 2
    assert max(point.valid for point in result.grid) == pytest.approx(best[0])
    assert {point.settings["C"] for point in result.grid} == set(COSTS)
    predictions = result.predictor.predict(data.test())
    assert predictions == [best[3].tolist()] * 2


def test_two_classes_have_the_same_answer_as_scikit_learn(clouds):
    data = clouds(spread=1.2, labels=("a", "b"))
    for truths in data.truths.values():
        truths[:] = [min(truth, 1) for truth in truths]
    result = data.run(PROTOCOL, settings=settings("logistic-regression", C=(0.1,), layer="1"))
    x = standardised(data, "1")
    model = LogisticRegression(C=0.1, max_iter=1000).fit(x["train"], data.truths["train"])
    assert result.predictor.predict(data.test())[0] == model.predict(x["test"]).tolist()
    assert result.tried == 1 and result.chosen[0]["layer"] == "1"


@pytest.mark.parametrize("head", list(KINDS))
def test_tags_are_one_estimator_each(clouds, head):
    data = clouds(
        spread=1.2, task_type="multilabel", labels=("x", "y"), metrics=("roc_auc",), monitor="roc_auc", name="d/tags"
    )
    for split, truths in data.truths.items():
        data.truths[split] = [np.array([truth > 0, truth != 1], np.float32) for truth in truths]
    result = data.run(PROTOCOL, settings=settings(head, C=(0.1, 1.0), layer="1"))
    x, best = standardised(data, "1"), (-np.inf, None)
    train, valid = np.asarray(data.truths["train"]), np.asarray(data.truths["valid"])
    for c in (0.1, 1.0):
        models = [KINDS[head](c).fit(x["train"], train[:, tag]) for tag in range(2)]
        values = {split: np.stack([model.decision_function(x[split]) for model in models], 1) for split in x}
        score = roc_auc_score(valid, values["valid"])
        if score > best[0]:
            best = score, 1 / (1 + np.exp(-values["test"]))
    np.testing.assert_allclose(result.predictor.predict(data.test())[0], best[1], rtol=1e-9)


def test_numbers_are_support_vector_regressions(clouds):
    data = clouds(spread=0.5, task_type="regression", labels=("v",), metrics=("r2",), monitor="r2", name="d/numbers")
    draw = np.random.default_rng(0)
    for split, truths in data.truths.items():
        data.truths[split] = [np.array([truth + 0.1 * draw.standard_normal()]) for truth in truths]
    result = data.run(PROTOCOL, settings=settings("svm", C=(1.0,), layer="1"))
    x, y = standardised(data, "1"), np.asarray(data.truths["train"])[:, 0]
    model = SVR(C=1.0).fit(x["train"], ((y - y.mean()) / y.std()).astype(np.float32))
    expected = model.predict(x["test"]) * y.std() + y.mean()
    np.testing.assert_allclose(np.asarray(result.predictor.predict(data.test())[0])[:, 0], expected, rtol=1e-6)


def test_windows_are_examples_and_their_decision_values_are_combined(random_data, make_task):
    draw, truths, features = np.random.default_rng(1), {}, {}
    for split in ("train", "valid", "test"):
        truths[split] = [index % 3 for index in range(24)]
        features[split] = {"0": [np.eye(3)[[t] * (2 + t)] + draw.standard_normal((2 + t, 3)) for t in truths[split]]}
    data = random_data(make_task(aggregate="logit"), truths, features)
    result = data.run(PROTOCOL, settings=settings("logistic-regression", C=(1.0,)))
    rows = {split: np.concatenate(features[split]["0"]).astype(np.float16).astype(float) for split in features}
    targets = np.repeat(truths["train"], [2 + truth for truth in truths["train"]])
    mean, std = rows["train"].mean(0), rows["train"].std(0)
    model = LogisticRegression(C=1.0, max_iter=1000).fit((rows["train"] - mean) / std, targets)
    values = model.decision_function((rows["test"] - mean) / std)
    ends = np.cumsum([2 + truth for truth in truths["test"]])
    expected = [values[end - 2 - t : end].mean(0).argmax() for end, t in zip(ends, truths["test"])]
    assert result.predictor.predict(data.test())[0] == expected


def test_what_an_estimator_cannot_learn_is_refused(clouds, monkeypatch):
    beats = clouds(
        task_type="beat_tracking", labels=("beat",), metrics=("beat_f_70ms",), monitor="beat_f_70ms", name="d/beats"
    )
    with pytest.raises(UsageError, match="no prediction for each frame.*linear"):
        beats.run(PROTOCOL, settings=settings("svm"))
    numbers = clouds(task_type="regression", labels=("v",), metrics=("r2",), monitor="r2", name="d/numbers")
    with pytest.raises(UsageError, match="multiclass and multilabel, not regression"):
        numbers.run(PROTOCOL, settings=settings("logistic-regression"))
    many = clouds(counts={"train": 20_001, "valid": 5, "test": 5})
    with pytest.raises(UsageError, match="20,001.*logistic-regression"):
        many.run(PROTOCOL, settings=settings("svm"))
    with pytest.raises(UsageError, match="no such layer"):
        clouds().run(PROTOCOL, settings=settings("svm", layer="7"))
