"""From clips to examples and back: windows, excerpts of frames, padding, averaged logits; the points of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carrara.bench.protocols.constrained import LEARNING_RATES, grid_points, select_best
from carrara.bench.split_data import LabelledSplit, SplitData, average_windows, predict, training_examples
from carrara.bench.task_types._base import Frames, ProbeTaskType
from carrara.bench.task_types.multiclass import TASK_TYPE as MULTICLASS
from carrara.core.errors import DataError
from carrara.core.task import Task

TASK = Task(
    version=1,
    dataset="d",
    split_scheme="s",
    task_type="multiclass",
    label="x",
    labels=("a", "b"),
    metrics=("accuracy",),
    monitor="accuracy",
    category="score",
    window_seconds=2.0,
    name="d/x",
)
LAYERS = {"0": np.arange(22, dtype=np.float16).reshape(11, 2)}
ROWS = [np.arange(0, 5), np.arange(5, 6), np.arange(6, 11)]


def split_of(truths, rate=None):
    return LabelledSplit((), LAYERS, ROWS, rate, truths)


def test_windows_are_examples_with_their_clips_target():
    examples = training_examples(TASK, MULTICLASS, None, split_of([1, 0, 1]))
    np.testing.assert_array_equal(examples.targets_R, [1] * 5 + [0] + [1] * 5)
    np.testing.assert_array_equal(examples.counts_N, np.ones(11))
    np.testing.assert_array_equal(examples.rows_R, np.arange(11))


def test_logits_of_a_clips_windows_are_averaged():
    logits = torch.zeros(2, 11, 2)
    logits[0, :5, 0] = torch.tensor([1.0, 1.0, 1.0, 1.0, -5.0])
    logits[1, 5, 1] = 1
    logits[1, 6:, 1] = torch.tensor([-1.0, -1.0, 0, 0, 3.0])
    assert predict(TASK, MULTICLASS, None, SplitData((), LAYERS, ROWS), logits) == [[1, 0, 0], [0, 1, 1]]


class FrameByFrame(ProbeTaskType):
    """Each clip's truth at all of its frames, but for some that are padding."""

    frame_level = True

    def metric_names(self, task):
        return tuple(task.metrics)

    def __init__(self):
        self.decoded = []

    def targets(self, task, state, truths, frames):
        assert frames == Frames([5, 1, 5], 1.5)
        targets = [np.full((count, 1), truth, dtype=np.float32) for count, truth in zip(frames.counts_U, truths)]
        targets[2][1:] = np.nan
        targets[0][4] = np.nan
        return targets

    def decode(self, task, state, logits, frames):
        assert frames == Frames([5, 1, 5], 1.5)
        self.decoded += [tuple(part.shape) for part in logits]
        return [[0] * 3] * 2

    def truths(self, task, clips):
        raise NotImplementedError

    def metrics(self, task, truths, predictions):
        raise NotImplementedError

    def loss(self, logits_PBK, targets):
        raise NotImplementedError


def test_excerpts_leave_the_padding_out_and_predictions_are_of_whole_clips():
    task_type, split = FrameByFrame(), split_of([3, 4, 5], rate=1.5)
    examples = training_examples(TASK, task_type, None, split)
    np.testing.assert_array_equal(examples.counts_N, [3, 1, 1, 1])
    np.testing.assert_array_equal(examples.rows_R, [0, 1, 2, 3, 5, 6])
    np.testing.assert_array_equal(examples.targets_R[:, 0], [3, 3, 3, 3, 4, 5])
    predict(TASK, task_type, None, split, torch.zeros(2, 11, 2))
    assert task_type.decoded == [(2, 5, 2), (2, 1, 2), (2, 5, 2)]
    np.testing.assert_array_equal(split.eval_examples().counts_N, [5, 1, 5])


def test_mean_over_windows():
    means = average_windows(LAYERS, ROWS)["0"]
    np.testing.assert_array_equal(means, [[4, 5], [10, 11], [16, 17]])
    assert means.dtype == np.float16


def test_the_grid_has_the_published_size():
    assert LEARNING_RATES == (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
    for layers, points in ((13, 84), (25, 156), (1, 6)):
        specs = grid_points(tuple(str(layer) for layer in range(layers)), (0,))
        assert len(specs) == len(set(specs)) == points
    with_cnn = grid_points(("0", "1", "cnn"), (0,))
    assert {spec.layer for spec in with_cnn} == {"0", "1", "cnn", "weighted-sum"}
    assert {spec.sources for spec in with_cnn if spec.layer == "weighted-sum"} == {("0", "1")}


def test_no_probe_to_choose_is_an_error_that_names_the_task():
    with pytest.raises(DataError, match="task 'd/x': no probe reached a finite accuracy"):
        select_best(TASK, [])
