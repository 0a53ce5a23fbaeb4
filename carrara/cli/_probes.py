"""The cheap probe that a training asks its encoder on the way, built from the benchmark's parts.

One linear map on the weighted sum of all layers, one learning rate, a fixed number of epochs, at most 300 clips
a side: the linear protocol without its search. It learns from the training side and is scored on the validation side.
Nothing is chosen by that side, and the test side stays shut, so whoever looks at the curve and changes the recipe has
not looked at what `carrara bench` will ask.

Features are kept in a temporary folder: those of an encoder on its way are of no use afterwards.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.bench import task_types, tasks
from carrara.bench.interval import intervals
from carrara.bench.probes.grid import GridSettings, ProbeProblem, answer_rows, train_grid
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.protocols.constrained import SUM
from carrara.bench.split_features import SplitFeatures, averaged, to_learn
from carrara.bench.split_features import answers as answered
from carrara.bench.task_data import FeatureProvider, incomplete
from carrara.bench.task_types._base import TaskType
from carrara.cli._select_tasks import chosen_tasks
from carrara.core.errors import DataError, UsageError
from carrara.core.task import Task
from carrara.encoders._hub.load import build
from carrara.features.extract import extract
from carrara.features.windows import WindowSpec

if TYPE_CHECKING:
    from carrara.core.clip import Clip
    from carrara.encoders._base import Encoder

MOST_CLIPS = 300
LEARNING_RATE, EPOCHS, BATCH, SEED = 1e-2, 100, 64, 1234

Scores = Mapping[str, Mapping[str, Any]]


def probe_of(words: list[str], data_dir: Path | None, device: str) -> Callable[[Encoder], Scores]:
    """Return encoder → each task's score on validation clips, with its interval, metric and seconds.

    Args:
        words: tasks as `carrara bench --tasks` takes them: names, patterns, files of one's own.
        data_dir: folder of the datasets; none: where `$CARRARA_DATA` says.
        device: where the encoder and the probes run.

    Raises:
        UsageError: no such task, or one that no probe can answer.
        DataError: a dataset is not there or not whole.
    """
    chosen, datasets = chosen_tasks(None, words)
    asked = [tasks.task(one) if isinstance(one, str) else one for one in chosen]
    # Whoever hears them, the clips are the same: what is missing is told before the training begins.
    library = FeatureProvider(build("noise"), data_dir, device, MOST_CLIPS, False, datasets)
    clips = {task.name: _clips(library, task) for task in asked}

    def ask(encoder: Encoder) -> Scores:
        with tempfile.TemporaryDirectory(prefix="carrara-probe-") as home:
            return {task.name: _score(task, clips[task.name], encoder, Path(home), device) for task in asked}

    return ask


def _clips(library: FeatureProvider, task: Task) -> list[Clip]:
    answer: TaskType = task_types.REGISTRY.get(task.task_type)
    if answer.run is not None:
        raise UsageError(f"--probe {task.name}: {task.task_type} need a network of their own; choose another row")
    return [clip for clip in library.material(task, answer).clips if clip.split != "test"]


def _score(task: Task, clips: list[Clip], encoder: Encoder, home: Path, device: str) -> dict[str, Any]:
    """Return a task's watched score with its interval.

    Raises:
        DataError: a clip cannot be heard, or the score has no value.
    """
    began = time.perf_counter()
    answer: TaskType = task_types.REGISTRY.get(task.task_type)
    if answer.frames and encoder.card.frame_rate is None:
        raise UsageError(f"--probe {task.name}: {encoder.card.name} answers once a clip, not frame by frame")
    train, valid = (_side(task, answer, clips, split, encoder, (home, device)) for split in ("train", "valid"))
    state = answer.fit(task, train.truths)
    epochs = count(1)
    how = GridSettings(answer.outputs(task), hidden=0, dropout=0.0, batch=BATCH, max_epochs=EPOCHS, device=device)
    layers = tuple(train.layers)
    spec = ProbeSpec(SUM if len(layers) > 1 else layers[0], layers, LEARNING_RATE, SEED)
    # Each epoch counts as better than the one before, so that the last is kept and the validation side chooses nothing.
    question = ProbeProblem(
        to_learn(task, answer, state, train), valid.to_answer(), answer.loss, lambda logits_PRK: [float(next(epochs))]
    )
    trained = train_grid(question, [spec], how)[0]
    if trained.best_N is None:
        raise DataError(f"task {task.name!r}: the probe's loss is not finite; look for features that are not")
    given = answered(task, answer, state, valid, answer_rows(trained, valid.to_answer())[None])
    watching = task.model_copy(update={"metrics": (task.monitor,), "extra_metrics": ()})
    score = answer.metrics(watching, valid.truths, given[0])[task.monitor]
    low, high = intervals(watching, answer, valid.truths, given, SEED)[task.monitor]
    if not all(map(math.isfinite, (score, low, high))):
        raise DataError(f"task {task.name!r}: {task.monitor} has no value on {len(valid.truths)} validation clips")
    return {"score": score, "low": low, "high": high, "metric": task.monitor, "seconds": time.perf_counter() - began}


def _side(
    task: Task, answer: TaskType, clips: list[Clip], split: str, encoder: Encoder, where: tuple[Path, str]
) -> SplitFeatures:
    """Return a side's clips with their features in every layer."""
    own = [clip for clip in clips if clip.split == split]
    view = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window)
    if answer.frames:
        view = WindowSpec(window_seconds=None, pool="frames")
    features = extract(encoder, own, view, where[0], where[1])
    if features.missing:
        raise incomplete(
            task, f"{len(features.missing)} clips cannot be heard, first {next(iter(features.missing.values()))}"
        )
    rows_U = [np.arange(rows.start, rows.stop) for rows in features.rows]
    layers: dict[str, Any] = {name: features.layer(name) for name in features.layers}
    if not answer.frames and task.aggregate == "embedding" and any(len(rows) > 1 for rows in rows_U):
        layers, rows_U = averaged(layers, rows_U), list(np.arange(len(rows_U))[:, None])
    return SplitFeatures(answer.truths(task, own), layers, rows_U, features.frame_rate if answer.frames else None)
