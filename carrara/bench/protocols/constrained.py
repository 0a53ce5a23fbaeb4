"""MARBLE's constrained track: a small probe on frozen features, layer and learning rate chosen on validation.

Yuan et al. 2023 (arXiv 2306.10548, section 4; benchmark.md 2.1 to 2.3): one hidden layer of 512 units, dropout 0.2,
batches of 64, Adam, the rate halved on a plateau of the watched validation score and training stopped early; every
layer and their learned weighted sum × six learning rates; the best epoch of the best probe by that score. Then the test
side is read, once, by `read_test`; nothing that chooses may call it.

The weighted sum adds every row, 0 to L, as the thesis says (v1's code leaves row 0 out). The convolutional features
"cnn", where the encoder has them, are tried as a layer but are no part of the sum. An encoder of a single row has no
sum. A probe that never reached a finite score was tried but is no point of the grid.
"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from carrara.bench.answers._base import Answer, State
from carrara.bench.grid import GridSettings, Question, Trained, answer_rows, train_grid
from carrara.bench.probe import ProbeSpec
from carrara.bench.protocols._base import Outcome, Protocol, Sides
from carrara.bench.sides import Side, answers, to_learn
from carrara.core.errors import DataError
from carrara.core.record import GridPoint
from carrara.core.task import Task

LEARNING_RATES = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
HIDDEN, DROPOUT, BATCH = 512, 0.2, 64
SUM = "weighted-sum"
EXTRAS = ("cnn",)


def run(task: Task, answer: Answer, sides: Sides, seed: int, device: str) -> Outcome:
    """Return what the rules find for one task.

    Raises:
        DataError: no probe reached a finite validation score.
    """
    began = time.perf_counter()
    state = answer.fit(task, sides.train.truths)
    trained = train(task, answer, state, (sides.train, sides.valid), settings(task, answer, seed, device))
    chosen = choose(task, trained)
    probed = time.perf_counter()
    test = sides.test()
    answered = read_test(task, answer, state, test, chosen)
    return Outcome(
        tried=len(trained),
        grid=tuple(_point(one) for one in trained if one.best_N is not None),
        chosen={
            "layer": chosen.spec.layer,
            "learning_rate": chosen.spec.learning_rate,
            "epoch": chosen.course.best_epoch,
        },
        truths=test.truths,
        answers=answered,
        seconds={"probe": probed - began, "test": time.perf_counter() - probed},
    )


def settings(task: Task, answer: Answer, seed: int, device: str) -> GridSettings:
    """Return how this track trains the probes of a task."""
    return GridSettings(
        outputs=answer.outputs(task),
        hidden=HIDDEN,
        dropout=DROPOUT,
        batch=BATCH,
        max_epochs=task.max_epochs,
        plateau_patience=task.plateau_patience,
        stop_patience=task.stop_patience,
        seed=seed,
        device=device,
    )


def search(layers: tuple[str, ...]) -> list[ProbeSpec]:
    """Return every point of the search over these layers."""
    summed = tuple(name for name in layers if name not in EXTRAS)
    heard: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in layers]
    if len(summed) > 1:
        heard.append((SUM, summed))
    return [ProbeSpec(name, sources, rate) for name, sources in heard for rate in LEARNING_RATES]


def train(task: Task, answer: Answer, state: State, learn: tuple[Side, Side], how: GridSettings) -> list[Trained]:
    """Return all probes of the search, trained on the first side and watched on the second."""
    train_side, valid_side = learn
    watching = task.model_copy(update={"scores": (task.watch,), "also": ()})

    def score(logits_PRK: Tensor) -> list[float]:
        given = answers(task, answer, state, valid_side, logits_PRK)
        return [answer.metrics(watching, valid_side.truths, one)[task.watch] for one in given]

    question = Question(to_learn(task, answer, state, train_side), valid_side.to_answer(), answer.loss, score)
    return train_grid(question, search(tuple(train_side.layers)), how)


def choose(task: Task, trained: list[Trained]) -> Trained:
    """Return the probe with the best watched validation score; the first of equals.

    Raises:
        DataError: none has a finite one.
    """
    finite = [one for one in trained if one.best_N is not None]
    if not finite:
        raise DataError(
            f"task {task.name!r}: no probe reached a finite {task.watch} on the validation clips; "
            "look for features that are not finite, or for too few clips"
        )
    return max(finite, key=lambda one: one.course.best)


def read_test(task: Task, answer: Answer, state: State, test: Side, chosen: Trained) -> list[Any]:
    """Return the chosen probe's answer for each test clip."""
    return answers(task, answer, state, test, answer_rows(chosen, test.to_answer())[None])[0]


def _point(trained: Trained) -> GridPoint:
    course = trained.course
    return GridPoint(
        layer=trained.spec.layer,
        learning_rate=trained.spec.learning_rate,
        valid=course.best,
        epoch=course.best_epoch,
        epochs=len(course.scores),
    )


PROTOCOL = Protocol("constrained", 1, run)
