"""The interface of protocols: from training and validation clips to a predictor, without any test clip.

`carrara/bench/run.py` extracts the features that `window_spec` selects, calls `run`, predicts the clean and each
corrupted test set with the returned predictor, and scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from carrara.bench.probes.lr_schedule import ProbeHistory
from carrara.bench.split_data import LabelledSplit, SplitData, predict
from carrara.bench.task_types._base import Prediction, ProbeTaskType, State, TaskType
from carrara.core.errors import UsageError
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card, Encoder
from carrara.features.windows import WindowSpec


@dataclass(frozen=True)
class ProtocolInputs:
    """Inputs of a protocol, without the test split.

    Attributes:
        task, task_type: what is to be predicted.
        encoder: in evaluation mode, on the device; only a copy of it may be trained.
        train, valid: clips with truths, and with features unless the protocol reads audio.
        settings: of the protocol's `settings` type.
        seeds: of training; each is a complete run of the protocol.
        device: of encoder and probes.
    """

    task: Task
    task_type: TaskType
    encoder: Encoder
    train: LabelledSplit
    valid: LabelledSplit
    settings: Any
    seeds: tuple[int, ...] = (1234,)
    device: str = "cpu"

    @property
    def probe_task_type(self) -> ProbeTaskType:
        """Return the task type of a task that a probe can learn; `window_spec` refuses all others."""
        assert isinstance(self.task_type, ProbeTaskType)
        return self.task_type


class Predictor(ABC):
    """The probes that validation selected, one for each seed."""

    @abstractmethod
    def predict(self, split: SplitData) -> list[list[Prediction]]:
        """Return for each seed one prediction for each clip.

        Raises:
            DataError: a clip cannot be decoded.
        """


@dataclass(frozen=True)
class ProbePredictor(Predictor):
    """The selected probe of each seed, with the rule for a clip's windows that validation selected."""

    inputs: ProtocolInputs
    state: State
    probes: list[Any]
    rules: list[str]

    @abstractmethod
    def logits(self, probe: Any, split: SplitData) -> tuple[SplitData, Tensor]:
        """Return the rows that a probe has logits for, and their logits `[R, K]`."""

    def predict(self, split: SplitData) -> list[list[Prediction]]:
        """Return for each seed one prediction for each clip."""
        task, task_type = self.inputs.task, self.inputs.probe_task_type
        predictions_S = []
        for probe, rule in zip(self.probes, self.rules):
            rows, logits_RK = self.logits(probe, split)
            predictions_S.append(predict(task, task_type, self.state, rows, logits_RK[None], rule)[0])
        return predictions_S


@dataclass(frozen=True)
class ProtocolResult:
    """Result of a protocol.

    Attributes:
        predictor: predicts the test clips.
        tried: number of probes trained, over all seeds.
        grid: those that reached a finite validation score.
        chosen: for each seed, which of them validation chose.
        seconds: wall time by phase.
        checkpoints: folders to resume from, of no use once the record is written.
    """

    predictor: Predictor
    tried: int
    grid: tuple[GridPoint, ...]
    chosen: tuple[dict[str, Any], ...]
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoints: Sequence[Path] = ()


@dataclass(frozen=True)
class Protocol:
    """A protocol.

    Attributes:
        name: in the registry.
        version: raised whenever a score could change.
        settings: the type of its settings.
        window_spec: (task, task type, card, settings) → how the features are extracted, or None where the protocol
            reads audio. Raises UsageError where the protocol cannot run this task on this encoder.
        run: inputs → result.
        supports_corruption: whether its predictor can predict corrupted audio.
        check_search: (task, settings, points of a record's grid) → why a point lies outside of the search, one reason
            each; for records that others made (`carrara/bench/verify_record.py`).
    """

    name: str
    version: int
    settings: type[Settings]
    window_spec: Callable[[Task, TaskType, Card, Any], WindowSpec | None]
    run: Callable[[ProtocolInputs], ProtocolResult]
    supports_corruption: bool = True
    check_search: Callable[[Task, Any, Sequence[GridPoint]], list[str]] = lambda task, settings, points: []


def probe_windows(
    task: Task, frames: bool = False, cnn: bool = False, pooling: Literal["mean", "mean-std"] = "mean"
) -> WindowSpec:
    """Return the windows of a task, each a row; or with `frames` the whole clip, a row for each frame."""
    if frames:
        return WindowSpec(window_seconds=None, pool="frames", cnn=cnn)
    return WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool=pooling, cnn=cnn)


def refuse_without_probe(task: Task, task_type: TaskType) -> None:
    """Refuse a task that no probe can learn.

    Raises:
        UsageError: it is one.
    """
    if not isinstance(task_type, ProbeTaskType):
        reason = "trains no probe" if task_type.reads_features else "needs a network of its own"
        raise UsageError(f"task {task.name!r}: {task.task_type} {reason}; use --protocol constrained")


def refuse_stems_without_windows(task: Task) -> None:
    """Refuse source separation without a window to train on.

    Raises:
        UsageError: the task has none.
    """
    if task.window_seconds is None:
        raise UsageError(f"task {task.name!r}: source separation trains on windows; set window_seconds")


def refuse_without_cnn(card: Card, setting: str) -> None:
    """Refuse a setting that needs convolutional features which the encoder does not have.

    Raises:
        UsageError: it has none.
    """
    if not card.cnn_dim:
        raise UsageError(f"--set {setting}: {card.name} has no convolutional features; leave the setting out")


def check_rates(points: Sequence[GridPoint], rates: Sequence[float]) -> list[str]:
    """Return a reason for each learning rate of the points that is none of `rates`."""
    others = sorted({point.learning_rate for point in points} - set(rates))
    return [f"learning rate {rate:g} is none of the search's ({', '.join(f'{r:g}' for r in rates)})" for rate in others]


def grid_point(layer: str, learning_rate: float, seed: int, history: ProbeHistory) -> GridPoint:
    """Return the point of the grid that a training was, with the best validation score it reached."""
    return GridPoint(
        layer=layer,
        learning_rate=learning_rate,
        valid=history.best,
        epoch=history.best_epoch,
        epochs=len(history.scores),
        seed=seed,
    )


def window_choice(task: Task, rule: str) -> dict[str, str]:
    """Return the chosen rule for a clip's windows, as part of what validation chose; empty where there is no choice."""
    return {"windows": rule} if task.aggregate == "ensemble" else {}
