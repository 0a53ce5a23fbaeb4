"""The probe grid: every layer and their weighted sum × every learning rate, trained as stacked models.

MARBLE's constrained track needs 84 probes for a 95M encoder and 156 for a 330M one, and trains each in a process of its
own. They share the order of the data and the dropout masks, so they can share the work. On a GPU, where a single probe
is bound by kernel launches, one stack holds all probes of one kind of input. On a CPU a step is bound by the matrix
rate and by Adam's memory traffic, and the state of 84 probes (590 MB) would fall out of the caches; there a stack holds
the learning rates of one layer, which share the fetched rows and masks, and its probes take the steps of a block one
after the other with their state in cache. The stacks run on as many threads as PyTorch may use, one core each.

Every probe gets what it would get alone, to float tolerance. Probes that have stopped leave their stack. Probes of
several seeds share the pass over the store but not the random draws, so each seed has its own stacks.

Letters: P probes, N parameters of a probe, S fetched layers, R rows, B rows of a batch, D features, K outputs.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from carrara.bench.probes.examples import BLOCK_BYTES, BatchPlan, Examples, iter_blocks
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape, ProbeSpec
from carrara.bench.probes.stack import Loss, ProbeStack, stack_logits
from carrara.core.progress import progress

CPU_BATCH_ROWS, GPU_BATCH_ROWS = 1024, 8192


@dataclass(frozen=True)
class GridSettings:
    """How the probes of a grid are trained, the same for all."""

    outputs: int
    hidden: int = 512
    dropout: float = 0.2
    batch_size: int = 64
    max_epochs: int = 100
    plateau_patience: int = 5
    stop_patience: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class ProbeProblem:
    """What all probes learn: training examples, validation rows, the loss, the monitored score.

    Attributes:
        train: examples with targets.
        valid: examples to predict.
        loss: (logits [P, B, K], targets [B, …]) → [P].
        score: validation logits [P, R, K], on the CPU → the monitored score of each probe, higher is better.
    """

    train: Examples
    valid: Examples
    loss: Loss
    score: Callable[[Tensor], list[float]]


@dataclass(frozen=True)
class TrainedProbe:
    """One probe after training: its history, and its parameters at its best epoch (None if no epoch was finite)."""

    spec: ProbeSpec
    shape: ProbeShape
    history: ProbeHistory
    best_N: Tensor | None


def train_grid(problem: ProbeProblem, specs: list[ProbeSpec], settings: GridSettings) -> list[TrainedProbe]:
    """Return every probe trained, in the order of `specs`."""
    device = torch.device(settings.device)
    sources = _sources(specs)
    problem = replace(
        problem, train=_to_gpu(problem.train, sources, device), valid=_to_gpu(problem.valid, sources, device)
    )
    runs = [_StackRun(problem, own, shape, settings) for shape, own in _stacks(problem.train, specs, settings)]
    with progress("probes", len(specs) * settings.max_epochs) as advance:
        _train_all(runs, device, lambda epochs: advance(epochs, note=f"{sum(len(run.live) for run in runs)} left"))
    trained = {
        spec: TrainedProbe(spec, run.shape, history, None if best_N is None else best_N.cpu())
        for run in runs
        for spec, history, best_N in zip(run.specs, run.histories, run.best)
    }
    return [trained[spec] for spec in specs]


def probe_logits(trained: TrainedProbe, examples: Examples, device: str = "cpu") -> Tensor:
    """Return the logits `[R, K]` of a trained probe for rows, on the CPU.

    Raises:
        ValueError: the probe never reached a finite score.
    """
    if trained.best_N is None:
        raise ValueError(f"the probe {trained.spec} never reached a finite score")
    flat_PN = trained.best_N[None].to(device)
    with torch.no_grad():
        return _eval_logits([([trained.spec], flat_PN)], trained.shape, examples, torch.device(device))[0][0]


class _StackRun:
    """One stack in training; `live` are the indices of the probes that have not stopped."""

    def __init__(
        self, problem: ProbeProblem, specs: list[ProbeSpec], shape: ProbeShape, settings: GridSettings
    ) -> None:
        self.problem, self.specs, self.shape, self.settings = problem, specs, shape, settings
        self.device = torch.device(settings.device)
        self.stack = ProbeStack(specs, shape, self.device)
        self.live = list(range(len(specs)))
        self.histories = [
            ProbeHistory(
                Plateau(spec.learning_rate, settings.plateau_patience), settings.stop_patience, settings.max_epochs
            )
            for spec in specs
        ]
        self.best: list[Tensor | None] = [None] * len(specs)
        self.epochs = 0

    def run_epoch(self) -> int:
        """Train and score all live probes once; return how many of the planned epochs are done, for the progress."""
        losses_P, scores_P = self._train(), self._score()
        self.epochs += 1
        done = 0
        kept: list[int] = []
        for row, (probe, loss, score) in enumerate(zip(self.live, losses_P, scores_P)):
            history = self.histories[probe]
            if history.update(loss, score):
                self.best[probe] = self.stack.params_PN[row].clone()
            self.stack.learning_rates[row] = history.plateau.learning_rate
            done += 1
            if history.stopped:
                done += self.settings.max_epochs - self.epochs
            else:
                kept.append(row)
        if len(kept) < len(self.live):
            self.live = [self.live[row] for row in kept]
            self.stack.keep(kept)
        return done

    def _step_slices(self) -> list[slice]:
        """Return which probes take a step at once."""
        count = len(self.live)
        return [slice(0, count)] if steps_batched(self.device) else [slice(row, row + 1) for row in range(count)]

    def _train(self) -> list[float]:
        train, settings = self.problem.train, self.settings
        sources = _sources(self.stack.specs)
        batch_rows = _batch_rows(self.device)
        block_rows = max(BLOCK_BYTES // (4 * self.shape.dim * len(sources)), batch_rows)
        plan = BatchPlan(
            settings.batch_size, batch_rows, block_rows, settings.hidden, settings.dropout, self.specs[0].seed
        )
        loss_sum_P = torch.zeros(len(self.live), device=self.device)
        weight_sum = 0.0
        for block in iter_blocks(train, self.epochs, plan, self.device):
            x_SRD = train.fetch(sources, block.rows_R, self.device)
            for rows in self._step_slices():
                select = _input_selector(self.stack.specs[rows], sources, self.device)
                for batch in block.batches:
                    x = select(x_SRD[:, batch.start : batch.stop])
                    loss_sum_P[rows] += self.stack.backward(rows, x, batch, self.problem.loss)
                    if batch.last:
                        self.stack.step(rows)
            weight_sum += sum(batch.weight for batch in block.batches)
        return (loss_sum_P / weight_sum).tolist()

    def _score(self) -> list[float]:
        groups = [(self.stack.specs[rows], self.stack.params_PN[rows]) for rows in self._step_slices()]
        scores: list[float] = []
        for logits_PRK in _eval_logits(groups, self.shape, self.problem.valid, self.device):
            finite_P = logits_PRK.isfinite().flatten(1).all(1).tolist()
            values = self.problem.score(logits_PRK.nan_to_num())
            scores += [value if finite else -np.inf for value, finite in zip(values, finite_P)]
        return scores


def _eval_logits(
    groups: list[tuple[list[ProbeSpec], Tensor]], shape: ProbeShape, examples: Examples, device: torch.device
) -> list[Tensor]:
    """Return for each group of probes (specs, parameters `[P, N]`) the logits of every row, `[P, R, K]` on the CPU."""
    sources = _sources([spec for specs, _ in groups for spec in specs])
    rows = len(examples.rows_R)
    logits = [torch.empty(len(specs), rows, shape.outputs) for specs, _ in groups]
    batch_rows = _batch_rows(device)
    for low in range(0, rows, batch_rows):
        x_SBD = examples.fetch(sources, examples.rows_R[low : low + batch_rows], device)
        for logits_PRK, (specs, flat_PN) in zip(logits, groups):
            x = _input_selector(specs, sources, device)(x_SBD)
            logits_PRK[:, low : low + batch_rows] = stack_logits(flat_PN, shape, x).cpu()
    return logits


def steps_batched(device: torch.device) -> bool:
    """Return whether all probes of a stack take a step at once, or one after the other with their state in cache."""
    return device.type != "cpu"


def _batch_rows(device: torch.device) -> int:
    return GPU_BATCH_ROWS if steps_batched(device) else CPU_BATCH_ROWS


def _sources(specs: list[ProbeSpec]) -> tuple[str, ...]:
    """Return the layers that any of the probes reads."""
    return tuple(dict.fromkeys(source for spec in specs for source in spec.sources))


def _input_selector(
    specs: list[ProbeSpec], sources: tuple[str, ...], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return a function from fetched layers `[S, B, D]` to the probes' inputs, `[P, B, D]`, or all for a sum."""
    if len(specs[0].sources) > 1:
        return lambda x_SBD: x_SBD
    if len(sources) == 1:
        return lambda x_SBD: x_SBD.expand(len(specs), -1, -1)
    index_P = torch.tensor([sources.index(spec.sources[0]) for spec in specs], device=device)
    return lambda x_SBD: x_SBD[index_P]


