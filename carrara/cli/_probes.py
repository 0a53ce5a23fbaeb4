"""The cheap probe that `carrara pretrain --probe` runs on the encoder during training.

A linear probe on the weighted sum of all layers with one learning rate and a fixed number of epochs, on at most 300
clips of each split: the linear protocol without its search. It trains on the training split and is scored on the
validation split, which selects nothing; the test split is never read. So tuning a recipe on this curve does not use the
test clips on which `carrara bench` reports.

Features are stored in a temporary folder, because those of an unfinished encoder are of no use afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from carrara.bench import task_types, tasks
from carrara.bench.interval import confidence_intervals, unit_groups
from carrara.bench.probes.grid import GridSettings, ProbeProblem, probe_logits, train_grid
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.protocols._base import probe_windows
from carrara.bench.protocols.constrained import SUM
from carrara.bench.select_tasks import select_tasks
from carrara.bench.split_data import predict, training_examples
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types._base import ProbeTaskType, TaskType, monitor_only
from carrara.core.errors import DataError, UsageError
from carrara.core.io import draft_folder
from carrara.core.task import Task
from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import build_encoder

MAX_CLIPS = 300
LEARNING_RATE, EPOCHS, BATCH, SEED = 1e-2, 100, 64, 1234

Scores = Mapping[str, Mapping[str, Any]]


def build_probe(texts: list[str], data_dir: Path | None, device: str) -> Callable[[Encoder], Scores]:
    """Return a function from an encoder to each task's validation score, with its interval, metric and seconds.

    Args:
        texts: tasks as `carrara bench --tasks` takes them: names, patterns, task files.
        data_dir: folder of the datasets. None means `$CARRARA_DATA`.
        device: where the encoder and the probes run.

    Raises:
        UsageError: no such task, or one that no probe can learn.
        DataError: a dataset is not on disk or incomplete.
    """
    selected, datasets = select_tasks(None, texts)
    resolved = [tasks.task(task) if isinstance(task, str) else task for task in selected]
    # The clips are the same for every encoder, so missing ones are an error before the training begins.
    provider = FeatureProvider(build_encoder("noise"), data_dir, device, MAX_CLIPS, False, datasets)
    for task in resolved:
        task_type = task_types.REGISTRY.get(task.task_type)
        if not isinstance(task_type, ProbeTaskType):
            reason = "trains no probe" if task_type.reads_features else "needs a network of its own"
            raise UsageError(f"--probe {task.name}: {task.task_type} {reason}; choose another task")
        provider.present_clips(task)

    def probe(encoder: Encoder) -> Scores:
        with draft_folder() as folder:
            own = provider.with_encoder(encoder, folder)
            return {task.name: _score(task, own) for task in resolved}

    return probe


def _score(task: Task, provider: FeatureProvider) -> dict[str, Any]:
    """Return a task's monitored validation score with its interval.

    Raises:
        UsageError: the encoder lacks the frames that the task needs.
        DataError: a clip cannot be decoded, or the score has no value.
    """
    started = time.perf_counter()
    task_type: TaskType = task_types.REGISTRY.get(task.task_type)
    card = provider.encoder.card
    if task_type.frame_level and card.frame_rate is None:
        raise UsageError(f"--probe {task.name}: {card.name} has no frames, which this task needs; choose another task")
    assert isinstance(task_type, ProbeTaskType)
    window_spec = probe_windows(task, frames=task_type.frame_level)
    train = provider.load(task, task_type, window_spec, ("train",)).splits["train"]
    valid = provider.load(task, task_type, window_spec, ("valid",)).splits["valid"]
    state = task_type.fit(task, train.truths)
    epochs = count(1)
    # Each epoch counts as better than the one before, so the last one is kept and validation chooses nothing.
    problem = ProbeProblem(
        training_examples(task, task_type, state, train),
        valid.eval_examples(),
        task_type.loss,
        lambda logits_PRK: [float(next(epochs))],
    )
    layers = tuple(train.layers)
    spec = ProbeSpec(SUM if len(layers) > 1 else layers[0], layers, LEARNING_RATE, SEED)
    settings = GridSettings(
        task_type.outputs(task), hidden=0, dropout=0.0, batch_size=BATCH, max_epochs=EPOCHS, device=provider.device
    )
    trained = train_grid(problem, [spec], settings)[0]
    if trained.best_N is None:
        raise DataError(f"task {task.name!r}: the probe's loss is not finite; look for features that are not")
    predictions_1 = predict(task, task_type, state, valid, probe_logits(trained, valid.eval_examples())[None])
    monitored = monitor_only(task)
    score = task_type.metrics(monitored, valid.truths, predictions_1[0])[task.monitor]
    groups = unit_groups(valid.clips)
    interval = confidence_intervals(monitored, task_type, valid.truths, predictions_1, groups)[task.monitor]
    low, high = interval.low, interval.high
    if not all(map(math.isfinite, (score, low, high))):
        raise DataError(f"task {task.name!r}: {task.monitor} has no value on {len(valid.truths)} validation clips")
    return {"score": score, "low": low, "high": high, "metric": task.monitor, "seconds": time.perf_counter() - started}
