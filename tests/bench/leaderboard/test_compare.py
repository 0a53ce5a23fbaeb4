"""The paired comparison: against a bootstrap written out, closed forms, and what cannot be compared."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from carrara.bench import task_types
from carrara.bench.interval import resampled_counts
from carrara.bench.leaderboard.compare import Contrast, Row, compare, contrast, holm, judged, two_sided
from carrara.bench.leaderboard.compare_text import notes, table_text, values
from carrara.bench.leaderboard.ranking import Span
from carrara.core.errors import UsageError
from carrara.core.record import Record, read_records, write_record
from carrara.core.task import Task

TASK = Task(version=1, dataset="pebble", split_scheme="official", task_type="multiclass", label="key", labels=tuple("abcd"),
            metrics=("accuracy",), monitor="accuracy", category="acoustic", name="pebble/key")  # fmt: skip
TAGS = TASK.model_copy(
    update={"task_type": "multilabel", "metrics": ("roc_auc",), "monitor": "roc_auc", "name": "pebble/tags"}
)
BEATS = TASK.model_copy(
    update={"task_type": "beat_tracking", "labels": ("beat",), "metrics": ("beat_f_70ms",), "monitor": "beat_f_70ms",
            "name": "pebble/beats"}
)  # fmt: skip
IDS = [f"clip-{place:03}" for place in range(200)]


def drawn(seed, right, units=200):
    """Return truths and answers of which about the given share is right."""
    generator = np.random.default_rng(seed)
    truths = np.random.default_rng(0).integers(0, 4, units)
    wrong = generator.random(units) >= right
    return truths.tolist(), np.where(wrong, (truths + 1) % 4, truths).tolist()


def write(results, system, task, truths, answers_S, ids=IDS, score=None, **changes):
    """Write a record and its predictions as `carrara bench` does: a row a seed and clip, JSON in the last columns."""
    record = Record.model_validate(
        {
            "task": {"name": task.name, "version": task.version, "fingerprint": "f", "task": task.model_dump()},
            "data": {"name": "pebble", "index": "i", "n": {"train": 3, "valid": 1, "test": len(ids)}},
            "encoder": {"name": system, "weights_sha256": "0123456789", "output_version": 1, "parameters": 10},
            "protocol": {"name": "constrained", "version": 1, "tried": 6, "chosen": {}, "monitor": "valid"},
            "grid": [],
            "scores": {task.scores[0]: {"value": 0, "low": 0, "high": 0, "unit": "clip", "n": 9} | (score or {})},
            "run": {"seed": 0, "device": "cpu", "seconds": {}, "versions": {}, "git": "", "date": "d", "command": "c"},
        }
    )
    for path, value in changes.items():
        part, _, key = path.partition("__")
        inner = getattr(record, part).model_copy(update={key: value}) if key else value
        record = record.model_copy(update={part: inner})
    path = write_record(record, results)
    rows = [
        {"id": unit, "seed": seed, "truth": json.dumps(truth), "answer": json.dumps(given)}
        for seed, one in enumerate(answers_S)
        for unit, truth, given in zip(ids, truths, one)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".predictions.parquet"))


def compared(results, first="a", second="b", suite=None):
    return compare(read_records(results), first, second, results, suite)


def test_the_interval_and_p_are_those_of_a_bootstrap_written_out():
    truths, one = drawn(1, 0.8)
    _, other = drawn(2, 0.7)
    found = contrast(TASK, task_types.REGISTRY.get("multiclass"), truths, ([one], [other]), seed=3, draws=300)
    differences = []
    for counts in resampled_counts(200, 3, 300):
        picks = [unit for unit, count in enumerate(counts) for _ in range(count)]
        right = [sum(given[unit] == truths[unit] for unit in picks) / len(picks) for given in (one, other)]
        differences.append(right[0] - right[1])
    low, high = np.percentile(differences, [2.5, 97.5])
    assert found.first == np.mean(np.equal(truths, one))
    assert found.difference.value == pytest.approx(found.first - found.second)
    assert (found.difference.low, found.difference.high) == (pytest.approx(low), pytest.approx(high))
    below = sum(value <= 1e-12 for value in differences)
    assert found.p == pytest.approx(2 * (1 + below) / 301)


def test_the_interval_is_nearly_the_closed_one_of_paired_differences():
    truths, one = drawn(1, 0.8, units=1500)
    _, other = drawn(2, 0.77, units=1500)
    found = contrast(TASK, task_types.REGISTRY.get("multiclass"), truths, ([one], [other]))
    gaps = np.equal(truths, one) * 1.0 - np.equal(truths, other)
    error = gaps.std() / math.sqrt(len(gaps))
    assert found.difference.high - found.difference.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.p == pytest.approx(2 * norm.sf(abs(gaps.mean()) / error), abs=0.04)


def test_pairing_sees_what_two_intervals_cannot():
    truths, one = drawn(1, 0.6)
    other = list(one)
    for unit in [unit for unit in range(200) if one[unit] == truths[unit]][:9]:
        other[unit] = (truths[unit] + 1) % 4
    found = contrast(TASK, task_types.REGISTRY.get("multiclass"), truths, ([one], [other]))
    assert found.difference.low > 0
    # Apart each is known to ± 6.8 points only, more than the 4.5 between them.
    assert found.difference.high - found.difference.low < 0.068
    assert found.p < 0.01


def test_no_difference_is_rarely_called_one():
    kind, called = task_types.REGISTRY.get("multiclass"), 0
    for seed in range(80):
        truths, one = drawn(10 + seed, 0.7, units=120)
        _, other = drawn(1000 + seed, 0.7, units=120)
        called += contrast(TASK, kind, truths, ([one], [other]), seed=seed, draws=200).p < 0.05
    assert called <= 11  # of 80 at 5 %: more than 11 happen once in a thousand times


def test_the_same_answers_do_not_differ():
    truths, one = drawn(1, 0.7)
    found = contrast(TASK, task_types.REGISTRY.get("multiclass"), truths, ([one], [one]))
    assert found == Contrast(found.first, found.first, Span(0, 0, 0), 1.0)


def test_tags_are_compared_by_the_mean_area():
    generator = np.random.default_rng(0)
    truths = generator.integers(0, 2, (60, 4)).astype(float)
    one, other = truths + generator.normal(0, 0.8, truths.shape), truths + generator.normal(0, 1.6, truths.shape)
    found = contrast(TAGS, task_types.REGISTRY.get("multilabel"), truths, ([one], [other]), seed=5, draws=40)
    wanted = roc_auc_score(truths, one) - roc_auc_score(truths, other)
    assert found.difference.value == pytest.approx(wanted)
    differences = []
    for counts in resampled_counts(60, 5, 40):
        picks = np.repeat(np.arange(60), counts)
        differences.append(roc_auc_score(truths[picks], one[picks]) - roc_auc_score(truths[picks], other[picks]))
    assert found.difference.low == pytest.approx(np.percentile(differences, 2.5))


def test_several_seeds_count_as_their_mean_and_widen_the_interval():
    truths, _ = drawn(0, 0.7)
    many = [drawn(seed, right)[1] for seed, right in ((1, 0.9), (2, 0.5), (3, 0.7))]
    _, other = drawn(4, 0.6)
    kind = task_types.REGISTRY.get("multiclass")
    found = contrast(TASK, kind, truths, (many, [other]))
    assert found.first == pytest.approx(np.mean([np.equal(truths, one).mean() for one in many]))
    single = contrast(TASK, kind, truths, ([many[2]], [other]))
    assert found.difference.high - found.difference.low > 1.3 * (single.difference.high - single.difference.low)


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


def test_p_counts_the_smaller_side():
    assert two_sided(np.array([1.0, 2, 3, -1])) == pytest.approx(2 * 2 / 5)
    assert two_sided(np.array([1.0, 2, np.nan])) == pytest.approx(2 / 3)
    assert two_sided(np.zeros(10)) == 1.0
    assert two_sided(np.array([])) == 1.0


def test_verdicts_are_after_the_correction_and_know_which_way_is_better():
    def row(task, gap, p, better="higher"):
        return Row(task, "constrained", Contrast(50 + gap, 50, Span(gap, 0, 0), p), 9, "ratio", better, False)

    found = judged([row("a", 5, 0.01), row("b", -5, 0.012), row("c", 5, 0.04), row("d", 5, 0.001, "lower")])
    assert [one.verdict for one in found] == ["better", "worse", "better", "worse"]
    more = judged([row("a", 5, 0.01), *(row(name, 1, 0.5) for name in "bcdefg")])
    assert {one.verdict for one in more} == {"undecided"}
    assert more[0].corrected == pytest.approx(0.07)


def test_records_are_compared_row_by_row(tmp_path):
    truths, good = drawn(1, 0.9)
    _, poor = drawn(2, 0.3)
    pitch = TASK.model_copy(update={"name": "pebble/pitch"})
    write(tmp_path, "a", TASK, truths, [good])
    # The clips in another order: each is met with its own.
    write(tmp_path, "b", TASK, truths[::-1], [poor[::-1]], IDS[::-1])
    write(tmp_path, "a", pitch, truths, [poor])
    write(tmp_path, "b", pitch, truths, [poor], partial=True)
    write(tmp_path, "a", TAGS, [[0, 1]] * 200, [[[0.1, 0.2]] * 200])
    found = compared(tmp_path)
    assert [(row.task, row.verdict) for row in found.rows] == [("pebble/key", "better"), ("pebble/pitch", "undecided")]
    assert found.rows[0].contrast.first == pytest.approx(100 * np.equal(truths, good).mean())
    assert found.rows[0].contrast.second == pytest.approx(100 * np.equal(truths, poor).mean())
    assert found.apart == ()
    assert compared(tmp_path, "b", "a").rows[0].verdict == "worse"
    assert notes(found)[0] == "a is better on 1 of 2 rows: pebble/key."
    assert "pebble/pitch*" in table_text(found)
    listed = json.loads(json.dumps(values(found)))
    assert [row["n"] for row in listed["rows"]] == [200, 200]
    assert listed["rows"][0]["p_holm"] == pytest.approx(2 * listed["rows"][0]["p"])


def test_beats_come_back_as_times(tmp_path):
    truths = [[0.5, 1.0, 1.5], [], [0.2, 0.7]]
    write(tmp_path, "a", BEATS, truths, [truths], IDS[:3])
    write(tmp_path, "b", BEATS, truths, [[[0.5, 1.0], [], [0.4]]], IDS[:3])
    (row,) = compared(tmp_path).rows
    # 1, 0 or 1 by convention for silence, 1; and 0.8, the same, 0.
    assert row.contrast.difference.value == pytest.approx(100 * (0.2 + 1) / 3)


def test_decibels_stay_as_they_are(tmp_path):
    truths, good = drawn(1, 0.9)
    write(tmp_path, "a", TASK, truths, [good], score={"scale": "dB"})
    write(tmp_path, "b", TASK, truths, [truths], score={"scale": "dB"})
    (row,) = compared(tmp_path).rows
    assert row.contrast.second == 1.0
    assert "pebble/key (dB)" in table_text(compared(tmp_path))


def test_what_cannot_be_compared_is_named(tmp_path):
    truths, good = drawn(1, 0.9)
    for system in "ab":
        write(tmp_path, system, TASK, truths, [good])
    rows = [TASK.model_copy(update={"name": f"pebble/{name}"}) for name in ("genre", "pitch", "singer", "emotion")]
    for task in rows:
        write(tmp_path, "a", task, truths, [good])
    write(tmp_path, "b", rows[0], truths, [good], task__fingerprint="other")
    write(tmp_path, "b", rows[1], truths, [good], [*IDS[:-2], "x", "y"])
    write(tmp_path, "b", rows[2], truths[1:] + truths[:1], [good])
    write(tmp_path, "b", rows[3], truths, [good])
    next(tmp_path.rglob("a/**/*emotion@1.predictions.parquet")).unlink()
    write(tmp_path, "a", TAGS, truths, [good])
    write(tmp_path, "b", TAGS, truths, [good], task__version=2)
    found = compared(tmp_path)
    assert [row.task for row in found.rows] == ["pebble/key"]
    said = {row.task: row.reason for row in found.apart}
    assert set(said) == {"pebble/tags", *(task.name for task in rows)}
    assert "fingerprints differ" in said["pebble/genre"]
    assert said["pebble/pitch"].startswith("4 test clips")
    assert "truths" in said["pebble/singer"]
    assert "no predictions to read" in said["pebble/emotion"]
    assert "versions 1 and 2" in said["pebble/tags"]
    assert sum(note.startswith("Not comparable: ") for note in notes(found)) == 5


def test_systems_have_the_boards_names(tmp_path):
    truths, good = drawn(1, 0.9)
    write(tmp_path, "mert", TASK, truths, [good])
    write(tmp_path, "mert", TASK, truths, [good], encoder__weights="ffffffffffff")
    assert len(compared(tmp_path, "mert@01234567", "mert@ffffffff").rows) == 1
    with pytest.raises(UsageError, match="no system 'mert@0123' in .*Did you mean 'mert@01234567'"):
        compared(tmp_path, "mert@0123", "mert@ffffffff")
    with pytest.raises(UsageError, match="given twice"):
        compared(tmp_path, "mert@ffffffff", "mert@ffffffff")
    with pytest.raises(UsageError, match="The systems: none"):
        compared(tmp_path, "mert@ffffffff", "mert@01234567", "marble-14")
    with pytest.raises(UsageError, match="Did you mean 'marble-14'"):
        compared(tmp_path, "a", "b", "marble14")
    write(tmp_path, "other", TAGS, truths, [good])
    with pytest.raises(UsageError, match="no row in common"):
        compared(tmp_path, "other", "mert@ffffffff")