def _stacks(
    examples: Examples, specs: list[ProbeSpec], settings: GridSettings
) -> list[tuple[ProbeShape, list[ProbeSpec]]]:
    """Return the stacks: on a GPU one for each seed and kind of input, on a CPU one for each layer or smaller."""
    threads = 0 if steps_batched(torch.device(settings.device)) else torch.get_num_threads()
    grouped: dict[tuple[ProbeShape, int, tuple[str, ...]], list[ProbeSpec]] = defaultdict(list)
    for spec in specs:
        num_summed = len(spec.sources) if len(spec.sources) > 1 else 0
        dim = examples.dim(spec.sources[0])
        shape = ProbeShape(dim, settings.hidden, settings.outputs, settings.dropout, num_summed)
        grouped[shape, spec.seed, spec.sources if threads or num_summed else ()].append(spec)
    size = max(1, len(specs) // (4 * threads)) if threads else len(specs)
    stacks = [(key[0], own[low : low + size]) for key, own in grouped.items() for low in range(0, len(own), size)]
    # Stacks that sum layers cost the most; starting with them keeps the threads busy to the end.
    return sorted(stacks, key=lambda stack: -stack[0].num_summed)


def _train_all(runs: list[_StackRun], device: torch.device, advance: Callable[[int], None]) -> None:
    """Train the stacks in turn, an epoch each, until all have stopped; on a CPU on several threads of one core each."""
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    queue = deque(runs)
    stop = threading.Event()

    def work() -> None:
        with torch.no_grad():
            while queue and not stop.is_set():
                try:
                    run = queue.popleft()
                except IndexError:
                    return
                advance(run.run_epoch())
                if run.live:
                    queue.append(run)

    if workers == 1:
        work()
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(work) for _ in range(workers)]
            try:
                for future in futures:
                    future.result()
            finally:
                stop.set()
    finally:
        # The workers' number of threads holds for the whole process.
        torch.set_num_threads(threads)


def _to_gpu(examples: Examples, sources: tuple[str, ...], device: torch.device) -> Examples:
    """Return the examples with their rows on the GPU, if they fill less than half of its free memory."""
    if device.type != "cuda":
        return examples
    rows = len(examples.rows_R)
    size = sum(rows * examples.dim(layer) * examples.layers[layer].dtype.itemsize for layer in sources)
    if size > torch.cuda.mem_get_info(device)[0] // 2:
        return examples
    layers = {layer: examples.take(layer, examples.rows_R).to(device) for layer in sources}
    return Examples(layers, np.arange(rows), examples.counts_N, examples.targets_R)
