"""MARBLE's semi-constrained track: the encoder stays frozen, any head reads it, learning rate chosen on validation.

[yuan2023 §4] [notes/benchmark §2.1] leave the head free. Here it comes from the registry of heads (`carrara ls heads`,
`--set head=lstm`) and reads the learned softmax-weighted sum of all layers, or one layer (`--set layer=6`,
`layer=cnn`). Each learning rate is tried for each seed in batches of 64, with AdamW, the learning rate halved on a
plateau of the monitored validation metric and early stopping; validation chooses epoch and learning rate. Then the test
split, once.

A head on rows (linear, mlp) reads what the constrained track's probe reads. A head on frames in their order
(attention-pool, lstm, conv) reads, where the task is frame by frame, excerpts in training and whole clips in
evaluation; for all other tasks each of the task's windows, cut from the frames of the whole clip, is one example. Such
a head has no embedding to average, so where a task averages its windows' embeddings, their logits are averaged instead.
For source separation a head for each stem gives each frame's mask (`carrara/bench/separation`), in the task's batches.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from pydantic import ConfigDict, Field, PositiveFloat
from torch import Tensor

from carrara.audio.windows import window_spans
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads import REGISTRY as HEADS
from carrara.bench.probes.heads._base import Head, HeadShape
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.probes.train_head import HeadProblem, HeadTraining, TrainedHead, head_logits, train_head
from carrara.bench.protocols._base import (
    ProbePredictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    check_rates,
    grid_point,
    probe_windows,
    refuse_stems_without_windows,
    refuse_without_cnn,
    refuse_without_probe,
    window_choice,
)
from carrara.bench.protocols._fit_estimator import fit_estimators
from carrara.bench.protocols.constrained import BATCH, SUM
from carrara.bench.split_data import SplitData, monitored_score, training_examples
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import DataError, UsageError
from carrara.core.progress import progress
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card, Encoder
from carrara.features.encode import CNN
from carrara.features.windows import WindowSpec, window_grid

S = TypeVar("S", bound=SplitData)


class SemiConstrainedSettings(Settings):
    """Settings of the semi-constrained track.

    Attributes:
        head: name in the registry of heads.
        layer: `weighted-sum`, or the name of one layer: 0 to L, or cnn. A head of scikit-learn (logistic-regression,
            svm) cannot learn a sum: by default it tries each layer.
        learning_rates: of which validation chooses.
        C: of scikit-learn's heads, of which validation chooses.
        hidden: units of a hidden layer.
        dropout: fraction of them that is dropped in training.
        weight_decay: of AdamW; 0 is Adam.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    head: str = "mlp"
    layer: str = SUM
    learning_rates: tuple[float, ...] = Field(default=(1e-4, 5e-4, 1e-3, 5e-3), min_length=1)
    C: tuple[PositiveFloat, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0), min_length=1)
    hidden: int = Field(default=512, ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)


def cut_windows(encoder: Encoder, task: Task, split: S) -> tuple[S, Examples]:
    """Return a split of frames as one of windows (its rows are those of the logits), and an example for each window.

    Raises:
        UsageError: the rows are no frames.
    """
    if split.frame_rate is None:
        raise UsageError(f"task {task.name!r}: the head reads frames, and the features are windows; use --set head=mlp")
    size, min_tail = None, 1
    if task.window_seconds is not None:
        size = max(round(task.window_seconds * split.frame_rate), 1)
        # A recording's last frames are fewer than its length has room for, since a frame needs its whole input.
        spec = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window)
        min_tail = min(encoder.num_frames(window_grid(encoder, spec).min_tail), size)
    windows_U = [
        [rows[start : start + count] for start, count in window_spans(len(rows), size, None, min_tail)]
        for rows in split.rows_U
    ]
    ends = np.cumsum([len(own) for own in windows_U])
    by_window = replace(
        split, rows_U=[np.arange(end - len(own), end) for own, end in zip(windows_U, ends)], frame_rate=None
    )
    rows_N = [rows for own in windows_U for rows in own]
    return by_window, Examples(split.layers, np.concatenate(rows_N), np.array([len(rows) for rows in rows_N]))


class _FittedHeads(ProbePredictor):
    def logits(self, probe: TrainedHead, split: SplitData) -> tuple[SplitData, Tensor]:
        if not _is_by_window(self.inputs):
            return split, head_logits(probe, split.eval_examples())
        by_window, examples = cut_windows(self.inputs.encoder, self.inputs.task, split)
        return by_window, head_logits(probe, examples)


def _is_by_window(inputs: ProtocolInputs) -> bool:
    """Return whether the head reads the frames of a window as one example."""
    return HEADS.get(inputs.settings.head).frames and not inputs.task_type.frame_level


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: SemiConstrainedSettings) -> WindowSpec | None:
    if task_type.reads_features:
        refuse_without_probe(task, task_type)
    head: Head = HEADS.get(settings.head)
    if task_type.frame_level and not head.each_row:
        others = [name for name in HEADS.names() if HEADS.get(name).each_row]
        raise UsageError(
            f"task {task.name!r}: the head {settings.head} gives no prediction for each frame; use --set head= one of "
            f"{', '.join(others)}"
        )
    if head.task_types and task.task_type not in head.task_types:
        raise UsageError(
            f"task {task.name!r}: the head {settings.head} learns {' and '.join(head.task_types)}, not "
            f"{task.task_type}; use --set head=mlp"
        )
    if not task_type.reads_features:
        refuse_stems_without_windows(task)
        if settings.layer == CNN:
            raise UsageError(f"task {task.name!r}: source separation reads layers 0 to L; leave --set layer=cnn out")
        return None
    if head.frames and card.frame_rate is None:
        raise UsageError(f"the head {settings.head} reads frames, and {card.name} has none; use --set head=mlp")
    if settings.layer == CNN:
        refuse_without_cnn(card, "layer=cnn")
    return probe_windows(task, frames=head.frames or task_type.frame_level, cnn=settings.layer == CNN)


