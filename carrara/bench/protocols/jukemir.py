"""JukeMIR's grid: 216 probes on one layer, over standardisation, shape, batch size, learning rate, dropout and L2.

As [castellon2021] describes and the released code runs it: a linear probe or one hidden layer of 512 units, dropout on
the input and on the hidden units, Adam with L2 in the gradient, each step on a batch drawn anew from all training rows
(there are no epochs), the task's monitored metric on validation every 8 steps from step 0 on, the best of these kept,
and a probe stops after 256 of them without a better one. The best of the grid by that metric; then the test split,
once.

The layer is one, JukeMIR's choice for Jukebox being the middle one (`--set layer=`). The released grid file also has a
shape of two hidden layers (512, 256) and so 324 points; the paper's 216 are the default here. Probes that differ in
learning rate, dropout and L2 only are trained as one stack, from the same initial weights, on the same batches.

Letters: P probes, R rows, B rows of a batch, D features, H hidden units, K outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from carrara.bench.protocols._base import (
    ProbePredictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    check_rates,
    window_choice,
)
from carrara.bench.protocols._rows import MIDDLE, find_layer, read_rows, row_windows
from carrara.bench.split_data import SplitData, monitored_score, training_examples
from carrara.bench.task_types._base import TaskType
from carrara.core.errors import DataError
from carrara.core.progress import progress
from carrara.core.record import GridPoint
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.windows import WindowSpec

BETAS, EPSILON = (0.9, 0.999), 1e-8  # PyTorch's Adam
MIN_STD = 1e-8


class JukemirSettings(Settings):
    """Settings of JukeMIR's grid; each tuple is an axis of it.

    Attributes:
        layer: `middle`, or the name of one layer: 0 to L, or cnn.
        standardise: whether features are standardised over the training rows.
        hidden: units of the hidden layer; 0 for a linear probe.
        batch_sizes: rows of a step.
        learning_rates: of Adam.
        dropouts: fraction of the input and of the hidden units that is dropped.
        l2: factor of the weights that is added to the gradient.
        check_every: steps from one validation to the next.
        patience: validations without a better score after which a probe stops.
        max_steps: after which every probe stops; 0 for no limit.
    """

    layer: str = MIDDLE
    standardise: tuple[bool, ...] = Field(default=(False, True), min_length=1)
    hidden: tuple[NonNegativeInt, ...] = Field(default=(0, 512), min_length=1)
    batch_sizes: tuple[PositiveInt, ...] = Field(default=(64, 256), min_length=1)
    learning_rates: tuple[PositiveFloat, ...] = Field(default=(1e-5, 1e-4, 1e-3), min_length=1)
    dropouts: tuple[float, ...] = Field(default=(0.25, 0.5, 0.75), min_length=1)
    l2: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 1e-4, 1e-3), min_length=1)
    check_every: int = Field(default=8, ge=1)
    patience: int = Field(default=256, ge=1)
    max_steps: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class GridStack:
    """Probes that are trained together: their common settings, and each one's learning rate, dropout and L2."""

    standardise: bool
    hidden: int
    batch_size: int
    seed: int
    points: tuple[tuple[float, float, float], ...]


@dataclass
class StackedProbe:
    """One probe of a stack: its point, its best score with step, rule for windows and weights, and when it stopped."""

    stack: GridStack
    learning_rate: float
    dropout: float
    l2: float
    score: float = -math.inf
    step: int = 0
    rule: str = ""
    weights: list[Tensor] | None = None
    unimproved: int = 0
    steps: int = 0

    def settings(self) -> dict[str, float]:
        """Return what the point differs in beside the learning rate."""
        common = {"standardise": self.stack.standardise, "hidden": self.stack.hidden}
        return common | {"batch_size": self.stack.batch_size, "dropout": self.dropout, "l2": self.l2}


@dataclass(frozen=True)
class StackProblem:
    """What the probes learn: training rows, standardised or not, targets, loss, and a score of validation logits."""

    train_RD: Tensor
    targets_R: Tensor
    valid_RD: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor], list[tuple[float, str]]]


