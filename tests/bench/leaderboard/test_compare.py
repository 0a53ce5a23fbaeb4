"""The paired comparison: against a bootstrap written out, closed forms, and what cannot be compared."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest, norm, t, ttest_rel
from sklearn.metrics import roc_auc_score

from carrara.bench import task_types
from carrara.bench.leaderboard.compare import (
    PairedDifference,
    TaskComparison,
    add_verdicts,
    compare_systems,
    comparison_frame,
    comparison_notes,
    holm,
    paired_difference,
    two_sided_p,
)
from carrara.bench.leaderboard.ranking import Interval
from carrara.core.errors import UsageError
from carrara.core.record import Record, read_records, write_record
from carrara.core.task import Task
from carrara.metrics.bootstrap import StandardError, resample_counts

MULTICLASS = task_types.REGISTRY.get("multiclass")
TASK = Task(
    version=1,
    dataset="pebble",
    split_scheme="official",
    task_type="multiclass",
    label="key",
    labels=tuple("abcd"),
    metrics=("accuracy",),
    monitor="accuracy",
    category="acoustic",
    name="pebble/key",
)
TAGS = TASK.model_copy(
    update={"task_type": "multilabel", "metrics": ("roc_auc",), "monitor": "roc_auc", "name": "pebble/tags"}
)
BEATS = TASK.model_copy(
    update={"task_type": "beat_tracking", "labels": ("beat",), "metrics": ("beat_f_70ms",), "monitor": "beat_f_70ms",
            "name": "pebble/beats"}
)  # fmt: skip
IDS = [f"clip-{index:03}" for index in range(200)]


def draw_predictions(seed, accuracy, units=200):
    """Return truths and predictions of about the given accuracy."""
    generator = np.random.default_rng(seed)
    truths = np.random.default_rng(0).integers(0, 4, units)
    wrong = generator.random(units) >= accuracy
    return truths.tolist(), np.where(wrong, (truths + 1) % 4, truths).tolist()


def write_results(results, system, task, truths, predictions_S, ids=IDS, score=None, **changes):
    """Write a record and its predictions as `carrara bench` does."""
    record = Record.model_validate(
        {
            "task": {"name": task.name, "version": task.version, "fingerprint": "f", "task": task.model_dump()},
            "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": len(ids)}},
            "encoder": {"name": system, "weights_sha256": "0123456789", "output_version": 1, "parameters": 10},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
            "grid": [],
            "scores": {task.metrics[0]: {"value": 0, "low": 0, "high": 0, "unit": "clip", "n": 9} | (score or {})},
            "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "d", "command": "c"},
        }
    )
    for path, value in changes.items():
        part, _, key = path.partition("__")
        inner = getattr(record, part).model_copy(update={key: value}) if key else value
        record = record.model_copy(update={part: inner})
    path = write_record(record, results)
    rows = [
        {"id": unit, "seed": seed, "truth": json.dumps(truth), "prediction": json.dumps(prediction)}
        for seed, predictions in enumerate(predictions_S)
        for unit, truth, prediction in zip(ids, truths, predictions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".predictions.parquet"))


def compare_folder(results, first="a", second="b", suite=None):
    return compare_systems(read_records(results), first, second, results, suite)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_and_p_are_those_of_a_bootstrap_written_out(grouped):
    truths, first = draw_predictions(1, 0.8)
    _, second = draw_predictions(2, 0.7)
    groups = [f"song {unit // 5}" if grouped else str(unit) for unit in range(200)]
    result = paired_difference(TASK, MULTICLASS, truths, [first], [second], groups, seed=3, draws=300)
    differences = []
    for counts in resample_counts(groups, "pebble", 3, 300):
        picks = [unit for unit, count in enumerate(counts) for _ in range(count)]
        accuracy = [sum(each[unit] == truths[unit] for unit in picks) / len(picks) for each in (first, second)]
        differences.append(accuracy[0] - accuracy[1])
    count = 40 if grouped else 200
    error = np.std(differences) * math.sqrt(count / (count - 1))
    assert result.first == np.mean(np.equal(truths, first))
    assert result.difference.value == pytest.approx(result.first - result.second)
    low, high = t.interval(0.95, count - 1, result.difference.value, error)
    assert (result.difference.low, result.difference.high) == (pytest.approx(low), pytest.approx(high))
    assert result.p == pytest.approx(2 * t.sf(abs(result.difference.value) / error, count - 1))


def test_units_of_one_group_are_no_evidence_of_their_own():
    """Each of 40 songs is right or wrong as a whole: the paired test is that of the songs."""
    rng = np.random.default_rng(5)
    right = rng.random((2, 40)) < [[0.8], [0.5]]
    groups = np.repeat(np.arange(40), 5)
    predictions = right[:, groups].astype(int).tolist()
    result = paired_difference(
        TASK, MULTICLASS, [1] * 200, *[[each] for each in predictions], groups.astype(str), draws=9000
    )
    expected = ttest_rel(*right.astype(float))
    assert result.p == pytest.approx(expected.pvalue, rel=0.2)
    interval = expected.confidence_interval()
    assert (result.difference.low, result.difference.high) == pytest.approx(tuple(interval), abs=0.01)


def test_the_interval_is_nearly_the_closed_one_of_paired_differences():
    truths, first = draw_predictions(1, 0.8, units=1500)
    _, second = draw_predictions(2, 0.77, units=1500)
    result = paired_difference(TASK, MULTICLASS, truths, [first], [second])
    gaps = np.equal(truths, first) * 1.0 - np.equal(truths, second)
    error = gaps.std() / math.sqrt(len(gaps))
    assert result.difference.high - result.difference.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert result.p == pytest.approx(2 * norm.sf(abs(gaps.mean()) / error), abs=0.04)


def test_pairing_separates_what_two_intervals_do_not():
    truths, first = draw_predictions(1, 0.6)
    second = list(first)
    for unit in [unit for unit in range(200) if first[unit] == truths[unit]][:9]:
        second[unit] = (truths[unit] + 1) % 4
    result = paired_difference(TASK, MULTICLASS, truths, [first], [second])
    assert result.difference.low > 0
    # Alone each has an interval of ± 6.8 points, more than the 4.5 between them.
    assert result.difference.high - result.difference.low < 0.068
    assert result.p < 0.01


def test_no_difference_is_rarely_significant():
    significant = 0
    for seed in range(80):
        truths, first = draw_predictions(10 + seed, 0.7, units=120)
        _, second = draw_predictions(1000 + seed, 0.7, units=120)
        significant += paired_difference(TASK, MULTICLASS, truths, [first], [second], seed=seed, draws=200).p < 0.05
    assert significant <= 11  # of 80 at 5 %: more than 11 happen once in a thousand times


def test_equal_predictions_do_not_differ():
    truths, first = draw_predictions(1, 0.7)
    result = paired_difference(TASK, MULTICLASS, truths, [first], [first])
    assert result == PairedDifference(result.first, result.first, Interval(0, 0, 0), 1.0)


def test_tags_are_compared_by_the_mean_area():
    generator = np.random.default_rng(0)
    truths = generator.integers(0, 2, (60, 4)).astype(float)
    first, second = truths + generator.normal(0, 0.8, truths.shape), truths + generator.normal(0, 1.6, truths.shape)
    result = paired_difference(TAGS, task_types.REGISTRY.get("multilabel"), truths, [first], [second], seed=5, draws=40)
    expected = roc_auc_score(truths, first) - roc_auc_score(truths, second)
    assert result.difference.value == pytest.approx(expected)
    differences = []
    for counts in resample_counts([str(unit) for unit in range(60)], "pebble", 5, 40):
        picks = np.repeat(np.arange(60), counts)
        differences.append(roc_auc_score(truths[picks], first[picks]) - roc_auc_score(truths[picks], second[picks]))
    margin = t.ppf(0.975, 59) * np.std(differences) * math.sqrt(60 / 59)
    assert result.difference.low == pytest.approx(expected - margin)


def test_several_seeds_count_as_their_mean_and_widen_the_interval():
    truths, _ = draw_predictions(0, 0.7)
    many = [draw_predictions(seed, right)[1] for seed, right in ((1, 0.9), (2, 0.5), (3, 0.7))]
    _, second = draw_predictions(4, 0.6)
    result = paired_difference(TASK, MULTICLASS, truths, many, [second])
    assert result.first == pytest.approx(np.mean([np.equal(truths, predictions).mean() for predictions in many]))
    single = paired_difference(TASK, MULTICLASS, truths, [many[2]], [second])
    assert result.difference.high - result.difference.low > 1.3 * (single.difference.high - single.difference.low)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # Worked out by hand: 4·0.005, 3·0.01, 2·0.03 and then never less than the one before.
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
        ((0.5, 0.6), (1.0, 1.0)),
        ((0.02,), (0.02,)),
        ((), ()),
    ],
)
def test_holms_correction(p_values, corrected):
    assert holm(p_values) == pytest.approx(list(corrected))


def test_p_where_there_is_no_error():
    assert two_sided_p(0.3, StandardError(0.0, 7), 8) == pytest.approx(binomtest(8, 8).pvalue)
    assert two_sided_p(0.0, StandardError(0.0, 7), 8) == 1.0
    assert two_sided_p(-0.2, StandardError(0.1, 7), 8) == pytest.approx(2 * t.cdf(-2, 7))


def test_verdicts_are_after_the_correction_and_respect_which_way_is_better():
    def comparison(task, gap, p, better="higher"):
        return TaskComparison(task, "constrained", 50 + gap, 50, Interval(gap, 0, 0), p, 9, "ratio", better, False)

    few = [("a", 5, 0.01), ("b", -5, 0.012), ("c", 5, 0.04), ("d", 5, 0.001, "lower")]
    assert [each.verdict for each in add_verdicts([comparison(*each) for each in few])] == [
        "better",
        "worse",
        "better",
        "worse",
    ]
    many = add_verdicts([comparison("a", 5, 0.01), *(comparison(name, 1, 0.5) for name in "bcdefg")])
    assert {each.verdict for each in many} == {"undecided"}
    assert many[0].p_holm == pytest.approx(0.07)


def test_records_are_compared_task_by_task(tmp_path):
    truths, good = draw_predictions(1, 0.9)
    _, poor = draw_predictions(2, 0.3)
    pitch = TASK.model_copy(update={"name": "pebble/pitch"})
    write_results(tmp_path, "a", TASK, truths, [good])
    # The clips in another order: each is compared with itself.
    write_results(tmp_path, "b", TASK, truths[::-1], [poor[::-1]], IDS[::-1])
    write_results(tmp_path, "a", pitch, truths, [poor])
    write_results(tmp_path, "b", pitch, truths, [poor], partial=True)
    write_results(tmp_path, "a", TAGS, [[0, 1]] * 200, [[[0.1, 0.2]] * 200])
    comparison = compare_folder(tmp_path)
    assert [(each.task, each.verdict) for each in comparison.tasks] == [
        ("pebble/key", "better"),
        ("pebble/pitch", "undecided"),
    ]
    assert comparison.tasks[0].first == pytest.approx(100 * np.equal(truths, good).mean())
    assert comparison.tasks[0].second == pytest.approx(100 * np.equal(truths, poor).mean())
    assert comparison.not_comparable == ()
    assert compare_folder(tmp_path, "b", "a").tasks[0].verdict == "worse"
    assert comparison_notes(comparison)[0] == "a is better on 1 of 2 tasks: pebble/key."
    assert list(comparison_frame(comparison).index) == ["pebble/key", "pebble/pitch*"]
    tasks = json.loads(json.dumps(asdict(comparison)))["tasks"]
    assert [each["n"] for each in tasks] == [200, 200]
    assert tasks[0]["p_holm"] == pytest.approx(2 * tasks[0]["p"])


def test_beats_are_read_back_as_times(tmp_path):
    truths = [[0.5, 1.0, 1.5], [], [0.2, 0.7]]
    write_results(tmp_path, "a", BEATS, truths, [truths], IDS[:3])
    write_results(tmp_path, "b", BEATS, truths, [[[0.5, 1.0], [], [0.4]]], IDS[:3])
    (task,) = compare_folder(tmp_path).tasks
    # 1, 0 or 1 by convention for silence, 1; and 0.8, the same, 0.
    assert task.difference.value == pytest.approx(100 * (0.2 + 1) / 3)


def test_decibels_stay_as_they_are(tmp_path):
    truths, good = draw_predictions(1, 0.9)
    write_results(tmp_path, "a", TASK, truths, [good], score={"scale": "dB"})
    write_results(tmp_path, "b", TASK, truths, [truths], score={"scale": "dB"})
    (task,) = compare_folder(tmp_path).tasks
    assert task.second == 1.0
    assert list(comparison_frame(compare_folder(tmp_path)).index) == ["pebble/key (dB)"]


def test_what_cannot_be_compared_is_named(tmp_path):
    truths, good = draw_predictions(1, 0.9)
    for system in "ab":
        write_results(tmp_path, system, TASK, truths, [good])
    tasks = [TASK.model_copy(update={"name": f"pebble/{name}"}) for name in ("genre", "pitch", "singer", "emotion")]
    for task in tasks:
        write_results(tmp_path, "a", task, truths, [good])
    write_results(tmp_path, "b", tasks[0], truths, [good], task__fingerprint="other")
    write_results(tmp_path, "b", tasks[1], truths, [good], [*IDS[:-2], "x", "y"])
    write_results(tmp_path, "b", tasks[2], truths[1:] + truths[:1], [good])
    write_results(tmp_path, "b", tasks[3], truths, [good])
    next(tmp_path.rglob("a/**/*emotion@1.predictions.parquet")).unlink()
    write_results(tmp_path, "a", TAGS, truths, [good])
    write_results(tmp_path, "b", TAGS, truths, [good], task__version=2)
    comparison = compare_folder(tmp_path)
    assert [each.task for each in comparison.tasks] == ["pebble/key"]
    reasons = {each.task: each.reason for each in comparison.not_comparable}
    assert set(reasons) == {"pebble/tags", *(task.name for task in tasks)}
    assert "fingerprints differ" in reasons["pebble/genre"]
    assert reasons["pebble/pitch"].startswith("4 test clips")
    assert "truths" in reasons["pebble/singer"]
    assert "emotion@1.predictions.parquet" in reasons["pebble/emotion"]
    assert "versions 1 and 2" in reasons["pebble/tags"]
    assert sum(note.startswith("Not comparable: ") for note in comparison_notes(comparison)) == 5


def test_systems_are_named_as_on_the_leaderboard(tmp_path):
    truths, good = draw_predictions(1, 0.9)
    write_results(tmp_path, "mert", TASK, truths, [good])
    write_results(tmp_path, "mert", TASK, truths, [good], encoder__weights_sha256="ffffffffffff")
    assert len(compare_folder(tmp_path, "mert@01234567", "mert@ffffffff").tasks) == 1
    with pytest.raises(UsageError, match="no system 'mert@0123' in .*Did you mean 'mert@01234567'"):
        compare_folder(tmp_path, "mert@0123", "mert@ffffffff")
    with pytest.raises(UsageError, match="given twice"):
        compare_folder(tmp_path, "mert@ffffffff", "mert@ffffffff")
    with pytest.raises(UsageError, match="The systems: none"):
        compare_folder(tmp_path, "mert@ffffffff", "mert@01234567", "marble-14")
    with pytest.raises(UsageError, match="Did you mean 'marble-14'"):
        compare_folder(tmp_path, "a", "b", "marble14")
    write_results(tmp_path, "other", TAGS, truths, [good])
    with pytest.raises(UsageError, match="no task in common"):
        compare_folder(tmp_path, "other", "mert@ffffffff")