def _run_stems(inputs: ProtocolInputs) -> ProtocolResult:
    """Train a registered head for each stem at each learning rate and choose a rate for each seed."""
    from carrara.bench.separation.run import run_separation

    settings = inputs.settings
    numbered = tuple(str(layer) for layer in range(inputs.encoder.card.num_layers + 1))
    layer, sources = _sources(numbered, settings.layer)
    points = [ProbeSpec(layer, sources, rate, seed) for seed in inputs.seeds for rate in settings.learning_rates]
    own = {name: getattr(settings, name) for name in ("head", "hidden", "dropout", "weight_decay")}
    return run_separation(inputs, points, **own)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    if not inputs.task_type.reads_features:
        return _run_stems(inputs)
    started = time.perf_counter()
    task, task_type, settings, encoder = inputs.task, inputs.probe_task_type, inputs.settings, inputs.encoder
    head: Head = HEADS.get(settings.head)
    if head.estimator is not None:
        layers = tuple(inputs.train.layers)
        return fit_estimators(
            inputs, settings.head, head, layers if settings.layer == SUM else _sources(layers, settings.layer)[1]
        )
    by_window = _is_by_window(inputs)
    layer, sources = _sources(tuple(inputs.train.layers), settings.layer)
    state = task_type.fit(task, inputs.train.truths)
    if by_window:
        valid, valid_examples = cut_windows(encoder, task, inputs.valid)
        windows_split, examples = cut_windows(encoder, task, inputs.train)
        targets_U = task_type.targets(task, state, inputs.train.truths, None)
        targets_N = np.repeat(targets_U, [len(rows) for rows in windows_split.rows_U], axis=0)
        train_examples = replace(examples, targets_R=np.repeat(targets_N, examples.counts_N, axis=0))
    else:
        valid, valid_examples = inputs.valid, inputs.valid.eval_examples()
        train_examples = training_examples(task, task_type, state, inputs.train)
    problem = HeadProblem(
        train_examples,
        valid_examples,
        task_type.loss,
        lambda logits_1RK: monitored_score(task, task_type, state, valid, logits_1RK)[0],
    )
    shape = HeadShape(
        train_examples.dim(sources[0]),
        task_type.outputs(task),
        settings.hidden,
        settings.dropout,
        each_row=not by_window,
    )
    schedule = (task.max_epochs, task.plateau_patience, task.stop_patience)
    trainings = [
        HeadTraining(layer, sources, rate, seed, settings.weight_decay, BATCH, *schedule, inputs.device)
        for seed in inputs.seeds
        for rate in settings.learning_rates
    ]
    with progress(f"{settings.head} on {task.name}", len(trainings) * task.max_epochs) as advance:
        trained = [train_head(head, shape, problem, training, advance) for training in trainings]
    chosen = [_select_best(task, [trial for trial in trained if trial.training.seed == seed]) for seed in inputs.seeds]
    return ProtocolResult(
        predictor=_FittedHeads(inputs, state, chosen, [head.rule for head in chosen]),
        tried=len(trained),
        grid=tuple(
            grid_point(layer, trial.training.learning_rate, trial.training.seed, trial.history)
            for trial in trained
            if trial.best is not None
        ),
        chosen=tuple(
            {
                "layer": layer,
                "head": settings.head,
                "learning_rate": best.training.learning_rate,
                "epoch": best.history.best_epoch,
                **window_choice(task, best.rule),
            }
            for best in chosen
        ),
        seconds={"head": time.perf_counter() - started},
    )


def _sources(layers: Sequence[str], layer: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of what the head reads, and the layers that are added for it."""
    summed = tuple(name for name in layers if name != CNN)
    if layer == SUM:
        return (SUM if len(summed) > 1 else summed[0]), summed
    if layer not in layers:
        raise UsageError(f"--set layer={layer}: there is no such layer; there are {SUM}, {', '.join(layers)}")
    return layer, (layer,)


def _select_best(task: Task, trained: list[TrainedHead]) -> TrainedHead:
    finite = [trial for trial in trained if trial.best is not None]
    if not finite:
        raise DataError(
            f"task {task.name!r}: at no learning rate did the head reach a finite {task.monitor} on the validation "
            "clips; set lower learning_rates, or look for too few clips"
        )
    return max(finite, key=lambda trial: trial.history.best)


def _check_search(task: Task, settings: SemiConstrainedSettings, points: Sequence[GridPoint]) -> list[str]:
    return check_rates(points, (0.0, *settings.learning_rates))


PROTOCOL = Protocol("semi-constrained", 1, SemiConstrainedSettings, _window_spec, _run, check_search=_check_search)
