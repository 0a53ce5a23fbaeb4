"""The loop that trains one head on frozen features: steps, the watched score after each epoch, the best epoch kept.

AdamW (Loshchilov & Hutter 2019; without weight decay it is Adam), the rate halved on a plateau of the watched score and
training stopped early, as for the probes of the constrained track. Features are read batch by batch from where they
are stored. A step whose padded rows would fill more than `BLOCK_BYTES` is taken in parts, whose gradients are added, so
memory does not grow with the recordings' length unless a single example is longer. All draws (first weights, order,
dropout) come from the seed.

Letters: N examples, R rows, L layers, D features, B examples of a part, F rows of the longest of them, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.examples import Examples
from carrara.bench.probes.heads._base import Head, HeadShape, Reader
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.rng import epoch_permutation, initial_generator

BLOCK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class HeadProblem:
    """What a head is asked.

    Attributes:
        train: examples with a target for each row (where an example has one answer, the same for all of its rows).
        valid: examples to answer.
        loss: (logits [1, R, K], targets [R, …]) → [1], a mean over the rows.
        watched: validation logits [1, R, K], on the CPU → the watched score, higher is better, and the rule that joins
            a clip's windows.
    """

    train: Examples
    valid: Examples
    loss: Callable[[Tensor, Tensor], Tensor]
    monitor: Callable[[Tensor], tuple[float, str]]


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained: what it hears (several layers: their learned sum), its rate, its epochs, its seed."""

    layer: str
    sources: tuple[str, ...]
    learning_rate: float
    seed: int
    weight_decay: float = 0.0
    batch: int = 64
    max_epochs: int = 100
    plateau_patience: int = 5
    stop_patience: int = 20
    device: str = "cpu"


@dataclass
class TrainedHead:
    """One head after training: its course, and at its best epoch the rule and the weights (none: no epoch was finite).

    The weights are on the CPU.
    """

    training: HeadTraining
    history: ProbeHistory
    reader: Reader
    best: dict[str, Tensor] | None = None
    rule: str = ""


def train_head(
    head: Head,
    shape: HeadShape,
    question: HeadProblem,
    how: HeadTraining,
    advance: Callable[..., None] = lambda amount=1, note="": None,
) -> TrainedHead:
    """Return a head trained, at its best epoch by the watched score.

    Args:
        head: which.
        shape: of its network.
        question: what it is asked.
        how: it is trained.
        advance: told of epochs that are settled.
    """
    course = ProbeHistory(Plateau(how.learning_rate, how.plateau_patience), how.stop_patience, how.max_epochs)
    with torch.random.fork_rng():
        torch.manual_seed(initial_generator(how.seed, how.layer, how.learning_rate).initial_seed())
        trained = TrainedHead(how, course, Reader(head, shape, len(how.sources)).to(how.device))
        adam = torch.optim.AdamW(trained.reader.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
        while not course.stopped:
            epoch = len(course.scores)
            loss = _epoch(trained, question, adam, epoch)
            logits_RK = _logits(trained.reader, question.valid, how)
            score, rule = question.monitor(logits_RK.nan_to_num()[None])
            if course.update(loss, score if logits_RK.isfinite().all() else -np.inf):
                trained.best = {name: one.to("cpu", copy=True) for name, one in trained.reader.state_dict().items()}
                trained.rule = rule
            for group in adam.param_groups:
                group["lr"] = course.plateau.learning_rate
            advance(1, f"loss {loss:.3f}, {score:.3f} on valid")
    advance(how.max_epochs - len(course.scores))
    trained.reader.cpu()
    return trained


def head_logits(trained: TrainedHead, examples: Examples) -> Tensor:
    """Return the logits of a trained head, on the CPU: `[R, K]`, or `[N, K]` where examples have one answer each.

    Raises:
        ValueError: the head never reached a finite score.
    """
    if trained.best is None:
        raise ValueError(f"the head {trained.training} never reached a finite score")
    trained.reader.load_state_dict(trained.best)
    try:
        return _logits(trained.reader.to(trained.training.device), examples, trained.training)
    finally:
        trained.reader.cpu()


def _epoch(trained: TrainedHead, question: HeadProblem, adam: torch.optim.Optimizer, epoch: int) -> float:
    """Take an epoch's steps and return the mean loss."""
    reader, how, train = trained.reader.train(), trained.training, question.train
    if train.targets_R is None:
        raise ValueError("examples without targets cannot be trained on")
    starts_N = np.cumsum(train.counts_N) - train.counts_N
    visits_N = epoch_permutation(how.seed, epoch, len(train.counts_N))
    total = counted = 0.0
    for low in range(0, len(visits_N), how.batch):
        picks = visits_N[low : low + how.batch]
        # Neighbours of about the same length need little padding, and the order within a step is free.
        picks = picks[np.argsort(train.counts_N[picks], kind="stable")]
        answered = int(train.counts_N[picks].sum()) if reader.each_row else len(picks)
        adam.zero_grad()
        for part in _parts(train, picks, how.sources):
            rows = _rows(train, part, starts_N)
            wanted = rows if reader.each_row else starts_N[part]
            target = torch.from_numpy(train.targets_R[wanted]).to(how.device)
            loss = question.loss(_heard(reader, train, part, rows, how)[None], target)[0]
            (loss * len(wanted) / answered).backward()
            total, counted = total + loss.item() * len(wanted), counted + len(wanted)
        adam.step()
    return total / counted


@torch.no_grad()
def _logits(reader: Reader, examples: Examples, how: HeadTraining) -> Tensor:
    reader.eval()
    starts_N = np.cumsum(examples.counts_N) - examples.counts_N
    return torch.cat(
        [
            _heard(reader, examples, part, _rows(examples, part, starts_N), how).cpu()
            for part in _parts(examples, np.arange(len(examples.counts_N)), how.sources)
        ]
    )


def _heard(reader: Reader, examples: Examples, part: np.ndarray, rows: np.ndarray, how: HeadTraining) -> Tensor:
    """Return the reader's logits for some examples, whose rows are given one example after the other."""
    counts_B = torch.from_numpy(examples.counts_N[part]).to(how.device)
    known_BF = torch.arange(int(examples.counts_N[part].max()), device=how.device) < counts_B[:, None]
    return reader(examples.fetch(how.sources, examples.rows_R[rows], torch.device(how.device)), known_BF)


def _parts(examples: Examples, picks: np.ndarray, sources: tuple[str, ...]) -> Iterator[np.ndarray]:
    """Yield the examples in stretches whose padded rows of all layers fill a block at most, or that are one example."""
    room = BLOCK_BYTES // (4 * sum(examples.width(name) for name in sources))
    low = longest = 0
    for place, count in enumerate(examples.counts_N[picks].tolist()):
        if place > low and (place + 1 - low) * max(longest, count) > room:
            yield picks[low:place]
            low, longest = place, 0
        longest = max(longest, count)
    yield picks[low:]


def _rows(examples: Examples, part: np.ndarray, starts_N: np.ndarray) -> np.ndarray:
    """Return which of the examples' rows are those of a stretch, one example after the other."""
    return np.concatenate([np.arange(starts_N[one], starts_N[one] + examples.counts_N[one]) for one in part])
