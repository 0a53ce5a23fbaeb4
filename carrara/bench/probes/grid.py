"""The probe grid: every layer and their weighted sum × every learning rate, trained as stacked models.

MARBLE's constrained track asks for 84 probes of a 95M encoder and 156 of a 330M one, and trains each in a process of
its own. They share the order of the data and the dropped units, so they can share the work: one stack a kind of input
on a GPU, where a lone probe is bound by kernel launches. On a CPU a step is bound by the matrix rate and by Adam's
traffic, and 84 probes' state (590 MB) would fall out of the caches; so there a stack holds the learning rates of one
layer, which share the fetched rows and the draws, and its probes take a block of steps one after the other with their
state in cache, on as many threads as PyTorch may use, each computing alone (no barriers between small products).

Every probe gets what it would get alone, to float tolerance. Probes that have stopped leave their stack. Probes of
several seeds share the pass over the store but not the draws, so each seed has stacks of its own.

Letters: P probes, N parameters of a probe, R rows, B rows of a batch, D features, K outputs.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.examples import BLOCK_BYTES, Cutting, Dropout, Examples, blocks
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape, ProbeSpec
from carrara.bench.probes.stack import Loss, ProbeStack, logits
from carrara.core.progress import progress

CPU_BATCH_ROWS, GPU_BATCH_ROWS = 1024, 8192
Score = Callable[[Tensor], list[float]]


@dataclass(frozen=True)
class GridSettings:
    """How the probes of a grid are trained; all of it shared by them."""

    outputs: int
    hidden: int = 512
    dropout: float = 0.2
    batch: int = 64
    max_epochs: int = 100
    plateau_patience: int = 5
    stop_patience: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class ProbeProblem:
    """What all probes are asked: training examples, validation rows, the loss, the watched score.

    Attributes:
        train: examples with targets.
        valid: rows to answer for.
        loss: (logits [P, B, K], targets [B, …]) → [P].
        score: validation logits [P, R, K], on the CPU → the watched score of each probe, higher is better.
    """

    train: Examples
    valid: Examples
    loss: Loss
    score: Score


@dataclass(frozen=True)
class TrainedProbe:
    """One probe after training: its course and its parameters at its best epoch (none if no epoch was finite)."""

    spec: ProbeSpec
    shape: ProbeShape
    history: ProbeHistory
    best_N: Tensor | None


def train_grid(question: ProbeProblem, specs: list[ProbeSpec], settings: GridSettings) -> list[TrainedProbe]:
    """Return every probe trained, in the order of `specs`."""
    device = torch.device(settings.device)
    sources = _sources(specs)
    question = replace(
        question,
        train=_resident(question.train, sources, device),
        valid=_resident(question.valid, sources, device),
    )
    every = [_Run(question, group, shape, settings) for shape, group in _groups(question.train, specs, settings)]
    with progress("probes", len(specs) * settings.max_epochs) as advance, _one_thread_each(device) as width:
        _work_off(deque(every), width, lambda run: advance(run.epoch(), note=f"{sum(len(r.rows) for r in every)} left"))
    done = {trained.spec: trained for run in every for trained in run.results()}
    return [done[spec] for spec in specs]


def probe_logits(trained: TrainedProbe, examples: Examples, device: str = "cpu") -> Tensor:
    """Return the logits `[R, K]` of a trained probe for rows, on the CPU.

    Raises:
        ValueError: the probe never reached a finite score.
    """
    if trained.best_N is None:
        raise ValueError(f"the probe {trained.spec} never reached a finite score")
    place = torch.device(device)
    flat_PN = trained.best_N[None].to(place)
    with torch.no_grad():
        return _answer_cuts([([trained.spec], flat_PN)], trained.shape, examples, place)[0][0]


class _Run:
    """One stack on its way through the epochs."""

    def __init__(
        self, question: ProbeProblem, specs: list[ProbeSpec], shape: ProbeShape, settings: GridSettings
    ) -> None:
        self.question, self.shape, self.settings = question, shape, settings
        self.device = torch.device(settings.device)
        self.stack = ProbeStack(specs, shape, self.device)
        self.rows = list(range(len(specs)))
        self.specs = specs
        self.courses = [
            ProbeHistory(
                Plateau(spec.learning_rate, settings.plateau_patience), settings.stop_patience, settings.max_epochs
            )
            for spec in specs
        ]
        self.best: list[Tensor | None] = [None] * len(specs)
        self.epochs = 0

    def epoch(self) -> int:
        """Train and score all live probes once; return how many epochs of the plan are thereby settled."""
        losses_P = self._train()
        scores_P = self._score()
        live: list[int] = []
        settled = 0
        self.epochs += 1
        for row, (probe, loss, score) in enumerate(zip(self.rows, losses_P, scores_P)):
            course = self.courses[probe]
            if course.update(loss, score):
                self.best[probe] = self.stack.value_PN[row].clone()
            self.stack.learning_rates[row] = course.plateau.learning_rate
            settled += 1
            if course.stopped:
                settled += self.settings.max_epochs - self.epochs
            else:
                live.append(row)
        if len(live) < len(self.rows):
            self.rows = [self.rows[row] for row in live]
            self.stack.keep(live)
        return settled

    def results(self) -> Iterator[TrainedProbe]:
        """Yield every probe, whether it went on to the end or not."""
        for spec, course, best_N in zip(self.specs, self.courses, self.best):
            yield TrainedProbe(spec, self.shape, course, None if best_N is None else best_N.cpu())

    def _cuts(self) -> list[slice]:
        live = len(self.rows)
        return [slice(0, live)] if _together(self.device) else [slice(row, row + 1) for row in range(live)]

    def _train(self) -> list[float]:
        train, settings = self.question.train, self.settings
        sources = _sources(self.stack.specs)
        room = BLOCK_BYTES // (4 * self.shape.width * len(sources))
        batch_rows = _batch_rows(self.device)
        cutting = Cutting(settings.batch, batch_rows, max(room, batch_rows))
        dropout = Dropout(settings.hidden, settings.dropout, self.specs[0].seed)
        total_P = torch.zeros(len(self.rows), device=self.device)
        counted = 0.0
        for block in blocks(train, self.epochs, cutting, dropout, self.device):
            x_SRD = train.fetch(sources, block.rows_R, self.device)
            for cut in self._cuts():
                hears = _hearing(self.stack.specs[cut], sources, self.device)
                for batch in block.batches:
                    x = hears(x_SRD[:, batch.start : batch.stop])
                    total_P[cut] += self.stack.accumulate(cut, x, batch, self.question.loss)
                    if batch.last:
                        self.stack.step(cut)
            counted += sum(batch.share for batch in block.batches)
        return (total_P / counted).tolist()

    def _score(self) -> list[float]:
        pairs = [(self.stack.specs[cut], self.stack.value_PN[cut]) for cut in self._cuts()]
        scores: list[float] = []
        for answered_PRK in _answer_cuts(pairs, self.shape, self.question.valid, self.device):
            finite_P = answered_PRK.isfinite().flatten(1).all(1).tolist()
            found = self.question.score(answered_PRK.nan_to_num())
            scores += [score if finite else -np.inf for score, finite in zip(found, finite_P)]
        return scores


def _answer_cuts(
    pairs: list[tuple[list[ProbeSpec], Tensor]], shape: ProbeShape, examples: Examples, device: torch.device
) -> list[Tensor]:
    """Return for each group of probes of one stack their logits for every row, `[P, R, K]` on the CPU."""
    sources = _sources([spec for specs, _ in pairs for spec in specs])
    rows = len(examples.rows_R)
    answered = [torch.empty(len(specs), rows, shape.outputs) for specs, _ in pairs]
    batch_rows = _batch_rows(device)
    for low in range(0, rows, batch_rows):
        x_SBD = examples.fetch(sources, examples.rows_R[low : low + batch_rows], device)
        for answered_PRK, (specs, flat_PN) in zip(answered, pairs):
            heard = _hearing(specs, sources, device)(x_SBD)
            answered_PRK[:, low : low + batch_rows] = logits(flat_PN, shape, heard).cpu()
    return answered


def _together(device: torch.device) -> bool:
    """Return whether all probes of a stack take a step at once, or one after the other with their state in cache."""
    return device.type != "cpu"


def _batch_rows(device: torch.device) -> int:
    return GPU_BATCH_ROWS if _together(device) else CPU_BATCH_ROWS


def _hearing(specs: list[ProbeSpec], sources: tuple[str, ...], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what turns the fetched layers `[S, B, D]` into what these probes take: `[P, B, D]`, or all to be mixed."""
    if len(specs[0].sources) > 1:
        return lambda x_SBD: x_SBD
    if len(sources) == 1:
        return lambda x_SBD: x_SBD.expand(len(specs), -1, -1)
    places_P = torch.tensor([sources.index(spec.sources[0]) for spec in specs], device=device)
    return lambda x_SBD: x_SBD[places_P]


