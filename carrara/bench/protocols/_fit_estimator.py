"""Fits a head of scikit-learn at every layer and C, and chooses the pair with the best monitored validation score.

Features are standardised with the mean and standard deviation of the training examples, which are clips, or windows
where the task does not average their embeddings. Nothing is random, so all seeds share one fit. Decision values take
the place of logits: minus infinity for a class that no training clip has, and (0, value) where there are two classes.

Letters: R rows, D features, K outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads._base import Head
from carrara.bench.protocols._base import ProbePredictor, ProtocolInputs, ProtocolResult, window_choice
from carrara.bench.split_data import SplitData, monitored_score, training_examples
from carrara.core.errors import DataError, UsageError
from carrara.core.progress import track
from carrara.core.record import GridPoint


@dataclass(frozen=True)
class FittedEstimator:
    """An estimator after a scaler, on one layer with one C; its validation score and the best rule for windows."""

    layer: str
    c: float
    pipeline: Any
    score: float
    rule: str


class _FittedEstimators(ProbePredictor):
    def logits(self, probe: FittedEstimator, split: SplitData) -> tuple[SplitData, Tensor]:
        return split, decision_values(self.inputs, probe.pipeline, probe.layer, split.eval_examples())


def fit_estimators(inputs: ProtocolInputs, name: str, head: Head, layers: Sequence[str]) -> ProtocolResult:
    """Return the result of the search over these layers and the setting `C`.

    Raises:
        UsageError: too many training examples for this head.
        DataError: no pair reached a finite validation score, or the training clips have one class only.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    started = time.perf_counter()
    task, task_type, valid = inputs.task, inputs.probe_task_type, inputs.valid
    assert head.estimator is not None  # the protocol trains all other heads itself
    state = task_type.fit(task, inputs.train.truths)
    examples = training_examples(task, task_type, state, inputs.train)
    if head.max_examples and len(examples.rows_R) > head.max_examples:
        raise UsageError(
            f"task {task.name!r}: {len(examples.rows_R):,} training examples are too many for the head {name} "
            f"({head.max_examples:,} at most); use --set head=logistic-regression or linear"
        )
    points = [(layer, c) for layer in layers for c in inputs.settings.C]
    fitted = []
    for layer, c in track(points, f"{name} on {task.name}", len(points)):
        pipeline = make_pipeline(StandardScaler(), head.estimator(task.task_type, c))
        pipeline.fit(_read(examples, layer), examples.targets_R)
        logits_RK = decision_values(inputs, pipeline, layer, valid.eval_examples())
        score, rule = monitored_score(task, task_type, state, valid, logits_RK[None])[0]
        fitted.append(FittedEstimator(layer, c, pipeline, score, rule))
    finite = [each for each in fitted if np.isfinite(each.score)]
    if not finite:
        raise DataError(
            f"task {task.name!r}: no C reached a finite {task.monitor} on the validation clips; look for too few clips"
        )
    best = max(finite, key=lambda each: each.score)
    choice = {"layer": best.layer, "head": name, "C": best.c, **window_choice(task, best.rule)}
    return ProtocolResult(
        predictor=_FittedEstimators(inputs, state, [best] * len(inputs.seeds), [best.rule] * len(inputs.seeds)),
        tried=len(fitted),
        grid=tuple(
            GridPoint(layer=each.layer, learning_rate=0.0, valid=each.score, epoch=0, epochs=0, settings={"C": each.c})
            for each in finite
        ),
        chosen=(choice,) * len(inputs.seeds),
        seconds={"head": time.perf_counter() - started},
    )


def decision_values(inputs: ProtocolInputs, pipeline: Any, layer: str, examples: Examples) -> Tensor:
    """Return what an estimator gives for each row, `[R, K]`."""
    x_RD = _read(examples, layer)
    if inputs.task.task_type == "regression":
        return torch.from_numpy(pipeline.predict(x_RD).reshape(len(x_RD), -1))
    values = np.asarray(pipeline.decision_function(x_RD), dtype=np.float64)
    if inputs.task.task_type == "multilabel":
        return torch.from_numpy(values.reshape(len(x_RD), -1))
    classes = pipeline.classes_
    by_class_RK = np.stack([np.zeros_like(values), values], axis=1) if len(classes) == 2 else values
    logits_RK = np.full((len(x_RD), inputs.probe_task_type.outputs(inputs.task)), -np.inf)
    logits_RK[:, classes] = by_class_RK
    return torch.from_numpy(logits_RK)


def _read(examples: Examples, layer: str) -> np.ndarray:
    return examples.take(layer, examples.rows_R).double().numpy()
