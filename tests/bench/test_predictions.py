"""Predictions of every task type give the same metrics after they were written and read."""

import numpy as np
import pytest

from carrara.bench import task_types, tasks
from carrara.bench.predictions import read_predictions, to_metric_input, write_predictions
from carrara.core.clip import Clip

EXAMPLES = {
    "pebble/key": ([0, 3, 5], [0, 3, 7]),
    "vocalset/singer": ([0, 1, 2], [[0, 0, 1], [1], [2, 3]]),
    "pebble/emotion": ([np.array([0.1, 0.9]), np.array([0.4, 0.2]), np.array([0.8, 0.5])],
                       [np.array([0.2, 0.7]), np.array([0.3, 0.1]), np.array([0.9, 0.4])]),
    "pebble/tempo": ([120.0, 90.0, 61.5], [121.0, 180.0, 80.0]),
    "pebble/beats": ([np.array([0.5, 1.0, 1.5]), np.array([0.5]), np.array([])],
                     [np.array([0.52, 1.0]), np.array([]), np.array([0.3])]),
    "pebble/chords": ([[[0.0, 1.0, "C:maj"], [1.0, 2.0, "A:min"]], [[0.0, 2.0, "G:maj"]], [[0.0, 1.0, "N"]]],
                      [[[0.0, 1.5, "C:maj"], [1.5, 2.0, "A:min"]], [[0.0, 2.0, "G:maj"]], [[0.0, 1.0, "C:maj"]]]),
    "pebble/melody": ([[[0.0, 1.0, 440.0], [1.0, 2.0, 220.0]], [[0.0, 1.0, 330.0]], [[0.5, 1.0, 262.0]]],
                      [[[0.0, 2.0, 440.0]], [[0.0, 1.0, 330.0]], [[0.0, 1.0, -262.0]]]),
    "pebble/structure": ([[[0.0, 9.0, "verse"], [9.0, 20.0, "chorus"]]] * 3,
                         [[[0.0, 9.2, "verse"], [9.2, 20.0, "verse"]], [[0.0, 20.0, "chorus"]],
                          [[0.0, 5.0, "verse"], [5.0, 20.0, "chorus"]]]),
    "pebble/covers": (["a", "a", None], [np.array([1.0, 0.1]), np.array([0.9, 0.2]), np.array([0.0, 1.0])]),
    "pebble/caption": ([["slow"], ["fast", "slow"], []], [[[1, 3]], [[2], [1, 3]], []]),
    "pebble/stems": (["a", "b", "c"], [{f"sdr_{stem}": float(number) for number, stem in
                                        enumerate(("vocals", "drums", "bass", "other"))}] * 3),
}  # fmt: skip


def test_every_task_type_has_an_example():
    assert {tasks.task(name).task_type for name in EXAMPLES} | {"multilabel"} == {
        name.replace("-", "_") for name in task_types.REGISTRY.names()
    }


@pytest.mark.parametrize("name", [*EXAMPLES, "pebble/tags"])
def test_metrics_are_the_same_after_writing_and_reading(name, tmp_path):
    task = tasks.task(name)
    draw = np.random.default_rng(0)
    labels = (np.arange(len(task.labels)) + np.arange(3)[:, None]) % 2
    truths, predictions = EXAMPLES.get(name, (list(labels), list(draw.random((3, len(task.labels))))))
    task_type = task_types.REGISTRY.get(task.task_type)
    clips = [Clip(id, None) for id in "abc"]
    write_predictions(tmp_path / "p.parquet", clips, truths, [predictions], [1])
    pairs = list(read_predictions(tmp_path / "p.parquet")[1].values())
    read = [[to_metric_input(pair[part]) for pair in pairs] for part in (0, 1)]
    expected = task_type.metrics(task, truths, predictions)
    assert set(expected) >= set(task.metrics) and any(np.isfinite(value) for value in expected.values())
    assert task_type.metrics(task, *read) == pytest.approx(expected, nan_ok=True, rel=1e-12)
