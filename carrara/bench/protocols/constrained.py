"""MARBLE's constrained track: a small probe on frozen features, layer and learning rate chosen on validation.

Yuan et al. 2023 (arXiv 2306.10548, section 4; benchmark.md 2.1 to 2.3): one hidden layer of 512 units, dropout 0.2,
batches of 64, Adam, the rate halved on a plateau of the watched validation score and training stopped early; every
layer and their learned weighted sum × six learning rates; the best epoch of the best probe by that score. Then the test
side is read, once, after the choice.

The weighted sum adds every row, 0 to L, as the thesis says (v1's code leaves row 0 out). The convolutional features
"cnn", where the encoder has them, are tried as a layer but are no part of the sum. An encoder of a single row has no
sum. A probe that never reached a finite score was tried but is no point of the grid.
"""

from __future__ import annotations

import time
from typing import Any

from carrara.bench.probes.grid import GridSettings, ProbeProblem, Trained, answer_rows, train_grid
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult, Splits
from carrara.bench.split_features import SplitFeatures, answers, to_learn, watched
from carrara.bench.task_types._base import State, TaskType
from carrara.core.errors import DataError
from carrara.core.record import GridPoint
from carrara.core.task import Task

LEARNING_RATES = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
HIDDEN, DROPOUT, BATCH = 512, 0.2, 64
SUM = "weighted-sum"
EXTRAS = ("cnn",)


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what the rules find for one task.

    Raises:
        DataError: no probe reached a finite validation score.
    """
    if inputs.answer.run is not None:
        return inputs.answer.run(inputs)
    task, answer = inputs.task, inputs.answer
    how = GridSettings(
        outputs=answer.outputs(task),
        hidden=HIDDEN,
        dropout=DROPOUT,
        batch=BATCH,
        max_epochs=task.max_epochs,
        plateau_patience=task.plateau_patience,
        stop_patience=task.stop_patience,
        device=inputs.device,
    )
    sides = inputs.sides()
    return searched(inputs, sides, search(tuple(sides.train.layers), inputs.seeds), how)


def searched(inputs: ProtocolInputs, sides: Splits, specs: list[ProbeSpec], how: GridSettings) -> ProtocolResult:
    """Return what a search over these probes finds: trained at once, chosen on validation, read on test once.

    Raises:
        DataError: no probe reached a finite validation score.
    """
    began = time.perf_counter()
    task, answer = inputs.task, inputs.answer
    state = answer.fit(task, sides.train.truths)
    trained = train(task, answer, state, sides, specs, how)
    chosen = [choose(task, [one for one in trained if one.spec.seed == seed]) for seed in inputs.seeds]
    joining = [
        watched(task, answer, state, sides.valid, answer_rows(one, sides.valid.to_answer())[None])[0][1]
        for one in chosen
    ]
    probed = time.perf_counter()

    def read(side: SplitFeatures) -> list[list[Any]]:
        rows = side.to_answer()
        return [
            answers(task, answer, state, side, answer_rows(one, rows)[None], rule)[0]
            for one, rule in zip(chosen, joining)
        ]

    test = sides.test()
    return ProtocolResult(
        tried=len(trained),
        grid=tuple(_point(one) for one in trained if one.best_N is not None),
        chosen=tuple(_choice(one, rule, task) for one, rule in zip(chosen, joining)),
        truths=test.truths,
        answers=read(test),
        seconds={"probe": probed - began, "test": time.perf_counter() - probed},
        read=read,
    )


def search(layers: tuple[str, ...], seeds: tuple[int, ...]) -> list[ProbeSpec]:
    """Return every point of the search over these layers, for every seed."""
    summed = tuple(name for name in layers if name not in EXTRAS)
    heard: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in layers]
    if len(summed) > 1:
        heard.append((SUM, summed))
    return [
        ProbeSpec(name, sources, rate, seed) for seed in seeds for name, sources in heard for rate in LEARNING_RATES
    ]


def train(
    task: Task, answer: TaskType, state: State, sides: Splits, specs: list[ProbeSpec], how: GridSettings
) -> list[Trained]:
    """Return all probes of the search, trained on the training side and watched on the validation side."""
    question = ProbeProblem(
        to_learn(task, answer, state, sides.train),
        sides.valid.to_answer(),
        answer.loss,
        lambda logits_PRK: [score for score, _ in watched(task, answer, state, sides.valid, logits_PRK)],
    )
    return train_grid(question, specs, how)


def choose(task: Task, trained: list[Trained]) -> Trained:
    """Return the probe with the best watched validation score; the first of equals.

    Raises:
        DataError: none has a finite one.
    """
    finite = [one for one in trained if one.best_N is not None]
    if not finite:
        raise DataError(
            f"task {task.name!r}: no probe reached a finite {task.monitor} on the validation clips; "
            "look for features that are not finite, or for too few clips"
        )
    return max(finite, key=lambda one: one.course.best)


def _choice(trained: Trained, rule: str, task: Task) -> dict[str, Any]:
    spec, course = trained.spec, trained.course
    joined = {"windows": rule} if task.aggregate == "ensemble" else {}
    return {"layer": spec.layer, "learning_rate": spec.learning_rate, "epoch": course.best_epoch, **joined}


def _point(trained: Trained) -> GridPoint:
    course = trained.course
    return GridPoint(
        layer=trained.spec.layer,
        learning_rate=trained.spec.learning_rate,
        valid=course.best,
        epoch=course.best_epoch,
        epochs=len(course.scores),
        seed=trained.spec.seed,
    )


PROTOCOL = Protocol("constrained", 1, run)
