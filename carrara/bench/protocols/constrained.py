"""MARBLE's constrained track: a small probe on frozen features, layer and learning rate chosen on validation.

[yuan2023 §4] [notes/benchmark §2]: one hidden layer of 512 units, dropout 0.2, batches of 64, Adam, the learning rate
halved on a plateau of the monitored validation metric, early stopping; every layer and their learned weighted sum × six
learning rates; the best epoch of the best probe by that metric. Then the test split, once.

The weighted sum adds layers 0 to L, as in [yuan2023thesis] (v1's code leaves layer 0 out). An encoder of a single
layer has no sum. With `layers=transformer+cnn` the convolutional features "cnn", where the encoder has them, are one
more layer of the search, but no part of the sum; with `concat:last4` the last four layers side by side are. A probe
that never reached a finite score counts as tried but is no point of the grid. Source separation trains its own head
(`carrara/bench/separation`) in the same search; retrieval trains nothing and chooses the layer only
(`carrara/bench/retrieval.py`), by text not even that.

Two settings depart from MARBLE: `pooling=mean-std` gives the probe the standard deviation over time beside the mean,
and `standardise=true` features with mean 0 and deviation 1 over the training clips, as JukeMIR tries [castellon2021].
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import field_validator
from torch import Tensor

from carrara.bench.probes.grid import GridSettings, ProbeProblem, TrainedProbe, probe_logits, train_grid
from carrara.bench.probes.probe import ProbeSpec
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
    window_choice,
)
from carrara.bench.protocols._scale_layers import LayerScaling, measure_layers, scale_layers
from carrara.bench.retrieval import run_retrieval
from carrara.bench.split_data import SplitData, monitored_score, training_examples
from carrara.bench.task_types._base import ProbeTaskType, TaskType
from carrara.bench.text_retrieval import run_text_retrieval
from carrara.core.errors import DataError, UsageError
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.encode import CNN
from carrara.features.windows import WindowSpec

LEARNING_RATES = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
HIDDEN, DROPOUT, BATCH = 512, 0.2, 64
SUM = "weighted-sum"
TRANSFORMER_CNN = "transformer+cnn"
CONCAT = re.compile(r"concat:last([1-9][0-9]?)")
S = TypeVar("S", bound=SplitData)


class LayerSettings(Settings):
    """Settings of a search over layers.

    Attributes:
        layers: what is tried, with commas: `transformer`, layers 0 to L and their weighted sum, as MARBLE;
            `transformer+cnn`, the convolutional features too; `concat:last4`, the last four layers side by side.
        pooling: what a window's frames become: their `mean`, as MARBLE; `mean-std`, their mean and standard deviation
            side by side, twice as many numbers.
    """

    layers: str = "transformer"
    pooling: Literal["mean", "mean-std"] = "mean"

    @field_validator("layers", mode="before")
    @classmethod
    def _check_layers(cls, text: Any) -> str:
        for part in str(text).split(","):
            if part not in ("transformer", TRANSFORMER_CNN) and not CONCAT.fullmatch(part):
                raise ValueError(
                    f"{part!r} is none of transformer, {TRANSFORMER_CNN} and concat:last4 (or another number)"
                )
        return str(text)

    def parts(self) -> list[str]:
        """Return what is tried."""
        return self.layers.split(",")

    def concatenated(self) -> list[int]:
        """Return of how many last layers the concatenations are."""
        return [int(match[1]) for match in map(CONCAT.fullmatch, self.parts()) if match]


class SearchSettings(LayerSettings):
    """Settings of a search over layers and learning rates.

    Attributes:
        layers: what is tried, with commas: `transformer`, layers 0 to L and their weighted sum, as MARBLE;
            `transformer+cnn`, the convolutional features too; `concat:last4`, the last four layers side by side.
        pooling: what a window's frames become: their `mean`, as MARBLE; `mean-std`, their mean and standard deviation
            side by side, twice as many numbers.
        standardise: whether each number of the features is standardised over the training clips' rows; MARBLE's is not.
    """

    standardise: bool = False


@dataclass(frozen=True)
class LayerConcat:
    """The matrices of several layers side by side, read when rows are taken."""

    matrices: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of rows and the sum of the layers' dimensions."""
        return len(self.matrices[0]), sum(int(matrix.shape[1]) for matrix in self.matrices)

    @property
    def dtype(self) -> Any:
        """Return the type of the numbers."""
        return self.matrices[0].dtype

    def __len__(self) -> int:
        return len(self.matrices[0])

    def __getitem__(self, rows_R: Any) -> np.ndarray:
        return np.concatenate([np.asarray(matrix[rows_R]) for matrix in self.matrices], axis=-1)


