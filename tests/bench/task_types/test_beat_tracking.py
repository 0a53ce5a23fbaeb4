"""Beat tracking: targets on the frame grid, the loss against torch's, from logits to times to scores."""

from __future__ import annotations

import math
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from carrara.bench.interval import confidence_intervals
from carrara.bench.task_types._base import Frames
from carrara.bench.task_types.beat_tracking import TASK_TYPE
from carrara.core.clip import Clip
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="d",
    split_scheme="s",
    task_type="beat_tracking",
    label="beats",
    labels=("beat",),
    metrics=("beat_f_70ms",),
    extra_metrics=("beat_f_20ms", "beat_f_70ms_pooled", "beat_f_20ms_pooled", "beat_f_70ms_trimmed"),
    monitor="beat_f_70ms",
    category="high-level",
    name="d/beats",
)


def clip(beats):
    return Clip("a", Path("a.wav"), labels={"beats": beats})


def test_truths_are_the_annotators_times():
    truths = TASK_TYPE.truths(TASK, [clip([0.5, 1.25]), clip((2.0, 1.0)), clip([])])
    assert [times.tolist() for times in truths] == [[0.5, 1.25], [1.0, 2.0], []]
    with pytest.raises(DataError, match="it has no label 'beats'"):
        TASK_TYPE.truths(TASK, [Clip("a", Path("a.wav"))])
    with pytest.raises(DataError, match="not a list of times"):
        TASK_TYPE.truths(TASK, [clip("soon")])
    with pytest.raises(DataError, match="is not a time"):
        TASK_TYPE.truths(TASK, [clip([1.0, math.nan])])
    with pytest.raises(UsageError, match=r"beat tracking has labels = \[.beat.\] or \[.downbeat.\], not"):
        TASK_TYPE.truths(TASK.model_copy(update={"labels": ("beat", "downbeat")}), [clip([])])


def test_targets_are_a_beats_frame_and_its_neighbours():
    first, second = TASK_TYPE.targets(
        TASK, None, [np.array([0.0, 0.449, 0.9]), np.array([5.0, -1.0])], Frames([9, 4], 10.0)
    )
    assert first[:, 0].tolist() == [1, 1, 0, 1, 1, 1, 0, 0, 0]
    assert second.shape == (4, 1)
    assert not second.any()
    inner = TASK_TYPE.targets(TASK, None, [np.array([0.8])], Frames([9], 10.0))[0]
    assert inner[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_loss_is_each_probes_own_and_skips_padding():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 20, 1, generator=draw)
    target = (torch.rand(20, 1, generator=draw) < 0.3).float()
    each = torch.stack([F.binary_cross_entropy_with_logits(own[:15], target[:15]) for own in logits])
    target[15:] = math.nan
    torch.testing.assert_close(TASK_TYPE.loss(logits, target), each)
    logits.requires_grad_()
    TASK_TYPE.loss(logits, target).sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, 15:].any()
    assert TASK_TYPE.loss(logits, torch.full_like(target, math.nan)).tolist() == [0, 0, 0]


def logits_of(beats, rate, seconds):
    logits = torch.full((round(seconds * rate), 1), -6.0)
    logits[np.round(np.asarray(beats) * rate).astype(int)] = 4.0
    return logits


def test_from_logits_to_scores():
    slow, fast = np.arange(0.4, 11.9, 0.75), np.arange(0.2, 7.9, 0.4)
    right = [logits_of(slow, 75.0, 12), logits_of(fast, 75.0, 8)]
    late = [logits_of(slow + 0.04, 75.0, 12), logits_of(fast + 0.04, 75.0, 8)]
    frames = Frames([900, 600], 75.0)
    predictions = TASK_TYPE.decode(TASK, None, [torch.stack(pair) for pair in zip(right, late)], frames)
    assert [len(probe) for probe in predictions] == [2, 2]
    exact = TASK_TYPE.metrics(TASK, [slow, fast], predictions[0])
    assert exact == dict.fromkeys((*TASK.metrics, *TASK.extra_metrics), pytest.approx(1.0))
    shifted = TASK_TYPE.metrics(TASK, [slow, fast], predictions[1])
    assert shifted["beat_f_70ms"] > 0.95
    assert shifted["beat_f_20ms"] < 0.1
    for name, window in (("beat_f_70ms", 0.07), ("beat_f_20ms", 0.02)):
        own = [mir_eval.beat.f_measure(*pair, f_measure_threshold=window) for pair in zip([slow, fast], predictions[1])]
        assert shifted[name] == pytest.approx(np.mean(own))


def test_only_the_requested_metrics():
    plain = TASK.model_copy(update={"extra_metrics": ()})
    assert set(TASK_TYPE.metrics(plain, [np.array([1.0])], [np.array([1.0])])) == {"beat_f_70ms"}


def test_intervals_are_those_of_resampled_tracks():
    draw = np.random.default_rng(0)
    truths = [np.arange(draw.uniform(0, 0.5), 12, 0.5) for _ in range(30)]
    predictions = [times + draw.choice([0.0, 0.25]) for times in truths]
    intervals = confidence_intervals(TASK, TASK_TYPE, truths, [predictions], draws=300)
    value = TASK_TYPE.metrics(TASK, truths, predictions)
    fraction = value["beat_f_70ms"]
    for name in value:
        low, high = intervals[name].low, intervals[name].high
        assert low <= value[name] <= high
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(fraction * (1 - fraction) / 30), rel=0.25)


def test_rows_without_a_frame_grid_are_refused():
    with pytest.raises(UsageError, match="needs an encoder with frames"):
        TASK_TYPE.targets(TASK, None, [np.array([1.0])], None)
    assert TASK_TYPE.decode(TASK, None, [], Frames([], 75.0)) == []
    assert (TASK_TYPE.frame_level, TASK_TYPE.outputs(TASK), TASK_TYPE.unit) == (True, 1, "track")
