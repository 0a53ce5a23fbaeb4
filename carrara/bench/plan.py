"""What benchmarking an encoder will take, from some seconds of doing it: features, probes, disk, with ranges.

Clips of each dataset (noise of the same length where the dataset is not at hand) are extracted into a temporary store
as `carrara bench` does it, and the probe grid of the constrained protocol trains for an epoch on random features of the
encoder's shape. How many epochs the probes need is not known before: from `stop_patience + 1`, where the first was the
best, to `max_epochs`; the geometric mean is expected. Scoring the test clips and the intervals are left out.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from torch.nn import functional as F

from carrara.audio.decode import read_info
from carrara.audio.windows import window_spans
from carrara.bench import protocols, task_types
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem, train_grid
from carrara.bench.protocols.constrained import BATCH, DROPOUT, HIDDEN, grid_points
from carrara.bench.split_data import LabelledSplit, monitored_score, training_examples
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types._base import ProbeTaskType, TaskType
from carrara.core.clip import Clip
from carrara.core.errors import AbsentError, AudioError, DataError, UsageError
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder
from carrara.encoders._fused import FusedEncoder
from carrara.features.encode import EncodePlan
from carrara.features.extract import extract
from carrara.features.plan import DRIFT, MAX_HEADERS, Estimate, mean_and_error, ratio_error
from carrara.features.store import HALF
from carrara.features.windows import WindowSpec, window_grid

ITEM_BYTES = 115  # a line of the feature store's log
MAX_NOISE_SECONDS = 60.0
MAX_ROWS = 1024  # of random features that the grid is timed on, unless one clip has more
GRID_SECONDS = 2.0  # after which no further epoch of a task's grid is timed
NOISE_ERROR = 0.3  # of noise in WAV files instead of the dataset's recordings


@dataclass(frozen=True)
class Speed:
    """Seconds of work for a unit (a second of audio, a row of features), with the relative standard error."""

    seconds: float
    relative_error: float


@dataclass(frozen=True)
class TaskSize:
    """How much a task has.

    Attributes:
        counts: clips by split.
        clip_seconds: mean length of a clip.
        relative_error: of that mean.
        clip_rows: mean number of rows of a clip, windows or frames.
        clips: those that are on disk; empty where the sizes are those that the dataset states.
    """

    counts: Mapping[str, int]
    clip_seconds: float
    relative_error: float
    clip_rows: float
    clips: Sequence[Clip] = ()


def estimate_features(size: TaskSize, speed: Speed, row_bytes: int) -> tuple[Estimate, Estimate]:
    """Return the seconds that the extraction of a task's clips takes, and the bytes of their features in the store.

    Args:
        size: of the task.
        speed: of the extraction, for a second of audio.
        row_bytes: of a row in all layers.
    """
    count = sum(size.counts.values())
    error = math.hypot(speed.relative_error, size.relative_error, DRIFT)
    disk = count * (size.clip_rows * row_bytes + ITEM_BYTES)
    rows_error = size.relative_error if size.clip_rows > 1 else 0.0
    return Estimate.around(speed.seconds * count * size.clip_seconds, error), Estimate.around(disk, rows_error)


def estimate_probes(task: Task, size: TaskSize, speed: Speed) -> Estimate:
    """Return the seconds that the grid trains: epochs from the fewest to `max_epochs`, expected their geometric mean.

    Args:
        task: with its patience and `max_epochs`.
        size: of the task.
        speed: of an epoch of the whole grid, for a row of training and validation.
    """
    rows = (size.counts.get("train", 0) + size.counts.get("valid", 0)) * _probe_rows(task, size)
    epoch = Estimate.around(speed.seconds * rows, math.hypot(speed.relative_error, DRIFT))
    fewest = min(task.stop_patience + 1, task.max_epochs)
    return Estimate(
        epoch.expected * math.sqrt(fewest * task.max_epochs), epoch.low * fewest, epoch.high * task.max_epochs
    )


def plan_bench(
    encoder: Encoder,
    tasks: Sequence[Task],
    data_dir: Path | None = None,
    device: str = "cpu",
    datasets: Mapping[str, Dataset] | None = None,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Return what `bench` under the constrained protocol will take: estimates by task and of all, in seconds and bytes.

    Features that tasks share count with the first of them; those that are stored already are not subtracted.

    Args:
        encoder, data_dir, device, datasets: as of `carrara.bench.run.bench`.
        tasks: the tasks.
        seconds: how long all clips of the calibration are extracted, at least; longer where batches take longer.

    Raises:
        UsageError: the encoder is fused of several.
    """
    if isinstance(encoder, FusedEncoder):
        raise UsageError(f"plan bench {encoder.card.name}: plan the encoders that it is fused of, each alone")
    card, settings = encoder.card, protocols.REGISTRY.get("constrained").settings()
    dims = [card.dim] * (card.num_layers + 1)
    provider = FeatureProvider(encoder, data_dir, device, datasets=datasets or {})
    planned: list[tuple[Task, TaskType, WindowSpec, TaskSize]] = []
    left_out: dict[str, str] = {}
    for task in tasks:
        task_type = task_types.REGISTRY.get(task.task_type)
        try:
            spec = protocols.REGISTRY.get("constrained").window_spec(task, task_type, card, settings)
            if task_type.has_text_queries or spec is None:
                left_out[task.name] = f"{task.task_type} is not planned, it trains no probe of the grid"
            elif task_type.frame_level and card.frame_rate is None:
                left_out[task.name] = f"{card.name} has no frames, which this task needs"
            else:
                planned.append((task, task_type, spec, measure_size(provider, task, spec)))
        except (DataError, UsageError) as problem:
            left_out[task.name] = str(problem)
    share = seconds / max(len({(task.dataset, spec) for task, _, spec, _ in planned}), 1)
    speeds: dict[tuple[str, WindowSpec], Speed] = {}
    counted: set[tuple[Any, ...]] = set()
    parts: list[dict[str, Any]] = []
    for task, task_type, spec, size in planned:
        if (task.dataset, spec) not in speeds:
            speeds[task.dataset, spec] = _time_extraction(encoder, spec, size, device, share)
        keys: set[tuple[Any, ...]] = {(str(clip.path), clip.start, clip.duration) for clip in size.clips}
        keys = keys or {(task.dataset, task.split_scheme)}
        is_shared = all((spec, *key) in counted for key in keys)
        counted |= {(spec, *key) for key in keys}
        features, disk = estimate_features(size, speeds[task.dataset, spec], HALF.itemsize * sum(dims))
        probes = Estimate(0.0, 0.0, 0.0)
        if isinstance(task_type, ProbeTaskType) and not card.is_constant:
            probes = estimate_probes(task, size, _time_grid(encoder, task, task_type, size, device))
        parts.append(
            {
                "task": task.name,
                "clips": sum(size.counts.values()),
                "audio_hours": sum(size.counts.values()) * size.clip_seconds / 3600,
                "is_on_disk": bool(size.clips),
                "feature_seconds": features * (not is_shared),
                "probe_seconds": probes,
                "disk_bytes": disk * (not is_shared),
            }
        )
    names = ("feature_seconds", "probe_seconds", "disk_bytes")
    totals = {name: sum((part[name] for part in parts), Estimate(0.0, 0.0, 0.0)) for name in names}
    total = totals["feature_seconds"] + totals["probe_seconds"]
    return {"encoder": card.name, "tasks": parts, "left_out": left_out, **totals, "seconds": total}


