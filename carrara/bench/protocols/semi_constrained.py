"""MARBLE's semi-constrained track: the encoder stays frozen, any head reads it, learning rate from validation.

Yuan et al. 2023 (arXiv 2306.10548, section 4; benchmark.md 2.1) leave the head free. Here it comes from the shelf of
heads (`carrara ls heads`, `--set head=lstm`) and hears the learned softmax-weighted sum of all layers, or one layer
that is named (`--set layer=6`). Each rate is tried for each seed in batches of 64, with AdamW, the rate halved on a
plateau of the watched validation score and training stopped early; the best epoch of the best rate by that score is
kept; then the test side is read, once.

A head that hears each row by itself (linear, mlp) meets what the constrained track's probe meets. A head that hears
frames in their order (attention-pool, lstm, conv) meets, for answers frame by frame, excerpts to train on and whole
clips to answer; for all other answers the frames of each of the task's windows, cut from the frames of the whole clip,
as one example. Such a head has no embedding that could be averaged, so where a task averages its windows' embeddings,
their logits are averaged instead.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field

from carrara.audio.window import windows
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads import REGISTRY as HEADS
from carrara.bench.probes.heads._base import Head, HeadShape
from carrara.bench.probes.train_head import HeadQuestion, HeadTraining, TrainedHead, answer_head, train_head
from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult, Splits
from carrara.bench.protocols.constrained import BATCH, EXTRAS, SUM
from carrara.bench.split_features import SplitFeatures, answers, to_learn, watched
from carrara.bench.task_types._base import State, TaskType
from carrara.core.errors import DataError, UsageError
from carrara.core.progress import progress
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Encoder
from carrara.features.windows import WindowSpec, window_grid


class SemiConstrainedSettings(Settings):
    """Which head, what it hears, and how it is trained.

    Attributes:
        head: name on the shelf of heads.
        layer: `weighted-sum`, or the name of one layer.
        learning_rates: of which validation chooses.
        hidden: units of a hidden layer.
        dropout: share of them that is dropped in training.
        weight_decay: of AdamW; 0 is Adam.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    head: str = "mlp"
    layer: str = SUM
    learning_rates: tuple[float, ...] = Field(default=(1e-4, 5e-4, 1e-3, 5e-3), min_length=1)
    hidden: int = Field(default=512, ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the rules find for one task.

    Raises:
        UsageError: there is no such head or layer, or the head cannot give this answer for this encoder.
        DataError: no head reached a finite validation score.
    """
    task, answer, how = inputs.task, inputs.answer, inputs.settings or SemiConstrainedSettings()
    head = _head(inputs, how)
    sides = inputs.frame_sides() if head.frames else inputs.sides()
    began = time.perf_counter()
    state = answer.fit(task, sides.train.truths)
    trained = _trained(inputs, how, head, sides, state)
    chosen = [_best(task, [one for one in trained if one.how.seed == seed]) for seed in inputs.seeds]
    taught = time.perf_counter()

    def read(side: SplitFeatures) -> list[list[Any]]:
        met, examples = to_hear(head, inputs.encoder, task, answer, side)
        return [answers(task, answer, state, met, answer_head(one, examples)[None], one.rule)[0] for one in chosen]

    test = sides.test()
    return ProtocolResult(
        tried=len(trained),
        grid=tuple(_point(one) for one in trained if one.best is not None),
        chosen=tuple(_choice(one, how.head, task) for one in chosen),
        truths=test.truths,
        answers=read(test),
        seconds={"head": taught - began, "test": time.perf_counter() - taught},
        read=read,
        frames=head.frames,
    )


def to_hear(
    head: Head, encoder: Encoder, task: Task, answer: TaskType, side: SplitFeatures
) -> tuple[SplitFeatures, Examples]:
    """Return a side as it is answered (its rows are what has a logit), and the examples that are heard for it.

    Raises:
        UsageError: the head hears frames, and these rows are none.
    """
    if answer.frames or not head.frames:
        return side, side.to_answer()
    if side.rate is None:
        raise UsageError(f"task {task.name!r}: the head hears frames, and windows were given; use --set head=mlp")
    parts_U = [[rows[cut] for cut in _cuts(len(rows), encoder, task, side.rate)] for rows in side.rows_U]
    ends = np.cumsum([len(parts) for parts in parts_U])
    met = replace(side, rows_U=[np.arange(end - len(parts), end) for parts, end in zip(parts_U, ends)], rate=None)
    rows = [part for parts in parts_U for part in parts]
    return met, Examples(side.layers, np.concatenate(rows), np.array([len(part) for part in rows]))


def _cuts(frames: int, encoder: Encoder, task: Task, rate: float) -> list[slice]:
    """Return the task's windows over a clip of so many frames."""
    if task.window_seconds is None:
        return [slice(0, frames)]
    window = max(round(task.window_seconds * rate), 1)
    # The last frames of a recording are fewer than its length has room for, since a frame needs all that it hears.
    least = encoder.frames(
        window_grid(encoder, WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window)).min_tail
    )
    return [slice(start, start + count) for start, count in windows(frames, window, least=min(least, window))]


