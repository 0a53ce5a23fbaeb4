"""MAEST's probe: one hidden layer of 512 units, dropout 0.5, AdamW with warm-up, the best epoch on validation.

[notes/encoders §1.7] [alonso2023]: batches of 128 in the order of the training clips (the released loader does not
shuffle), AdamW with weight decay 1e-3, at most 1e-4 as learning rate: rising as exp(-5 (1 - e/10)²) over 10 epochs,
then linearly to 1e-7 of it at epoch 60; the best epoch by the task's monitored metric. Nothing is searched.

The mean of the weights after each epoch from `average_from` on is one more candidate, which validation may choose.
MAEST averages the weights of its pre-training so, every fifth epoch from 50 of 130 on [notes/encoders §1.5]; which
epochs its probe averages is not known here, so the last half is our choice and `average_from=0` leaves it out. The
layer is a choice too: the poster's best is the seventh of twelve (`--set layer=7`).

Letters: R rows, D features, K outputs.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from carrara.bench.protocols._base import ProbePredictor, Protocol, ProtocolInputs, ProtocolResult, window_choice
from carrara.bench.protocols._rows import MIDDLE, find_layer, read_rows, row_windows
from carrara.bench.split_data import SplitData, monitored_score, training_examples
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import DataError
from carrara.core.progress import track
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.windows import WindowSpec

FIRST_EPOCH = 0.5  # as which epoch 0 counts in the warm-up
LAST_FACTOR = 1e-7


class MaestProbeSettings(Settings):
    """Settings of MAEST's probe.

    Attributes:
        layer: `middle`, or the name of one layer: 0 to L, or cnn.
        learning_rate: the highest, after the warm-up.
        weight_decay: of AdamW.
        dropout: fraction of the hidden units that is dropped.
        hidden: units of the hidden layer.
        batch_size: rows of a step.
        epochs: of training.
        warmup_epochs: over which the learning rate rises.
        average_from: epoch from which on the weights are averaged; 0 for no average.
        shuffle: whether each epoch has an order of its own; the released loader has one order.
    """

    layer: str = MIDDLE
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    hidden: int = Field(default=512, ge=1)
    batch_size: int = Field(default=128, ge=1)
    epochs: int = Field(default=60, ge=1)
    warmup_epochs: int = Field(default=10, ge=0)
    average_from: int = Field(default=30, ge=0)
    shuffle: bool = False


@dataclass(frozen=True)
class _Candidate:
    """A network with its validation score, the best rule for windows, its epoch, and whether it is the average."""

    network: nn.Module
    score: float
    rule: str
    epoch: int
    seed: int
    is_average: bool


def rate_factor(epoch: int, settings: MaestProbeSettings) -> float:
    """Return by what the learning rate is multiplied in an epoch, counted from 0."""
    warmup, last = settings.warmup_epochs, settings.epochs
    if epoch < warmup:
        return math.exp(-5 * (1 - max(epoch, FIRST_EPOCH) / warmup) ** 2)
    done = (epoch - warmup) / max(last - warmup, 1)
    return 1 - done * (1 - LAST_FACTOR)


def build_network(dim: int, outputs: int, settings: MaestProbeSettings) -> nn.Sequential:
    """Return the probe with PyTorch's random weights."""
    return nn.Sequential(
        nn.Linear(dim, settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, outputs),
    )


@dataclass(frozen=True)
class _FittedNetworks(ProbePredictor):
    layer: str

    def logits(self, probe: _Candidate, split: SplitData) -> tuple[SplitData, Tensor]:
        return split, _eval_logits(probe.network, read_rows(split.eval_examples(), self.layer, "cpu"))


@torch.no_grad()
def _eval_logits(network: nn.Module, x_RD: Tensor) -> Tensor:
    return network.eval()(x_RD).cpu()


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: MaestProbeSettings) -> WindowSpec:
    return row_windows(task, task_type, card, settings.layer, "maest")


def _train(inputs: ProtocolInputs, layer: str, seed: int) -> list[_Candidate]:
    """Return the best epoch of a training and the average of its last epochs, those whose score is finite."""
    task, task_type, settings, valid = inputs.task, inputs.probe_task_type, inputs.settings, inputs.valid
    state = task_type.fit(task, inputs.train.truths)
    examples = training_examples(task, task_type, state, inputs.train)
    train_RD = read_rows(examples, layer, inputs.device)
    targets_R = torch.from_numpy(np.asarray(examples.targets_R)).to(inputs.device)
    valid_RD = read_rows(valid.eval_examples(), layer, inputs.device)

    def score(network: nn.Module) -> tuple[float, str]:
        logits_RK = _eval_logits(network, valid_RD)
        value, rule = monitored_score(task, task_type, state, valid, logits_RK.nan_to_num()[None])[0]
        return (value if logits_RK.isfinite().all() else -math.inf), rule

    best: _Candidate | None = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(train_RD.shape[1], task_type.outputs(task), settings).to(inputs.device)
        average = AveragedModel(network)
        adam = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda epoch: rate_factor(epoch, settings))
        for epoch in track(range(settings.epochs), f"MAEST's probe on {task.name}", settings.epochs):
            network.train()
            order_R = torch.randperm(len(train_RD)) if settings.shuffle else torch.arange(len(train_RD))
            for rows_B in order_R.to(inputs.device).split(settings.batch_size):
                adam.zero_grad()
                task_type.loss(network(train_RD[rows_B])[None], targets_R[rows_B])[0].backward()
                adam.step()
            schedule.step()
            value, rule = score(network)
            if value > (best.score if best else -math.inf):
                best = _Candidate(copy.deepcopy(network).cpu(), value, rule, epoch, seed, False)
            if settings.average_from and epoch >= settings.average_from:
                average.update_parameters(network)
    candidates = [best] if best else []
    if int(average.n_averaged):
        value, rule = score(average)
        candidates.append(_Candidate(average.module.cpu(), value, rule, settings.epochs - 1, seed, True))
    return [candidate for candidate in candidates if math.isfinite(candidate.score)]


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    started = time.perf_counter()
    task, settings = inputs.task, inputs.settings
    layer = find_layer(tuple(inputs.train.layers), settings.layer)
    by_seed = [_train(inputs, layer, seed) for seed in inputs.seeds]
    if not all(by_seed):
        raise DataError(
            f"task {task.name!r}: the probe reached no finite {task.monitor} on the validation clips; set a lower "
            "learning_rate, or look for too few clips"
        )
    chosen = [max(candidates, key=lambda candidate: candidate.score) for candidates in by_seed]
    state = inputs.probe_task_type.fit(task, inputs.train.truths)
    return ProtocolResult(
        predictor=_FittedNetworks(inputs, state, chosen, [candidate.rule for candidate in chosen], layer),
        tried=len(by_seed),
        grid=tuple(
            GridPoint(
                layer=layer,
                learning_rate=settings.learning_rate,
                valid=candidate.score,
                epoch=candidate.epoch,
                epochs=settings.epochs,
                seed=candidate.seed,
                settings={"average": candidate.is_average},
            )
            for candidates in by_seed
            for candidate in candidates
        ),
        chosen=tuple(
            {
                "layer": layer,
                "epoch": candidate.epoch,
                "average": candidate.is_average,
                **window_choice(task, candidate.rule),
            }
            for candidate in chosen
        ),
        seconds={"probe": time.perf_counter() - started},
    )


PROTOCOL = Protocol("maest", 1, MaestProbeSettings, _window_spec, _run)
