"""Intervals against closed forms of Wilson and Student, resampling written out, and a small simulation of coverage."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import stats

from carrara.bench import task_types, tasks
from carrara.bench.interval import confidence_intervals, decode_draws, encode_draws, resample_metrics, unit_groups
from carrara.bench.task_types.beat_tracking import TASK_TYPE as BEATS
from carrara.bench.task_types.multiclass import TASK_TYPE as MULTICLASS
from carrara.bench.task_types.multilabel import TASK_TYPE as MULTILABEL
from carrara.bench.task_types.regression import TASK_TYPE as REGRESSION
from carrara.bench.task_types.source_separation import TASK_TYPE as SEPARATION
from carrara.bench.task_types.text_retrieval import TASK_TYPE as TEXT_RETRIEVAL
from carrara.core.clip import Clip
from carrara.core.task import Task
from carrara.metrics.bootstrap import StandardError, resample_counts, wilson_interval


def make_task(task_type, labels, metrics, monitor=None, **changes):
    return Task(
        version=1,
        dataset="d",
        split_scheme="s",
        task_type=task_type,
        label="x",
        labels=labels,
        metrics=metrics,
        monitor=monitor or metrics[0],
        category="score",
        name="d/x",
        **changes,
    )


ACCURACY = make_task("multiclass", ("a", "b"), ("accuracy",))
TAGS = make_task("multilabel", tuple("abc"), ("roc_auc", "average_precision"))


def wilson(right, units, z):
    """Wilson's interval as in textbooks."""
    p = right / units
    middle, half = p + z**2 / (2 * units), z * math.sqrt(p * (1 - p) / units + z**2 / (4 * units**2))
    return (middle - half) / (1 + z**2 / units), (middle + half) / (1 + z**2 / units)


@pytest.mark.parametrize("right", [0, 3, 100, 143, 195, 200])
def test_accuracy_equals_wilson(right):
    truths, predictions = [0] * 200, [0] * right + [1] * (200 - right)
    own = confidence_intervals(ACCURACY, MULTICLASS, truths, [predictions], draws=20_000)["accuracy"]
    assert (own.low, own.high) == pytest.approx(wilson(right, 200, stats.t.ppf(0.975, 199)), abs=0.002)
    assert 0 <= own.low <= right / 200 <= own.high <= 1
    assert (own.method, own.groups) == ("wilson", 200)


def test_a_mean_in_db_has_the_interval_of_student():
    sdr = np.random.default_rng(0).normal(5, 3, 40)
    task = make_task("source_separation", ("vocals",), ("sdr_vocals",))
    predictions = [{"sdr_vocals": value} for value in sdr]
    own = confidence_intervals(task, SEPARATION, [str(n) for n in range(40)], [predictions], draws=20_000)["sdr_vocals"]
    expected = stats.t.interval(0.95, 39, sdr.mean(), stats.sem(sdr))
    assert (own.low, own.high) == pytest.approx(expected, abs=0.05)


def test_units_of_one_group_count_as_one():
    """With 20 equal units a group, the interval is that of the groups alone."""
    groups = np.repeat(np.arange(30), 20)
    right = np.random.default_rng(1).random(30) < 0.6
    own = confidence_intervals(ACCURACY, MULTICLASS, [1] * 600, [right[groups].astype(int).tolist()],
                               [f"singer {g}" for g in groups], draws=20_000)["accuracy"]  # fmt: skip
    assert (own.low, own.high) == pytest.approx(wilson(right.sum(), 30, stats.t.ppf(0.975, 29)), abs=0.01)
    assert own.groups == 30


def test_the_spread_of_seeds_adds_to_the_error():
    task = make_task("source_separation", ("vocals",), ("sdr_vocals",))
    sdr = np.random.default_rng(2).normal(5, 1, 60)
    offsets = [-2.0, 0.0, 2.0]
    by_seed = [[{"sdr_vocals": value + offset} for value in sdr] for offset in offsets]
    own = confidence_intervals(task, SEPARATION, [str(n) for n in range(60)], by_seed, draws=20_000)["sdr_vocals"]
    parts = {59: sdr.var(ddof=1) / 60, 2: np.var(offsets, ddof=1) / 3}
    total = sum(parts.values())
    freedom = total**2 / sum(part**2 / each for each, part in parts.items())
    assert own.high - own.low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * math.sqrt(total), rel=0.02)