def grid_stacks(settings: JukemirSettings, seed: int) -> list[GridStack]:
    """Return the stacks of the grid for a seed."""
    points = tuple(product(settings.learning_rates, settings.dropouts, settings.l2))
    return [
        GridStack(standardise, hidden, batch_size, seed, points)
        for standardise, hidden, batch_size in product(settings.standardise, settings.hidden, settings.batch_sizes)
    ]


def initial_weights(dim: int, hidden: int, outputs: int, seed: int) -> list[Tensor]:
    """Return weights and biases as PyTorch's linear layers draw them, transposed: `[D, H]`, `[1, H]`, …"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [dim, *([hidden] if hidden else []), outputs]
        layers = [nn.Linear(size, following) for size, following in pairwise(sizes)]
    return [tensor for layer in layers for tensor in (layer.weight.detach().T.contiguous(), layer.bias.detach()[None])]


def stacked_logits(weights: list[Tensor], x_PBD: Tensor, drop: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Return logits `[P, B, K]`; the weights have P in front, `drop` is applied to the inputs of every layer."""
    for index in range(0, len(weights), 2):
        x_PBD = torch.baddbmm(weights[index + 1], drop(x_PBD), weights[index])
        x_PBD = x_PBD.relu() if index + 2 < len(weights) else x_PBD
    return x_PBD


def train_stack(stack: GridStack, problem: StackProblem, outputs: int, settings: JukemirSettings) -> list[StackedProbe]:
    """Return the probes of a stack, each with its weights at its best validation."""
    probes = [StackedProbe(stack, *point) for point in stack.points]
    device, rows = problem.train_RD.device, len(problem.train_RD)
    batches, masks = (torch.Generator().manual_seed(stack.seed + stream) for stream in range(2))
    live = list(range(len(probes)))
    weights = [
        tensor.to(device).repeat(len(live), 1, 1)
        for tensor in initial_weights(problem.train_RD.shape[1], stack.hidden, outputs, stack.seed)
    ]
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]
    rate_P, dropout_P, l2_P = (torch.tensor(column, device=device)[:, None, None] for column in zip(*stack.points))

    def drop(x_PBD: Tensor) -> Tensor:
        uniform_BD = torch.rand(x_PBD.shape[1:], generator=masks).to(device)
        return x_PBD * (uniform_BD >= dropout_P) / (1 - dropout_P)

    step = 0
    while True:
        if step % settings.check_every == 0:
            kept = _validate(probes, live, weights, problem, settings, step)
            if len(kept) < len(live):
                live = [live[index] for index in kept]
                weights = [weight[kept] for weight in weights]
                moments = [(first[kept], second[kept]) for first, second in moments]
                rate_P, dropout_P, l2_P = rate_P[kept], dropout_P[kept], l2_P[kept]
            if not live:
                break
        rows_B = torch.randperm(rows, generator=batches)[: stack.batch_size].to(device)
        weights = [weight.requires_grad_() for weight in weights]
        x_PBD = problem.train_RD[rows_B].expand(len(live), -1, -1)
        loss = problem.loss(stacked_logits(weights, x_PBD, drop), problem.targets_R[rows_B]).sum()
        gradients = torch.autograd.grad(loss, weights)
        step += 1
        weights = [weight.detach() for weight in weights]
        for weight, gradient, (first, second) in zip(weights, gradients, moments):
            gradient = gradient + l2_P * weight
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
            weight.sub_(rate_P * first / (1 - BETAS[0] ** step) / scale)
    return probes


@torch.no_grad()
def _validate(
    probes: list[StackedProbe],
    live: list[int],
    weights: list[Tensor],
    problem: StackProblem,
    settings: JukemirSettings,
    step: int,
) -> list[int]:
    """Score the live probes, keep the weights of those with a better score; return the indices that go on."""
    if settings.max_steps and step > settings.max_steps:
        return []
    logits_PRK = stacked_logits(weights, problem.valid_RD.expand(len(live), -1, -1)).cpu()
    kept = []
    for index, (score, rule) in enumerate(problem.score(logits_PRK.nan_to_num())):
        probe = probes[live[index]]
        probe.steps = step
        if logits_PRK[index].isfinite().all() and score > probe.score:
            probe.score, probe.rule, probe.step, probe.unimproved = score, rule, step, 0
            probe.weights = [weight[index].cpu().clone() for weight in weights]
        else:
            probe.unimproved += 1
        if probe.unimproved < settings.patience:
            kept.append(index)
    return kept


