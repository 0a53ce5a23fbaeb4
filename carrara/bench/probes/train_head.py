"""Trains one head on frozen features: steps, the monitored score after each epoch, the best epoch kept.

AdamW [loshchilov2019] (without weight decay it is Adam), the learning rate halved on a plateau of the monitored score
and early stopping, as for the probes of the constrained track. Features are read batch by batch from the store. A step
whose padded rows would fill more than `BLOCK_BYTES` is taken in micro-batches whose gradients add up, so memory does
not grow with the recordings' length unless a single example is longer. All draws (initial weights, order, dropout)
come from the seed.

Letters: N examples, R rows, L layers, D features, B examples of a micro-batch, F rows of the longest of them, K
outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads._base import Head, HeadNetwork, HeadShape
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.rng import epoch_permutation, initial_generator

BLOCK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class HeadProblem:
    """What a head learns.

    Attributes:
        train: examples with a target for each row (the same for all rows of an example with one prediction).
        valid: examples to predict.
        loss: (logits [1, R, K], targets [R, …]) → [1], a mean over the rows.
        monitor: validation logits [1, R, K], on the CPU → the monitored score, higher is better, and the rule that
            combines a clip's windows.
    """

    train: Examples
    valid: Examples
    loss: Callable[[Tensor, Tensor], Tensor]
    monitor: Callable[[Tensor], tuple[float, str]]


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained: layer, the layers that are summed for it, learning rate, seed, schedule."""

    layer: str
    sources: tuple[str, ...]
    learning_rate: float
    seed: int
    weight_decay: float = 0.0
    batch_size: int = 64
    max_epochs: int = 100
    plateau_patience: int = 5
    stop_patience: int = 20
    device: str = "cpu"


@dataclass
class TrainedHead:
    """One head after training.

    Attributes:
        training: how it was trained.
        history: its losses and scores.
        network: on the CPU.
        best: its weights at the best epoch, on the CPU; None if no epoch was finite.
        rule: the rule that combines a clip's windows, at the best epoch.
    """

    training: HeadTraining
    history: ProbeHistory
    network: HeadNetwork
    best: dict[str, Tensor] | None = None
    rule: str = ""


def train_head(
    head: Head,
    shape: HeadShape,
    problem: HeadProblem,
    training: HeadTraining,
    advance: Callable[..., None] = lambda amount=1, note="": None,
) -> TrainedHead:
    """Return a head trained, with its weights at its best epoch by the monitored score.

    Args:
        head: the kind of head.
        shape: of its network.
        problem: what it learns.
        training: how it is trained.
        advance: called with the number of epochs that are done or not needed any more, and a note.
    """
    history = ProbeHistory(
        Plateau(training.learning_rate, training.plateau_patience), training.stop_patience, training.max_epochs
    )
    with torch.random.fork_rng():
        torch.manual_seed(initial_generator(training.seed, training.layer, training.learning_rate).initial_seed())
        network = HeadNetwork(head, shape, len(training.sources)).to(training.device)
        trained = TrainedHead(training, history, network)
        adam = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
        while not history.stopped:
            loss = _train_epoch(trained, problem, adam, len(history.scores))
            logits_RK = _eval_logits(network, problem.valid, training)
            score, rule = problem.monitor(logits_RK.nan_to_num()[None])
            if history.update(loss, score if logits_RK.isfinite().all() else -np.inf):
                trained.best = {name: tensor.to("cpu", copy=True) for name, tensor in network.state_dict().items()}
                trained.rule = rule
            for group in adam.param_groups:
                group["lr"] = history.plateau.learning_rate
            advance(1, f"loss {loss:.3f}, {score:.3f} on valid")
    advance(training.max_epochs - len(history.scores))
    network.cpu()
    return trained


def head_logits(trained: TrainedHead, examples: Examples) -> Tensor:
    """Return the logits of a trained head, on the CPU: `[R, K]`, or `[N, K]` where an example has them together.

    Raises:
        ValueError: the head never reached a finite score.
    """
    if trained.best is None:
        raise ValueError(f"the head {trained.training} never reached a finite score")
    trained.network.load_state_dict(trained.best)
    try:
        return _eval_logits(trained.network.to(trained.training.device), examples, trained.training)
    finally:
        trained.network.cpu()


def _train_epoch(trained: TrainedHead, problem: HeadProblem, adam: torch.optim.Optimizer, epoch: int) -> float:
    """Take the steps of an epoch and return the mean loss."""
    network, training, train = trained.network.train(), trained.training, problem.train
    if train.targets_R is None:
        raise ValueError("examples without targets cannot be trained on")
    starts_N = np.cumsum(train.counts_N) - train.counts_N
    order_N = epoch_permutation(training.seed, epoch, len(train.counts_N))
    loss_sum = weight_sum = 0.0
    for low in range(0, len(order_N), training.batch_size):
        picks = order_N[low : low + training.batch_size]
        # Neighbours of about the same length need little padding, and the order within a step is free.
        picks = picks[np.argsort(train.counts_N[picks], kind="stable")]
        step_targets = int(train.counts_N[picks].sum()) if network.each_row else len(picks)
        adam.zero_grad()
        for picks_B, rows in _micro_batches(train, picks, training.sources):
            target_rows = rows if network.each_row else starts_N[picks_B]
            target = torch.from_numpy(train.targets_R[target_rows]).to(training.device)
            loss = problem.loss(_logits(network, train, picks_B, rows, training)[None], target)[0]
            (loss * len(target_rows) / step_targets).backward()
            loss_sum, weight_sum = loss_sum + loss.item() * len(target_rows), weight_sum + len(target_rows)
        adam.step()
    return loss_sum / weight_sum


@torch.no_grad()
def _eval_logits(network: HeadNetwork, examples: Examples, training: HeadTraining) -> Tensor:
    network.eval()
    picks = np.arange(len(examples.counts_N))
    return torch.cat(
        [
            _logits(network, examples, picks_B, rows, training).cpu()
            for picks_B, rows in _micro_batches(examples, picks, training.sources)
        ]
    )


def _logits(
    network: HeadNetwork, examples: Examples, picks_B: np.ndarray, rows: np.ndarray, training: HeadTraining
) -> Tensor:
    counts_B = torch.from_numpy(examples.counts_N[picks_B]).to(training.device)
    valid_BF = torch.arange(int(examples.counts_N[picks_B].max()), device=training.device) < counts_B[:, None]
    x_LRD = examples.fetch(training.sources, examples.rows_R[rows], torch.device(training.device))
    return network(x_LRD, valid_BF)


def _micro_batches(
    examples: Examples, picks: np.ndarray, sources: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield examples and their rows, one example after the other.

    The padded rows of all layers fill `BLOCK_BYTES` at most, or the micro-batch is a single example.
    """
    starts_N = np.cumsum(examples.counts_N) - examples.counts_N
    max_rows = BLOCK_BYTES // (4 * sum(examples.dim(layer) for layer in sources))
    bounds, longest = [0], 0
    for index, count in enumerate(examples.counts_N[picks].tolist()):
        if index > bounds[-1] and (index + 1 - bounds[-1]) * max(longest, count) > max_rows:
            bounds.append(index)
            longest = 0
        longest = max(longest, count)
    for low, high in zip(bounds, [*bounds[1:], len(picks)]):
        picks_B = picks[low:high]
        yield picks_B, np.concatenate([np.arange(starts_N[i], starts_N[i] + examples.counts_N[i]) for i in picks_B])
