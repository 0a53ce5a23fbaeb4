"""Trains the search of separation: as many points at once as fit in memory, all on the same mixtures.

A point with MARBLE's head takes half a GB with its four heads, so on a CPU six are trained at a time beside a 95M
encoder and four beside a 330M one. The mixtures of an epoch depend on the seed only, so they are the same for every
group. On a CPU the points of a group take their steps on several threads, as many as their activations have memory for.
Memory does not grow with the dataset: it holds a part of a step, the points of a group and the best point before.

Letters: B mixtures, J stems, T samples, F frames, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from typing import Any

import torch

from carrara.bench.decode import prefetched
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeSpec
from carrara.bench.separation import spectrum
from carrara.bench.separation.evaluate import SDRAccumulator, iter_windows, separate
from carrara.bench.separation.head import MaskHeadShape
from carrara.bench.separation.songs import Mixtures, Song, StemExcerpt, draw_mixtures, load_mixtures
from carrara.bench.separation.trial import MixtureBatch, SeparationTrial, training_bytes
from carrara.bench.separation.window_encoder import WindowEncoder
from carrara.core.progress import progress
from carrara.core.task import Task

STATE_BYTES = int(3.7 * 2**30)  # for the points of a group and the encoder
ACTIVATION_BYTES = 2 * 2**30

MapTrials = Callable[[Callable[[SeparationTrial], Any], list[SeparationTrial]], list[Any]]


@dataclass(frozen=True)
class SeparationSettings:
    """How a head is built and trained; the defaults are those of [yuan2023thesis §3.4].

    MARBLE v1's code has 32 mixtures and dropout 0.4. The gradients of a step's micro-batches add up, so memory does not
    grow with the step; batch norm takes its statistics from a micro-batch.

    Attributes:
        hidden: units of the linear layers, and of an LSTM's two directions together.
        dropout: fraction of units dropped, in MARBLE's head between the LSTMs.
        head: name in the registry of heads; empty for MARBLE's head.
        weight_decay: of AdamW; 0 is Adam.
        batch_size: mixtures of a step.
        micro_batch_size: mixtures in memory at once.
    """

    hidden: int = 512
    dropout: float = 0.2
    batch_size: int = 64
    micro_batch_size: int = 32
    head: str = ""
    weight_decay: float = 0.0


# Pebble's head is small, so that a laptop trains 36 points of the search, four heads each, in minutes.
BY_DATASET = {"pebble": SeparationSettings(hidden=64, batch_size=4, micro_batch_size=4)}


def separation_settings(task: Task) -> SeparationSettings:
    """Return the settings for a task."""
    return BY_DATASET.get(task.dataset, SeparationSettings())


@dataclass(frozen=True)
class SeparationProblem:
    """What all points of the search share.

    Attributes:
        task: its labels are the stems.
        encoder: frozen.
        train, valid: songs.
        settings: of head and training.
        device: of encoder and heads.
    """

    task: Task
    encoder: WindowEncoder
    train: Sequence[Song]
    valid: Sequence[Song]
    settings: SeparationSettings
    device: str


def train_trials(problem: SeparationProblem, specs: Sequence[ProbeSpec]) -> list[SeparationTrial]:
    """Return all points of one seed, trained, in order; only the best one on validation still has its weights."""
    task = problem.task
    best: SeparationTrial | None = None
    trained: list[SeparationTrial] = []
    with progress("separation", len(specs) * task.max_epochs) as advance:
        for group in group_specs(problem, specs):
            trials = []
            for spec in group:
                plateau = Plateau(spec.learning_rate, task.plateau_patience)
                history = ProbeHistory(plateau, task.stop_patience, task.max_epochs)
                shape = head_shape(problem, spec)
                weight_decay = problem.settings.weight_decay
                trials.append(SeparationTrial(spec, shape, len(task.labels), history, problem.device, weight_decay))
            _train_group(problem, trials, advance)
            for trial in trials:
                trial.finish()
                if trial.best is None or (best is not None and trial.history.best <= best.history.best):
                    trial.release()
                    continue
                if best is not None:
                    best.release()
                best = trial
            trained += trials
    return trained


def group_specs(problem: SeparationProblem, specs: Sequence[ProbeSpec]) -> list[list[ProbeSpec]]:
    """Return the points that are trained at once, group by group."""
    max_bytes = STATE_BYTES - sum(parameter.nbytes for parameter in problem.encoder.encoder.parameters())
    if torch.device(problem.device).type == "cuda":
        max_bytes = torch.cuda.mem_get_info(problem.device)[0] // 2
    groups: list[list[ProbeSpec]] = []
    group_bytes = 0
    for spec in specs:
        size = training_bytes(head_shape(problem, spec), len(problem.task.labels))
        if not groups or group_bytes + size > max_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(spec)
        group_bytes += size
    return groups


def head_shape(problem: SeparationProblem, spec: ProbeSpec) -> MaskHeadShape:
    """Return the shape of a point's heads."""
    num_summed = len(spec.sources) if len(spec.sources) > 1 else 0
    dim, settings = problem.encoder.encoder.card.dim, problem.settings
    return MaskHeadShape(dim, settings.hidden, spectrum.BINS, settings.dropout, num_summed, settings.head)