def measure_size(provider: FeatureProvider, task: Task, spec: WindowSpec) -> TaskSize:
    """Return how much a task has: of its clips on disk, or else as its dataset states it.

    Raises:
        DataError: the dataset is not on disk, and does not state how many clips it has or how long they are.
    """
    encoder = provider.encoder
    try:
        index = provider.index(task)
    except AbsentError as absent:
        dataset = provider.dataset(task)
        counts, limits = dataset.expected_counts.get(task.split_scheme), dataset.seconds
        if not counts or limits is None:
            raise DataError(f"{absent}; how many clips of which length it has is not stated") from None
        mean = sum(limits) / 2
        # A range of two standard deviations to both directions.
        return TaskSize(counts, mean, (limits[1] - limits[0]) / (4 * mean), _mean_rows(encoder, spec, [mean]))
    clips = [clip for clip in index.clips if clip.id not in index.absent]
    lengths = []
    for clip in random.Random(1).sample(clips, min(len(clips), MAX_HEADERS)):
        with suppress(AudioError):
            length = clip.duration or read_info(clip.path).duration_seconds
            if length is not None:
                lengths.append(length - (clip.start if clip.duration is None else 0.0))
    if not lengths:
        raise DataError(f"no header of the {len(clips)} clips of {task.dataset} states a length")
    mean, error = mean_and_error(lengths, is_all=len(lengths) == len(index.clips))
    counts = Counter(str(clip.split) for clip in index.clips)
    return TaskSize(dict(counts), mean, error, _mean_rows(encoder, spec, lengths), clips)