def searched_layers(split: S, settings: LayerSettings) -> S:
    """Return the split with the layers that a search tries, in order, those of concatenations made of the others."""
    layers = dict(split.layers)
    numbered = [name for name in layers if name != CNN]
    if not any(part.startswith("transformer") for part in settings.parts()):
        layers = {}
    for count in settings.concatenated():
        last = tuple(split.layers[name] for name in numbered[-count:])
        layers[f"concat:last{count}"] = LayerConcat(last)
    return replace(split, layers=layers)


def grid_window_spec(task: Task, task_type: TaskType, card: Card, settings: LayerSettings) -> WindowSpec | None:
    """Return the windows of a search over layers; None means none, for source separation, which reads audio.

    Raises:
        UsageError: `transformer+cnn` for an encoder without convolutional features or for source separation, or source
            separation without windows.
    """
    cnn = TRANSFORMER_CNN in settings.parts()
    if cnn:
        refuse_without_cnn(card, "layers=transformer+cnn")
    if max(settings.concatenated(), default=0) > card.num_layers + 1:
        raise UsageError(
            f"--set layers={settings.layers}: {card.name} has {card.num_layers + 1} layers; concatenate so many at most"
        )
    if not task_type.reads_features:
        refuse_stems_without_windows(task)
        changed = [name for name, value in settings if value != type(settings).model_fields[name].default]
        if changed:
            names = " and ".join(f"--set {name}" for name in changed)
            raise UsageError(f"task {task.name!r}: source separation reads layers 0 to L; leave {names} out")
        return None
    if settings.pooling != "mean" and (task_type.frame_level or task_type.has_text_queries):
        reads = "each frame alone" if task_type.frame_level else "the joint space"
        raise UsageError(f"task {task.name!r}: {task.task_type} reads {reads}; leave --set pooling out")
    if getattr(settings, "standardise", False) and not isinstance(task_type, ProbeTaskType):
        tries = "nothing is trained" if task_type.has_text_queries else "it tries standardised features by itself"
        raise UsageError(f"task {task.name!r}: {task.task_type}: {tries}; leave --set standardise out")
    return probe_windows(task, frames=task_type.frame_level, cnn=cnn, pooling=settings.pooling)


def grid_points(layers: tuple[str, ...], seeds: tuple[int, ...]) -> list[ProbeSpec]:
    """Return every point of the search over these layers, for every seed."""
    summed = tuple(name for name in layers if name != CNN and not CONCAT.fullmatch(name))
    sources: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in layers]
    if len(summed) > 1:
        sources.append((SUM, summed))
    return [ProbeSpec(name, names, rate, seed) for seed in seeds for name, names in sources for rate in LEARNING_RATES]


def check_layers(task: Task, settings: LayerSettings, points: Sequence[GridPoint]) -> list[str]:
    """Return a reason for each layer of the points that no search of these settings tries."""
    parts = settings.parts()
    named = {f"concat:last{count}" for count in settings.concatenated()} | (
        {CNN} if TRANSFORMER_CNN in parts else set()
    )
    if any(part.startswith("transformer") for part in parts):
        named |= {SUM, *(point.layer for point in points if point.layer.isdecimal())}
    others = sorted({point.layer for point in points} - named)
    return [f"layer {layer!r} is not tried with layers={settings.layers}" for layer in others]


def check_search(task: Task, settings: LayerSettings, points: Sequence[GridPoint]) -> list[str]:
    """Return why points lie outside of the search: their layers, learning rates, epochs or number."""
    if task.task_type == "retrieval":  # two scalings of each layer, nothing is trained
        return [*check_layers(task, settings, points), *check_rates(points, (0.0,))]
    problems = [*check_layers(task, settings, points), *check_rates(points, LEARNING_RATES)]
    if longest := max((point.epochs for point in points if point.epochs > task.max_epochs), default=0):
        problems.append(f"{longest} epochs are more than the task's {task.max_epochs}")
    if len({(point.layer, point.learning_rate, point.seed) for point in points}) < len(points):
        problems.append("a layer and learning rate were tried twice with one seed")
    return problems


