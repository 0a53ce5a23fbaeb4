"""Intervals against the binomial's closed form, SciPy's bootstrap and resampling written out."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from carrara.bench.interval import confidence_intervals
from carrara.bench.task_types.multiclass import TASK_TYPE as MULTICLASS
from carrara.bench.task_types.multilabel import TASK_TYPE as MULTILABEL
from carrara.bench.task_types.regression import TASK_TYPE as REGRESSION
from carrara.core.task import Task
from carrara.metrics.bootstrap import resample_counts


def make_task(task_type, labels, metrics, monitor):
    return Task(
        version=1,
        dataset="d",
        split_scheme="s",
        task_type=task_type,
        label="x",
        labels=labels,
        metrics=metrics,
        monitor=monitor,
        category="score",
        name="d/x",
    )


def test_accuracy_equals_the_binomial():
    right, units = 143, 200
    truths, predictions = [0] * units, [0] * right + [1] * (units - right)
    task = make_task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    low, high = confidence_intervals(task, MULTICLASS, truths, [predictions], seed=0, draws=20_000)["accuracy"]
    expected = stats.binom(units, right / units).ppf([0.025, 0.975]) / units
    assert [low, high] == pytest.approx(expected, abs=1.5 / units)


@pytest.mark.slow
def test_r2_equals_scipy():
    draw = np.random.default_rng(0)
    truth = draw.standard_normal((80, 2))
    prediction = truth + draw.standard_normal((80, 2)) * [0.4, 0.9]
    task = make_task("regression", ("v", "a"), ("r2_v", "r2_a"), "r2")
    intervals = confidence_intervals(task, REGRESSION, list(truth), [list(prediction)], seed=1, draws=4000)
    from sklearn.metrics import r2_score

    for index, name in enumerate(("r2_v", "r2_a")):
        reference = stats.bootstrap(
            (truth[:, index], prediction[:, index]),
            r2_score,
            paired=True,
            vectorized=False,
            n_resamples=3000,
            method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval
        assert intervals[name] == pytest.approx((reference.low, reference.high), abs=0.02)
    middle = [sum(pair) / 2 for pair in zip(intervals["r2_v"], intervals["r2_a"])]
    assert intervals["r2"][0] > middle[0] - 0.02 and intervals["r2"][1] < middle[1] + 0.02


def test_tag_measures_skip_the_tags_that_a_draw_empties():
    draw = np.random.default_rng(3)
    truth = np.zeros((40, 3))
    truth[:20, 0] = truth[5:25, 1] = 1
    truth[7, 2] = 1
    scores = truth + draw.standard_normal((40, 3))
    task = make_task("multilabel", ("a", "b", "c"), ("roc_auc", "average_precision"), "roc_auc")
    intervals = confidence_intervals(task, MULTILABEL, list(truth), [list(scores)], seed=4, draws=300)
    values = {"roc_auc": [], "average_precision": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for counts_U in resample_counts(40, 4, 300):
            picks = np.repeat(np.arange(40), counts_U)
            for name, value in MULTILABEL.metrics(task, truth[picks], scores[picks]).items():
                values[name].append(value)
    for name, drawn in values.items():
        assert intervals[name] == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=1e-9)


def test_any_other_metric_is_computed_for_each_draw_unless_it_is_a_mean_of_units():
    task = make_task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    calls = []

    class MedianError(type(MULTICLASS)):
        def metrics(self, task, truths, predictions):
            calls.append(len(truths))
            errors = np.abs(np.asarray(truths) - np.asarray(predictions))
            return {"accuracy": float(np.median(errors))}

    draw = np.random.default_rng(5)
    truths, predictions = draw.standard_normal((2, 61)).tolist()
    intervals = confidence_intervals(task, MedianError(), truths, [predictions], seed=6, draws=200)["accuracy"]
    errors = np.abs(np.subtract(truths, predictions))
    drawn = [np.median(np.repeat(errors, counts_U)) for counts_U in resample_counts(61, 6, 200)]
    assert intervals == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    assert calls.count(61) == 201


def test_the_same_seed_gives_the_same_interval():
    task = make_task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    truths, predictions = np.random.default_rng(0).integers(0, 2, (2, 50)).tolist()
    first, again, other = (
        confidence_intervals(task, MULTICLASS, truths, [predictions], seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    np.testing.assert_array_equal(resample_counts(50, 1).sum(1), 50)
    assert (resample_counts(50, 1) != resample_counts(50, 2)).any()
    assert first["accuracy"] == pytest.approx(other["accuracy"], abs=0.05)
