"""Intervals against the binomial's closed form, SciPy's bootstrap and resampling written out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from carrara.bench.interval import intervals, resampled_counts
from carrara.bench.task_types import multiclass, multilabel, regression
from carrara.core.task import Task


def task(answer, labels, scores, watch, also=()):
    return Task(
        version=1,
        dataset="d",
        split_scheme="s",
        task_type=answer,
        label="x",
        labels=labels,
        metrics=scores,
        monitor=watch,
        extra_metrics=also,
        category="score",
        name="d/x",
    )


def test_accuracy_equals_the_binomial():
    right, units = 143, 200
    truths, answers = [0] * units, [0] * right + [1] * (units - right)
    asked = task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    low, high = intervals(asked, multiclass.TASK_TYPE, truths, [answers], seed=0, draws=20_000)["accuracy"]
    expected = stats.binom(units, right / units).ppf([0.025, 0.975]) / units
    assert [low, high] == pytest.approx(expected, abs=1.5 / units)


def test_r2_equals_scipy():
    draw = np.random.default_rng(0)
    truth = draw.standard_normal((80, 2))
    answer = truth + draw.standard_normal((80, 2)) * [0.4, 0.9]
    asked = task("regression", ("v", "a"), ("r2_v", "r2_a"), "r2")
    found = intervals(asked, regression.TASK_TYPE, list(truth), [list(answer)], seed=1, draws=4000)
    from sklearn.metrics import r2_score

    for place, name in enumerate(("r2_v", "r2_a")):
        reference = stats.bootstrap(
            (truth[:, place], answer[:, place]),
            r2_score,
            paired=True,
            vectorized=False,
            n_resamples=3000,
            method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval
        assert found[name] == pytest.approx((reference.low, reference.high), abs=0.02)
    middle = [sum(pair) / 2 for pair in zip(found["r2_v"], found["r2_a"])]
    assert found["r2"][0] > middle[0] - 0.02 and found["r2"][1] < middle[1] + 0.02


def test_tag_measures_skip_the_tags_that_a_draw_empties():
    draw = np.random.default_rng(3)
    truth = np.zeros((40, 3))
    truth[:20, 0] = truth[5:25, 1] = 1
    truth[7, 2] = 1
    scores = truth + draw.standard_normal((40, 3))
    asked = task("multilabel", ("a", "b", "c"), ("roc_auc", "average_precision"), "roc_auc")
    found = intervals(asked, multilabel.TASK_TYPE, list(truth), [list(scores)], seed=4, draws=300)
    values = {"roc_auc": [], "average_precision": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for counts_U in resampled_counts(40, 4, 300):
            picks = np.repeat(np.arange(40), counts_U)
            for name, value in multilabel.metrics(asked, truth[picks], scores[picks]).items():
                values[name].append(value)
    for name, drawn in values.items():
        assert found[name] == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=1e-9)


def test_any_other_metric_is_asked_again_for_each_draw_unless_it_is_a_mean_of_units():
    asked = task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    calls = []

    def metrics(task, truths, answers):
        calls.append(len(truths))
        errors = np.abs(np.asarray(truths) - np.asarray(answers))
        return {"accuracy": float(np.median(errors))}

    draw = np.random.default_rng(5)
    truths, answers = draw.standard_normal((2, 61)).tolist()
    median = replace(multiclass.TASK_TYPE, metrics=metrics)
    found = intervals(asked, median, truths, [answers], seed=6, draws=200)["accuracy"]
    errors = np.abs(np.subtract(truths, answers))
    drawn = [np.median(np.repeat(errors, counts_U)) for counts_U in resampled_counts(61, 6, 200)]
    assert found == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    assert calls.count(61) == 201


def test_the_same_seed_gives_the_same_interval():
    asked = task("multiclass", ("a", "b"), ("accuracy",), "accuracy")
    truths, answers = np.random.default_rng(0).integers(0, 2, (2, 50)).tolist()
    one, again, other = (intervals(asked, multiclass.TASK_TYPE, truths, [answers], seed=seed) for seed in (1, 1, 2))
    assert one == again
    np.testing.assert_array_equal(resampled_counts(50, 1).sum(1), 50)
    assert (resampled_counts(50, 1) != resampled_counts(50, 2)).any()
    assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.05)