def run_search(inputs: ProtocolInputs, hidden: int, dropout: float) -> ProtocolResult:
    """Train a probe at every point of the grid, all in one pass, and choose one for each seed on validation.

    Args:
        inputs: of the protocol.
        hidden: units of the probe's hidden layer; 0 for a linear probe.
        dropout: of the hidden units.

    Raises:
        DataError: no probe reached a finite validation score.
    """
    started = time.perf_counter()
    task, task_type, valid = inputs.task, inputs.probe_task_type, searched_layers(inputs.valid, inputs.settings)
    train = searched_layers(inputs.train, inputs.settings)
    scaling = measure_layers(train) if inputs.settings.standardise else {}
    train, valid = scale_layers(train, scaling), scale_layers(valid, scaling)
    state = task_type.fit(task, inputs.train.truths)
    problem = ProbeProblem(
        training_examples(task, task_type, state, train),
        valid.eval_examples(),
        task_type.loss,
        lambda logits_PRK: [score for score, _ in monitored_score(task, task_type, state, valid, logits_PRK)],
    )
    settings = GridSettings(
        outputs=task_type.outputs(task),
        hidden=hidden,
        dropout=dropout,
        batch_size=BATCH,
        max_epochs=task.max_epochs,
        plateau_patience=task.plateau_patience,
        stop_patience=task.stop_patience,
        device=inputs.device,
    )
    trained = train_grid(problem, grid_points(tuple(train.layers), inputs.seeds), settings)
    chosen, rules = [], []
    for seed in inputs.seeds:
        best = select_best(task, [probe for probe in trained if probe.spec.seed == seed])
        logits_RK = probe_logits(best, valid.eval_examples())
        chosen.append(best)
        rules.append(monitored_score(task, task_type, state, valid, logits_RK[None])[0][1])
    return ProtocolResult(
        predictor=_FittedProbes(inputs, state, chosen, rules, scaling),
        tried=len(trained),
        grid=tuple(
            grid_point(probe.spec.layer, probe.spec.learning_rate, probe.spec.seed, probe.history)
            for probe in trained
            if probe.best_N is not None
        ),
        chosen=tuple(
            {
                "layer": probe.spec.layer,
                "learning_rate": probe.spec.learning_rate,
                "epoch": probe.history.best_epoch,
                **window_choice(task, rule),
            }
            for probe, rule in zip(chosen, rules)
        ),
        seconds={"probe": time.perf_counter() - started},
    )


def select_best(task: Task, trained: list[TrainedProbe]) -> TrainedProbe:
    """Return the probe with the best monitored validation score; the first of equals.

    Raises:
        DataError: none has a finite one.
    """
    finite = [probe for probe in trained if probe.best_N is not None]
    if not finite:
        raise DataError(
            f"task {task.name!r}: no probe reached a finite {task.monitor} on the validation clips; "
            "look for features that are not finite, or for too few clips"
        )
    return max(finite, key=lambda probe: probe.history.best)


def run_stems(inputs: ProtocolInputs, **changes: Any) -> ProtocolResult:
    """Train separation heads, MARBLE's or registered ones, at every point of the grid and choose one for each seed.

    Args:
        inputs: of the protocol.
        changes: to the task's `SeparationSettings`, by name: `head="linear"`.

    Raises:
        UsageError: the encoder has no frames.
        DataError: a song cannot be read, or no point reached a finite score.
    """
    from carrara.bench.separation.run import run_separation

    layers = tuple(str(layer) for layer in range(inputs.encoder.card.num_layers + 1))
    return run_separation(inputs, grid_points(layers, inputs.seeds), **changes)


@dataclass(frozen=True)
class _FittedProbes(ProbePredictor):
    scaling: Mapping[str, LayerScaling]

    def logits(self, probe: TrainedProbe, split: SplitData) -> tuple[SplitData, Tensor]:
        searched = scale_layers(searched_layers(split, self.inputs.settings), self.scaling)
        return split, probe_logits(probe, searched.eval_examples())


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    if not inputs.task_type.reads_features:
        return run_stems(inputs)
    if inputs.task_type.has_text_queries:
        return run_text_retrieval(inputs)
    if not isinstance(inputs.task_type, ProbeTaskType):
        if inputs.settings.concatenated():
            raise UsageError(f"task {inputs.task.name!r}: retrieval compares layers; leave --set layers=concat out")
        return run_retrieval(inputs)
    return run_search(inputs, HIDDEN, DROPOUT)


PROTOCOL = Protocol("constrained", 1, SearchSettings, grid_window_spec, _run, check_search=check_search)