def _train_group(problem: SeparationProblem, trials: list[SeparationTrial], advance: Callable[..., None]) -> None:
    live, epoch, max_epochs = list(trials), 0, problem.task.max_epochs
    with _trial_workers(problem) as map_trials:
        while live:
            steps = _train_epoch(problem, live, epoch, map_trials)
            scores = _scores(problem, live, map_trials)
            epoch += 1
            for trial, score in zip(live, scores):
                trial.end_epoch(steps, score)
                advance(1 + max_epochs - epoch if trial.history.stopped else 1, note=f"{len(live)} in training")
            live = [trial for trial in live if not trial.history.stopped]


def _train_epoch(problem: SeparationProblem, live: list[SeparationTrial], epoch: int, map_trials: MapTrials) -> int:
    """Train every point on an epoch's mixtures and return the number of steps."""
    window_format, settings, seed = problem.encoder.window_format, problem.settings, live[0].spec.seed
    mixtures = draw_mixtures(problem.train, problem.task.examples_per_clip, window_format.window, seed, epoch)
    step_size, layers = settings.batch_size, _layers(live)
    steps = range(0, len(mixtures), step_size)
    bounds = [
        (low, min(low + settings.micro_batch_size, begin + step_size, len(mixtures)))
        for begin in steps
        for low in range(begin, min(begin + step_size, len(mixtures)), settings.micro_batch_size)
    ]

    def load(own: Sequence[tuple[StemExcerpt, ...]]) -> Iterator[Mixtures]:
        yield load_mixtures(problem.train, own, window_format)

    loaded = prefetched([partial(load, mixtures[low:high]) for low, high in bounds], depth=1)
    for index, audio in loaded:
        low, high = bounds[index]
        begin = low // step_size * step_size
        end = min(begin + step_size, len(mixtures))
        features = problem.encoder.encode(audio.encoder_BS, layers)
        spectra_BJFK = spectrum.stft(torch.from_numpy(audio.stems_BJT).to(problem.device))
        batch = MixtureBatch(
            features, spectra_BJFK.sum(1).abs(), spectra_BJFK.abs(), (high - low) / (end - begin), high == end
        )
        map_trials(methodcaller("train_batch", batch), live)
    return len(steps)


def _scores(problem: SeparationProblem, live: list[SeparationTrial], map_trials: MapTrials) -> list[float]:
    """Return each point's mean SDR over stems and validation songs."""
    layers = _layers(live)
    sums = {id(trial): SDRAccumulator(len(problem.valid), len(problem.task.labels)) for trial in live}
    for windows in iter_windows(problem.valid, problem.encoder.window_format):
        features = problem.encoder.encode(windows.encoder_BS, layers)

        def score(trial: SeparationTrial, windows=windows, features=features) -> None:
            sums[id(trial)].add(windows, separate(windows, trial.masks(features)))

        map_trials(score, live)
    return [float(sums[id(trial)].sdr_UJ().mean()) for trial in live]


def _layers(trials: list[SeparationTrial]) -> list[int]:
    """Return the layers that any of the points reads, ascending."""
    return sorted({int(source) for trial in trials for source in trial.spec.sources})


@contextmanager
def _trial_workers(problem: SeparationProblem) -> Iterator[MapTrials]:
    """Yield a function that calls another with each point; in parallel on a CPU, as far as memory allows."""
    threads = torch.get_num_threads()
    settings = problem.settings
    values = settings.micro_batch_size * problem.encoder.num_frames * (8 * spectrum.BINS + 40 * settings.hidden)
    workers = min(threads, max(1, ACTIVATION_BYTES // (4 * values)))
    # A registered head's dropout seeds the global generator, which threads share.
    if settings.head and settings.dropout:
        workers = 1
    if workers == 1 or torch.device(problem.device).type != "cpu":
        yield lambda function, trials: [function(trial) for trial in trials]
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            yield lambda function, trials: list(pool.map(function, trials))
    finally:
        torch.set_num_threads(threads)