def _mean_rows(encoder: Encoder, spec: WindowSpec, lengths: Sequence[float]) -> float:
    """Return the mean number of rows of clips of these lengths in seconds."""
    if spec.pool == "frames":
        return float(np.mean(lengths)) * (encoder.card.frame_rate or 0.0)
    grid, rate = window_grid(encoder, spec), encoder.card.sample_rate
    return float(np.mean([len(window_spans(round(s * rate), grid.window, grid.hop, grid.min_tail)) for s in lengths]))


def _probe_rows(task: Task, size: TaskSize) -> float:
    """Return how many rows of a clip a probe reads; where a clip's windows are averaged, one."""
    is_frames = task_types.REGISTRY.get(task.task_type).frame_level
    return size.clip_rows if is_frames or task.aggregate != "embedding" else 1.0


def _time_extraction(encoder: Encoder, spec: WindowSpec, size: TaskSize, device: str, seconds: float) -> Speed:
    """Return the speed of the extraction of clips drawn at random, or of noise; the first clip only warms up.

    Raises:
        DataError: none of the clips drawn can be decoded.
    """
    sha256 = encoder.hash_weights()
    with TemporaryDirectory() as folder:
        length = size.clip_seconds
        drawn = random.Random(0).sample(list(size.clips), min(len(size.clips), MAX_HEADERS))
        if not drawn:
            length = min(length, MAX_NOISE_SECONDS)
        group = max(1, round(EncodePlan(device).batch_limits()[1] / length))
        if not drawn:
            drawn = _write_noise(Path(folder), 1 + 3 * group, length, encoder.card.sample_rate)
        times: list[float] = []
        audio: list[float] = []
        groups = [drawn[:1], *(drawn[low : low + group] for low in range(1, len(drawn), group))]
        begin = time.perf_counter()
        for clips in groups:
            if len(times) > 1 and time.perf_counter() - begin > seconds:
                break
            start = time.perf_counter()
            features = extract(encoder, clips, spec, Path(folder), device, weights_sha256=sha256)
            pairs = zip(clips, features.rows)
            if decoded := [clip.duration or length for clip, rows in pairs if rows.stop > rows.start]:
                times.append(time.perf_counter() - start)
                audio.append(sum(decoded))
    if not times:
        raise DataError(f"none of {len(drawn)} clips drawn can be decoded, such as {drawn[0].path}")
    first = 1 if len(times) > 1 else 0
    error = ratio_error(times[first:], audio[first:])
    error = error if size.clips else math.hypot(error, NOISE_ERROR)
    return Speed(sum(times[first:]) / sum(audio[first:]), error)


