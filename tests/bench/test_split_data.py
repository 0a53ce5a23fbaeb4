"""From clips to examples and back: windows, excerpts of frames, padding, averaged logits; the search's points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from carrara.bench.protocols.constrained import LEARNING_RATES, choose, search
from carrara.bench.split_features import SplitFeatures, answers, averaged, to_learn
from carrara.bench.task_types import multiclass
from carrara.bench.task_types._base import Frames
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


def test_windows_are_examples_with_their_clips_target():
    examples = to_learn(TASK, multiclass.TASK_TYPE, None, SplitFeatures([1, 0, 1], LAYERS, ROWS))
    np.testing.assert_array_equal(examples.targets_R, [1] * 5 + [0] + [1] * 5)
    np.testing.assert_array_equal(examples.counts_N, np.ones(11))
    np.testing.assert_array_equal(examples.rows_R, np.arange(11))


def test_logits_of_a_clips_windows_are_averaged():
    logits = torch.zeros(2, 11, 2)
    logits[0, :5, 0] = torch.tensor([1.0, 1.0, 1.0, 1.0, -5.0])
    logits[1, 5, 1] = 1
    logits[1, 6:, 1] = torch.tensor([-1.0, -1.0, 0, 0, 3.0])
    found = answers(TASK, multiclass.TASK_TYPE, None, SplitFeatures([0, 0, 0], LAYERS, ROWS), logits)
    assert found == [[1, 0, 0], [0, 1, 1]]


def test_excerpts_leave_the_padding_out_and_answers_hear_whole_clips():
    heard = []

    def targets(task, state, truths, frames):
        assert frames == Frames([5, 1, 5], 1.5)
        wanted = [np.full((count, 1), truth, dtype=np.float32) for count, truth in zip(frames.counts_U, truths)]
        wanted[2][1:] = np.nan
        wanted[0][4] = np.nan
        return wanted

    def decode(task, state, logits, frames):
        heard.extend(tuple(part.shape) for part in logits)
        assert frames == Frames([5, 1, 5], 1.5)
        return [["heard"] * 3] * 2

    answer = replace(multiclass.TASK_TYPE, frames=True, targets=targets, decode=decode)
    side = SplitFeatures([3, 4, 5], LAYERS, ROWS, rate=1.5)
    examples = to_learn(TASK, answer, None, side)
    np.testing.assert_array_equal(examples.counts_N, [3, 1, 1, 1])
    np.testing.assert_array_equal(examples.rows_R, [0, 1, 2, 3, 5, 6])
    np.testing.assert_array_equal(examples.targets_R[:, 0], [3, 3, 3, 3, 4, 5])
    answers(TASK, answer, None, side, torch.zeros(2, 11, 2))
    assert heard == [(2, 5, 2), (2, 1, 2), (2, 5, 2)]
    np.testing.assert_array_equal(side.to_answer().counts_N, [5, 1, 5])


def test_averaged_windows():
    found = averaged(LAYERS, ROWS)["0"]
    np.testing.assert_array_equal(found, [[4, 5], [10, 11], [16, 17]])
    assert found.dtype == np.float16


def test_the_search_has_the_published_size():
    assert LEARNING_RATES == (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
    for states, points in ((13, 84), (25, 156), (1, 6)):
        specs = search(tuple(str(layer) for layer in range(states)), (0,))
        assert len(specs) == len(set(specs)) == points
    extra = search(("0", "1", "cnn"), (0,))
    assert {spec.layer for spec in extra} == {"0", "1", "cnn", "weighted-sum"}
    assert {spec.sources for spec in extra if spec.layer == "weighted-sum"} == {("0", "1")}


def test_no_probe_to_choose_is_an_error_that_names_the_task():
    with pytest.raises(DataError, match="task 'd/x': no probe reached a finite accuracy"):
        choose(TASK, [])