def test_r2_is_symmetric_in_the_log_of_what_is_unexplained():
    draw = np.random.default_rng(0)
    truth = draw.standard_normal((80, 2))
    prediction = truth + draw.standard_normal((80, 2)) * [0.4, 0.9]
    task = make_task("regression", ("v", "a"), ("r2_v", "r2_a"), "r2")
    intervals = confidence_intervals(task, REGRESSION, list(truth), [list(prediction)], draws=4000)
    from sklearn.metrics import r2_score

    picks = np.random.default_rng(3).integers(0, 80, (1500, 80))
    for index, name in enumerate(("r2_v", "r2_a")):
        value = r2_score(truth[:, index], prediction[:, index])
        drawn = [r2_score(truth[rows, index], prediction[rows, index]) for rows in picks]
        margin = stats.t.ppf(0.975, 79) * np.std(np.log(1 - np.array(drawn))) * math.sqrt(80 / 79)
        expected = 1 - (1 - value) * np.exp([margin, -margin])
        assert (intervals[name].low, intervals[name].high) == pytest.approx(expected, abs=0.03)


def test_tag_metrics_skip_the_tags_that_a_draw_empties():
    draw = np.random.default_rng(3)
    truth = np.zeros((40, 3))
    truth[:20, 0] = truth[5:25, 1] = 1
    truth[7, 2] = 1
    scores = truth + draw.standard_normal((40, 3)).round(1)
    counts_GU = resample_counts([str(n) for n in range(40)], draws=100)
    drawn = resample_metrics(TAGS, MULTILABEL, list(truth), list(scores), counts_GU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, counts_U in enumerate(counts_GU):
            picks = np.repeat(np.arange(40), counts_U)
            for name, value in MULTILABEL.metrics(TAGS, truth[picks], scores[picks]).items():
                assert drawn[name][index] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_tag_metrics_of_few_groups_take_the_jackknife_with_one_group_left_out(metric):
    draw = np.random.default_rng(5)
    truth = (draw.random((60, 3)) < 0.4).astype(float)
    seeds = [truth + draw.standard_normal((60, 3)).round(1) for _ in range(2)]
    groups = [f"song {unit // 5}" for unit in range(60)]
    own = confidence_intervals(TAGS, MULTILABEL, list(truth), [list(each) for each in seeds], groups)[metric]
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}[metric]
    left_out = [np.arange(60) // 5 != group for group in range(12)]
    deleted = np.array(
        [np.mean([score(truth[kept], each[kept], average="macro") for each in seeds]) for kept in left_out]
    )
    variance = 11 * np.var(deleted)
    by_seed = [score(truth, each, average="macro") for each in seeds]
    assert np.std(own.draw_G) == pytest.approx(math.sqrt(variance))
    # Wilson's interval solves (p - value)² = z² · variance · p (1 - p) / (value (1 - value)).
    value, spread = np.mean(by_seed), np.var(by_seed, ddof=1) / 2
    freedom = (variance + spread) ** 2 / (variance**2 / 11 + spread**2)
    slope = stats.t.ppf(0.975, freedom) ** 2 * (variance + spread) / (value * (1 - value))
    roots = np.roots([1 + slope, -2 * value - slope, value**2])
    assert sorted(roots) == pytest.approx([own.low, own.high])


def test_ratios_of_sums_equal_samples_written_out():
    draw = np.random.default_rng(4)
    truths = [np.sort(draw.uniform(0, 20, 30)) for _ in range(12)]
    predictions = [np.sort(np.concatenate((times[::2] + 0.01, draw.uniform(0, 20, 5)))) for times in truths]
    metrics = ("beat_f_70ms", "beat_f_20ms_pooled", "beat_f_70ms_trimmed")
    windows = make_task("multiclass", tuple("abc"), ("accuracy_windows", "accuracy_recordings"), aggregate="window")
    classes = draw.integers(0, 3, 12).tolist()
    votes = [draw.integers(0, 3, 1 + unit % 5).tolist() for unit in range(12)]
    counts_GU = resample_counts([str(n) for n in range(12)], draws=50)
    for task, task_type, truth, prediction in (
        (make_task("beat_tracking", ("beat",), metrics), BEATS, truths, predictions),
        (windows, MULTICLASS, classes, votes),
    ):
        drawn = resample_metrics(task, task_type, truth, prediction, counts_GU)
        for index, counts_U in enumerate(counts_GU):
            picks = np.repeat(np.arange(12), counts_U)
            sample = task_type.metrics(task, [truth[i] for i in picks], [prediction[i] for i in picks])
            assert {name: values[index] for name, values in drawn.items()} == pytest.approx(sample)


def test_any_other_metric_is_computed_for_each_draw():
    calls = []

    class MedianError(type(MULTICLASS)):
        def metrics(self, task, truths, predictions):
            calls.append(len(truths))
            return {"accuracy": float(np.median(np.abs(np.asarray(truths) - np.asarray(predictions))))}

    truths, predictions = np.random.default_rng(5).standard_normal((2, 61)).tolist()
    counts_GU = resample_counts([str(n) for n in range(61)], draws=200)
    drawn = resample_metrics(ACCURACY, MedianError(), truths, predictions, counts_GU)["accuracy"]
    errors = np.abs(np.subtract(truths, predictions))
    assert drawn == pytest.approx([np.median(np.repeat(errors, counts_U)) for counts_U in counts_GU])
    assert sum(count > 1 for count in calls) == 201


def test_draws_are_poisson_shared_by_name_and_independent_by_dataset():
    few, more = resample_counts(["a", "b", "b"], "d"), resample_counts(["x", "b", "a", "y"], "d")
    np.testing.assert_array_equal(few[:, 0], more[:, 2])
    np.testing.assert_array_equal(few[:, 1], few[:, 2])
    assert (few != resample_counts(["a", "b", "b"], "e")).any() and (
        few != resample_counts(["a", "b", "b"], "d", 9)
    ).any()
    counts = resample_counts([str(n) for n in range(400)], draws=500).ravel()
    expected = stats.poisson(1).pmf(np.arange(5)) * len(counts)
    assert np.bincount(counts)[:5] == pytest.approx(expected, rel=0.03)


def test_units_that_are_all_of_one_group_are_groups_of_their_own():
    clips = [Clip(id=str(n), path="p", group=group) for n, group in enumerate(("s", "s", None, "t"))]
    assert unit_groups(clips) == ["s", "s", "2", "t"]
    assert unit_groups(clips[:2]) == ["0", "1"]


def test_draws_survive_the_record_as_standard_scores():
    draw_G = np.random.default_rng(6).normal(0.7, 0.02, 1000)
    draw_G[3] = np.nan
    scores_G = decode_draws(encode_draws(draw_G))
    assert scores_G[np.arange(1000) != 3] == pytest.approx(
        stats.zscore(draw_G, nan_policy="omit")[np.arange(1000) != 3], abs=2e-3
    )
    assert scores_G[3] == 0 and decode_draws(encode_draws(np.full(9, 0.5))) is None


def random_segments(rng, seconds, label):
    """Return segments that fill so many seconds, each with a label from a function."""
    edges = [0.0, *np.sort(rng.uniform(0.5, seconds - 0.5, 6)).tolist(), seconds]
    return [[start, end, label()] for start, end in itertools.pairwise(edges)]


def random_answers(task, rng, units):
    """Return truths and predictions of a kind of task as its metrics take them, of noise or of some skill."""
    labels, skill = task.labels, float(rng.choice([0.0, 0.5, 0.99]))

    def guess(truth, other):
        return truth if rng.random() < skill else other()

    if task.task_type == "multiclass":
        truths = rng.integers(0, len(labels), units).tolist()
        votes = 3 if task.aggregate == "window" else 1
        guesses = [[guess(truth, lambda: int(rng.integers(len(labels)))) for _ in range(votes)] for truth in truths]
        return truths, guesses if votes > 1 else [each for (each,) in guesses]
    if task.task_type == "multilabel":
        truth_UK = (rng.random((units, len(labels))) < 0.15).astype(float)
        return list(truth_UK), list(3 * skill * truth_UK + rng.standard_normal(truth_UK.shape))
    if task.task_type == "regression":
        truth_UE = rng.standard_normal((units, len(labels)))
        return list(truth_UE), list(skill * truth_UE + rng.standard_normal(truth_UE.shape))
    if task.task_type == "beat_tracking":
        truths = [np.arange(0.3, 20, 0.5) for _ in range(units)]
        return truths, [times[rng.random(len(times)) < rng.random()] + rng.normal(0, 0.04) for times in truths]
    if task.task_type == "tempo":
        truths = rng.uniform(60, 180, units).tolist()
        return truths, [guess(tempo, lambda: float(rng.uniform(60, 180))) * rng.choice([1, 2]) for tempo in truths]
    if task.task_type == "source_separation":
        stems = [*(f"sdr_{label}" for label in labels), "sdr"]
        return list(map(str, range(units))), [{name: rng.normal(3, 4) for name in stems} for _ in range(units)]
    if task.task_type == "retrieval":
        truths = [str(unit // 3) for unit in range(units)]
        centres = rng.standard_normal((units, 8))
        return truths, [3 * skill * centres[unit // 3] + rng.standard_normal(8) for unit in range(units)]
    if task.task_type == "text_retrieval":
        return [["a text"]] * units, [[[guess(1, lambda: int(rng.integers(1, units)))]] for _ in range(units)]
    if task.task_type == "melody":

        def label():
            return 440 * 2 ** (rng.integers(-24, 24) / 12)
    else:

        def label():
            return labels[rng.integers(len(labels))]

    truths = [random_segments(rng, 20.0, label) for _ in range(units)]
    return truths, [guess(truth, lambda: random_segments(rng, 20.0, label)) for truth in truths]


def all_metrics():
    """Return a task of the registry for each kind and way to pool windows, with all metrics that it can have."""
    by_kind = {}
    for name in tasks.REGISTRY.names():
        task = tasks.REGISTRY.get(name)
        names = task_types.REGISTRY.get(task.task_type).metric_names(task)
        is_key = "key_weighted" in names and "C major" in task.labels
        if not is_key:
            names = tuple(each for each in names if not each.startswith("key_weighted"))
        kind = (task.task_type, *(each for each in names if not each.startswith(("r2_", "sdr_"))))
        if kind not in by_kind or len(task.labels) < len(by_kind[kind].labels):
            by_kind[kind] = task.model_copy(update={"metrics": names, "monitor": names[0]})
    return list(by_kind.values())


def test_the_metrics_of_all_task_types_are_among_those_below():
    assert {task.task_type.replace("_", "-") for task in all_metrics()} == set(task_types.REGISTRY.names())


@pytest.mark.parametrize("task", all_metrics(), ids=lambda task: f"{task.task_type}-{task.metrics[0]}")
@pytest.mark.filterwarnings("ignore:.*tags have no")
def test_the_score_lies_inside_its_own_interval(task):
    rng = np.random.default_rng(7)
    task_type = task_types.REGISTRY.get(task.task_type)
    units = 12 if task.task_type == "structure" else 36
    for groups in (None, [str(unit // 4) for unit in range(units)]) * 2:
        truths, predictions = random_answers(task, rng, units)
        values = task_type.metrics(task, truths, predictions)
        assert set(values) == set(task.metrics)
        for name, own in confidence_intervals(task, task_type, truths, [predictions], groups, draws=40).items():
            assert own.low <= values[name] <= own.high
            assert own.groups == (units // 4 if groups else units)


def test_a_median_rank_is_no_ratio_and_not_below_1():
    """Every query first: Wilson's interval would end at 1."""
    task = make_task("text_retrieval", ("similarity",), ("median_rank",))
    ranks = [1] * 30 + [9] * 20
    own = confidence_intervals(task, TEXT_RETRIEVAL, [["a"]] * 50, [[[[rank]] for rank in ranks]])["median_rank"]
    assert own.method == "t" and own.low == 1 and own.high > 1


@pytest.mark.parametrize("value, trials", [(0.95, 40), (0.05, 40), (0.97, 25), (1.0, 10)])
def test_near_0_and_1_groups_take_the_normal_quantile_on_the_side_of_the_bound(value, trials):
    error = StandardError(math.sqrt(value * (1 - value) / trials), 9)
    student, normal = (wilson(value * trials, trials, z) for z in (stats.t.ppf(0.975, 9), stats.norm.ppf(0.975)))
    expected = (student[0], normal[1]) if value > 0.5 else (normal[0], student[1])
    assert wilson_interval(value, error, 10, grouped=True) == pytest.approx(expected)
    assert wilson_interval(value, error, 10) == pytest.approx(student)


@pytest.mark.parametrize("value", [0.3, 0.5, 0.7])
def test_ratios_far_from_0_and_1_take_student_on_both_ends(value):
    error = StandardError(math.sqrt(value * (1 - value) / 90), 9)
    assert wilson_interval(value, error, 10, grouped=True) == pytest.approx(
        wilson(value * 90, 90, stats.t.ppf(0.975, 9))
    )


@pytest.mark.slow
@pytest.mark.parametrize("n, p", [(50, 0.95), (50, 0.6), (200, 0.9)])
def test_intervals_of_accuracy_cover(n, p):
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(400):
        own = confidence_intervals(
            ACCURACY, MULTICLASS, [1] * n, [(rng.random(n) < p).astype(int).tolist()], draws=200
        )["accuracy"]
        covered += own.low <= p <= own.high
    assert 0.92 <= covered / 400 <= 0.985


@pytest.mark.slow
def test_intervals_cover_where_clips_of_an_instrument_are_alike():
    """NSynth's shape, a third as large: taken as independent, the notes' interval covers a third of the time."""
    rng = np.random.default_rng(9)
    instruments, notes, p = 53, 25, 0.7
    groups = np.repeat(np.arange(instruments), notes)
    names = [str(group) for group in groups]
    covered, naive = 0, 0
    for _ in range(150):
        latent = math.sqrt(0.5) * rng.standard_normal(instruments)[groups] + math.sqrt(0.5) * rng.standard_normal(
            len(groups)
        )
        right = (latent < stats.norm.ppf(p)).astype(int).tolist()
        own = confidence_intervals(ACCURACY, MULTICLASS, [1] * len(right), [right], names, draws=200)["accuracy"]
        alone = confidence_intervals(ACCURACY, MULTICLASS, [1] * len(right), [right], draws=50)["accuracy"]
        covered += own.low <= p <= own.high
        naive += alone.low <= p <= alone.high
    assert covered / 150 >= 0.90 and naive / 150 < 0.6