def _write_noise(folder: Path, count: int, seconds: float, rate: int) -> list[Clip]:
    paths = [folder / f"noise-{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        noise_T = np.random.default_rng(number).normal(0.0, 0.1, round(seconds * rate))
        soundfile.write(path, noise_T, rate)
    return [Clip(path.stem, path) for path in paths]


def _time_grid(encoder: Encoder, task: Task, task_type: ProbeTaskType, size: TaskSize, device: str) -> Speed:
    """Return the speed of an epoch of the grid on random features, with the task's truths where they are on disk."""
    rows_each = max(round(_probe_rows(task, size)), 1)
    counts = {
        split: max(1, min(size.counts.get(split, 0), MAX_ROWS // (2 * rows_each))) for split in ("train", "valid")
    }
    rows = rows_each * sum(counts.values())
    random_RD = np.random.default_rng(0).standard_normal((rows, encoder.card.dim), np.float32).astype(np.float16)
    layers = {str(layer): random_RD for layer in range(encoder.card.num_layers + 1)}
    bounds = {"train": 0, "valid": counts["train"] * rows_each}
    if size.clips:
        rate = encoder.card.frame_rate if task_type.frame_level else None
        splits = {}
        for split, low in bounds.items():
            own = [clip for clip in size.clips if clip.split == split]
            own = random.Random(0).sample(own, min(len(own), counts[split]))
            rows_U = [np.arange(low + i * rows_each, low + (i + 1) * rows_each) for i in range(len(own))]
            splits[split] = LabelledSplit(own, layers, rows_U, rate, task_type.truths(task, own))
        state = task_type.fit(task, splits["train"].truths)
        problem = ProbeProblem(
            training_examples(task, task_type, state, splits["train"]),
            splits["valid"].eval_examples(),
            task_type.loss,
            lambda logits: [score for score, _ in monitored_score(task, task_type, state, splits["valid"], logits)],
        )
    else:
        problem = _random_problem(layers, task, task_type, counts, rows_each, bounds["valid"])
    measured = len(problem.train.rows_R) + len(problem.valid.rows_R)
    settings = GridSettings(
        task_type.outputs(task), HIDDEN, DROPOUT, BATCH, 1, task.plateau_patience, task.stop_patience, device
    )
    specs = grid_points(tuple(layers), (1234,))
    times: list[float] = []
    while len(times) < 3 and sum(times) < GRID_SECONDS:
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few clips may lack a class, whose score is then NaN
            train_grid(problem, specs, settings)
        times.append(time.perf_counter() - begin)
    times = times[1:] or times  # the first is slower
    return Speed(sum(times) / len(times) / measured, ratio_error(times, [1.0] * len(times)))


def _random_problem(
    layers: Mapping[str, Any], task: Task, task_type: ProbeTaskType, counts: Mapping[str, int], rows_each: int, low: int
) -> ProbeProblem:
    """Return a problem with random targets for each output, and no score: the labels are not at hand."""
    outputs, rows = task_type.outputs(task), rows_each * sum(counts.values())
    targets_RK = np.random.default_rng(1).integers(0, 2, (low, outputs)).astype(np.float32)

    def loss(logits_PBK: torch.Tensor, targets_BK: torch.Tensor) -> torch.Tensor:
        expanded_PBK = targets_BK.expand(len(logits_PBK), -1, -1)
        return F.binary_cross_entropy_with_logits(logits_PBK, expanded_PBK, reduction="none").mean((1, 2))

    each = rows_each if task_type.frame_level else 1
    train = Examples(layers, np.arange(low), np.full(low // each, each), targets_RK)
    valid = Examples(layers, np.arange(low, rows), np.full((rows - low) // each, each))
    return ProbeProblem(train, valid, loss, lambda logits_PRK: [0.0] * len(logits_PRK))