@dataclass(frozen=True)
class _Scaling:
    """What is subtracted from the features of a layer and divides them, `[D]`."""

    layer: str
    mean_D: Tensor
    std_D: Tensor

    def apply(self, x_RD: Tensor, standardise: bool) -> Tensor:
        """Return the features as a probe with or without standardisation takes them."""
        return (x_RD - self.mean_D) / self.std_D if standardise else x_RD


@dataclass(frozen=True)
class _FittedGrid(ProbePredictor):
    scaling: _Scaling

    def logits(self, probe: StackedProbe, split: SplitData) -> tuple[SplitData, Tensor]:
        assert probe.weights is not None
        x_RD = self.scaling.apply(read_rows(split.eval_examples(), self.scaling.layer, "cpu"), probe.stack.standardise)
        return split, stacked_logits([weight[None] for weight in probe.weights], x_RD[None])[0]


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: JukemirSettings) -> WindowSpec:
    return row_windows(task, task_type, card, settings.layer, "jukemir")


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    started = time.perf_counter()
    task, task_type, settings, valid = inputs.task, inputs.probe_task_type, inputs.settings, inputs.valid
    layer = find_layer(tuple(inputs.train.layers), settings.layer)
    state = task_type.fit(task, inputs.train.truths)
    examples = training_examples(task, task_type, state, inputs.train)
    train_RD = read_rows(examples, layer, inputs.device)
    # As scikit-learn's scaler: a feature that does not vary is not scaled.
    std_D = train_RD.std(0, correction=0)
    std_D = torch.where(std_D > MIN_STD, std_D, torch.ones_like(std_D))
    scaling = _Scaling(layer, train_RD.mean(0), std_D)
    valid_RD = read_rows(valid.eval_examples(), layer, inputs.device)
    targets_R = torch.from_numpy(np.asarray(examples.targets_R)).to(inputs.device)
    stacks = [stack for seed in inputs.seeds for stack in grid_stacks(settings, seed)]
    probes: list[StackedProbe] = []
    with progress(f"JukeMIR's grid on {task.name}", len(stacks)) as advance:
        for stack in stacks:
            problem = StackProblem(
                scaling.apply(train_RD, stack.standardise),
                targets_R,
                scaling.apply(valid_RD, stack.standardise),
                task_type.loss,
                lambda logits_PRK: monitored_score(task, task_type, state, valid, logits_PRK),
            )
            probes += train_stack(stack, problem, task_type.outputs(task), settings)
            advance(1)
    finite = [probe for probe in probes if probe.weights is not None]
    chosen = []
    for seed in inputs.seeds:
        own = [probe for probe in finite if probe.stack.seed == seed]
        if not own:
            raise DataError(
                f"task {task.name!r}: no probe of the grid reached a finite {task.monitor} on the validation clips; "
                "look for too few clips"
            )
        chosen.append(max(own, key=lambda probe: probe.score))
    on_cpu = _Scaling(layer, scaling.mean_D.cpu(), scaling.std_D.cpu())
    return ProtocolResult(
        predictor=_FittedGrid(inputs, state, chosen, [probe.rule for probe in chosen], on_cpu),
        tried=len(probes),
        grid=tuple(
            GridPoint(
                layer=layer,
                learning_rate=probe.learning_rate,
                valid=probe.score,
                # How often the training rows were seen.
                epoch=probe.step * probe.stack.batch_size // len(train_RD),
                epochs=probe.steps * probe.stack.batch_size // len(train_RD),
                seed=probe.stack.seed,
                settings=probe.settings(),
            )
            for probe in finite
        ),
        chosen=tuple(
            {
                "layer": layer,
                "learning_rate": probe.learning_rate,
                "step": probe.step,
                **probe.settings(),
                **window_choice(task, probe.rule),
            }
            for probe in chosen
        ),
        seconds={"grid": time.perf_counter() - started},
    )


def _check_search(task: Task, settings: JukemirSettings, points: Sequence[GridPoint]) -> list[str]:
    return check_rates(points, settings.learning_rates)


PROTOCOL = Protocol("jukemir", 1, JukemirSettings, _window_spec, _run, check_search=_check_search)