def _sources(specs: list[ProbeSpec]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for spec in specs for source in spec.sources))


def _groups(
    examples: Examples, specs: list[ProbeSpec], settings: GridSettings
) -> list[tuple[ProbeShape, list[ProbeSpec]]]:
    """Return the stacks: one a seed and kind of input on a GPU; on a CPU one a layer, or less with many threads."""
    threads = 0 if _together(torch.device(settings.device)) else torch.get_num_threads()
    grouped: dict[tuple[ProbeShape, int, tuple[str, ...]], list[ProbeSpec]] = defaultdict(list)
    for spec in specs:
        several = len(spec.sources) if len(spec.sources) > 1 else 0
        width = examples.width(spec.sources[0])
        shape = ProbeShape(width, settings.hidden, settings.outputs, settings.dropout, several)
        grouped[shape, spec.seed, spec.sources if threads or several else ()].append(spec)
    size = max(1, len(specs) // (4 * threads)) if threads else len(specs)
    cut = [(key[0], group[low : low + size]) for key, group in grouped.items() for low in range(0, len(group), size)]
    # The mixing stacks cost the most; starting with them keeps the threads busy to the end.
    return sorted(cut, key=lambda pair: -pair[0].mixed)


def _work_off(runs: deque[_Run], width: int, settle: Callable[[_Run], None]) -> None:
    """Take the stacks in turn, an epoch each, on `width` threads until none goes on."""
    stop = threading.Event()

    def work() -> None:
        with torch.no_grad():
            while runs and not stop.is_set():
                try:
                    run = runs.popleft()
                except IndexError:
                    return
                settle(run)
                if run.rows:
                    runs.append(run)

    if width == 1:
        work()
        return
    with ThreadPoolExecutor(width, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work) for _ in range(width)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()


@contextmanager
def _one_thread_each(device: torch.device) -> Iterator[int]:
    """Give the number of workers, and put PyTorch's number of threads back, which the workers set to 1 for all."""
    threads = torch.get_num_threads()
    try:
        yield threads if device.type == "cpu" else 1
    finally:
        torch.set_num_threads(threads)


def _resident(examples: Examples, sources: tuple[str, ...], device: torch.device) -> Examples:
    """Return the examples with their rows on the GPU, if they fill less than half of what is free there."""
    if device.type != "cuda":
        return examples
    rows = len(examples.rows_R)
    size = sum(rows * examples.width(name) * examples.layers[name].dtype.itemsize for name in sources)
    if size > torch.cuda.mem_get_info(device)[0] // 2:
        return examples
    layers = {name: examples.take(name, examples.rows_R).to(device) for name in sources}
    return Examples(layers, np.arange(rows), examples.counts_N, examples.targets_R)