def _learning(
    head: Head, encoder: Encoder, task: Task, answer: TaskType, state: State, side: SplitFeatures
) -> Examples:
    if answer.frames or not head.frames:
        return to_learn(task, answer, state, side)
    met, examples = to_hear(head, encoder, task, answer, side)
    targets_U = answer.targets(task, state, side.truths, None)
    targets_N = np.repeat(targets_U, [len(rows) for rows in met.rows_U], axis=0)
    return replace(examples, targets_R=np.repeat(targets_N, examples.counts_N, axis=0))


def _trained(
    inputs: ProtocolInputs, how: SemiConstrainedSettings, head: Head, sides: Splits, state: State
) -> list[TrainedHead]:
    """Return the head trained at every rate, for every seed."""
    task, answer, encoder = inputs.task, inputs.answer, inputs.encoder
    layer, sources = _sources(tuple(sides.train.layers), how.layer)
    valid, heard = to_hear(head, encoder, task, answer, sides.valid)
    question = HeadQuestion(
        _learning(head, encoder, task, answer, state, sides.train),
        heard,
        answer.loss,
        lambda logits_1RK: watched(task, answer, state, valid, logits_1RK)[0],
    )
    shape = HeadShape(
        question.train.width(sources[0]),
        answer.outputs(task),
        how.hidden,
        how.dropout,
        each_row=answer.frames or not head.frames,
    )
    trials = [
        HeadTraining(
            layer,
            sources,
            rate,
            seed,
            how.weight_decay,
            BATCH,
            task.max_epochs,
            task.plateau_patience,
            task.stop_patience,
            inputs.device,
        )
        for seed in inputs.seeds
        for rate in how.learning_rates
    ]
    with progress(f"{how.head} on {task.name}", len(trials) * task.max_epochs) as advance:
        return [train_head(head, shape, question, trial, advance) for trial in trials]


def _head(inputs: ProtocolInputs, how: SemiConstrainedSettings) -> Head:
    task, answer, card = inputs.task, inputs.answer, inputs.encoder.card
    if answer.run is not None:
        raise UsageError(
            f"task {task.name!r}: {task.task_type} need a network of their own; use --protocol constrained"
        )
    head: Head = HEADS.get(how.head)
    if answer.frames and not head.each_row:
        others = [name for name in HEADS.names() if HEADS.get(name).each_row]
        raise UsageError(
            f"task {task.name!r}: the head {how.head} has no answer for each frame; use --set head= one of "
            f"{', '.join(others)}"
        )
    if head.frames and card.frame_rate is None:
        raise UsageError(f"the head {how.head} hears frames, and {card.name} has none; use --set head=mlp")
    return head


def _sources(layers: Sequence[str], wanted: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of what is heard, and the layers that are added for it."""
    summed = tuple(name for name in layers if name not in EXTRAS)
    if wanted == SUM:
        return (SUM if len(summed) > 1 else summed[0]), summed
    if wanted not in layers:
        raise UsageError(f"--set layer={wanted}: there is no such layer; there are {SUM}, {', '.join(layers)}")
    return wanted, (wanted,)


def _best(task: Task, trained: list[TrainedHead]) -> TrainedHead:
    finite = [one for one in trained if one.best is not None]
    if not finite:
        raise DataError(
            f"task {task.name!r}: at no rate did the head reach a finite {task.monitor} on the validation clips; "
            "set lower learning_rates, or look for too few clips"
        )
    return max(finite, key=lambda one: one.course.best)


def _choice(trained: TrainedHead, head: str, task: Task) -> dict[str, Any]:
    joined = {"windows": trained.rule} if task.aggregate == "ensemble" else {}
    how, epoch = trained.how, trained.course.best_epoch
    return {"layer": how.layer, "head": head, "learning_rate": how.learning_rate, "epoch": epoch, **joined}


def _point(trained: TrainedHead) -> GridPoint:
    how, course = trained.how, trained.course
    return GridPoint(
        layer=how.layer,
        learning_rate=how.learning_rate,
        valid=course.best,
        epoch=course.best_epoch,
        epochs=len(course.scores),
        seed=how.seed,
    )


PROTOCOL = Protocol("semi-constrained", 1, run, SemiConstrainedSettings)
