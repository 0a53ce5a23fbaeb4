"""What embedding recordings will take, from a few seconds of doing it: time, disk, with ranges.

Recordings drawn at random are embedded until some seconds have passed, in the batches and threads of the real run; the
others will take as long by second of audio. The length of all is estimated from headers, of at most `MAX_HEADERS` drawn
at random. The start of the command (Python, torch, loading the encoder, by what the first batches are slower) is what
it took here. A range is two standard errors of all together with the drift of a machine's speed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from carrara.audio.decode import read_info
from carrara.core.errors import AudioError
from carrara.encoders._base import Encoder
from carrara.features.embed import DEFAULT_WINDOW_SECONDS, embed_files, embedding_schema, layer_names
from carrara.features.embed_config import EmbedConfig
from carrara.features.parquet import ROW_GROUP_BYTES

MAX_HEADERS, MAX_FILES = 300, 500
MIN_RUNS = 2  # of batches after the first, which is slower: caches and pools of threads fill
DRIFT = 0.1  # of a machine's speed, one standard deviation; a second run of the same work differs by it
# What Parquet takes beside the embeddings: in a file, for a recording beside its path twice, and for a row.
FILE_BYTES, RECORDING_BYTES, ROW_BYTES = 2500, 80, 20


@dataclass(frozen=True)
class Estimate:
    """An expected value, and the range that the truth is in with a probability of about 95 %."""

    expected: float
    low: float
    high: float

    @classmethod
    def around(cls, expected: float, relative_error: float) -> Estimate:
        """Return the range of two standard errors, by factors, so that it never reaches 0."""
        factor = math.exp(2 * relative_error)
        return cls(expected, expected / factor, expected * factor)

    def __add__(self, other: Estimate) -> Estimate:
        """Return the sum of two estimates whose errors go together, as those of one machine do."""
        return Estimate(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Estimate:
        """Return a multiple."""
        return Estimate(factor * self.expected, factor * self.low, factor * self.high)


def plan_embed(
    encoder: Encoder,
    files: Sequence[Path | str],
    config: EmbedConfig,
    device: str = "cpu",
    batch_size: int | None = None,
    num_files: int | None = None,
    seconds: float = 10.0,
    threads: int = 2,
    start_seconds: float = 0.0,
) -> dict[str, Any]:
    """Return what `write_embeddings` will take: estimates of audio_hours, seconds and disk_bytes, and their basis.

    Args:
        encoder, files, config, device, batch_size, threads: As of `carrara.features.parquet.write_embeddings`.
        num_files: For so many recordings like these. None means these.
        seconds: How long the calibration embeds; longer where `MIN_RUNS` runs of batches take longer.
        start_seconds: What comes before the first recording, on the wall; part of the estimate.

    Raises:
        AudioError: None of the recordings drawn can be embedded.
        UsageError: As of `embed_files`.
    """
    num_files = num_files or len(files)
    lengths = [_encoded_seconds(length, config) for length in _header_seconds(files)]
    times, audio, warm_up = _time_runs(encoder, files, config, device, batch_size, seconds, threads)
    if not lengths:
        raise AudioError(f"{files[0]}: no header of {len(files)} recordings states a length; name local files")
    is_all = len(lengths) == len(files) == num_files
    mean_length, length_error = mean_and_error(lengths, is_all)
    total = mean_length * num_files
    rate, rate_error = sum(times) / sum(audio), ratio_error(times, audio)
    work = Estimate.around(rate * total, math.hypot(rate_error, length_error, DRIFT))
    width = 4 * embedding_schema(encoder, config).field("embedding").type.list_size + ROW_BYTES
    rows_each = {
        "clip": 1.0,
        "window": max(mean_length / (config.hop_seconds or _window_seconds(encoder, config)), 1.0),
        "frame": mean_length * (encoder.card.frame_rate or 0.0),
    }[config.per]
    rows = num_files * rows_each * len(layer_names(encoder, config.layer))
    path_bytes = float(np.mean([len(str(path)) for path in files[:MAX_HEADERS]]))
    disk = FILE_BYTES + num_files * (RECORDING_BYTES + 2 * path_bytes) + rows * width
    # Parquet writes the first megabyte of a row group's numbers through a dictionary, in vain.
    disk += 0.55 * min(rows * width, math.ceil(rows * width / ROW_GROUP_BYTES) * 2**20)
    return {
        "files": num_files,
        "audio_hours": Estimate.around(total / 3600, length_error),
        "start_seconds": start_seconds + warm_up,
        "seconds": Estimate.around(start_seconds + warm_up, DRIFT) + work,
        "disk_bytes": Estimate.around(disk, math.hypot(0.0 if config.per == "clip" else length_error, 0.05)),
        "calibration": {
            "runs": len(times),
            "audio_seconds": sum(audio),
            "seconds": sum(times),
            "headers": len(lengths),
        },
    }


def process_seconds() -> float:
    """Return the seconds on the wall since this process began."""
    created = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.time() - created
    # Linux states the time of boot in whole seconds, which psutil has added.
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (created - psutil.boot_time())


class _Enough(Exception):
    """The calibration has run long enough."""


def _time_runs(
    encoder: Encoder,
    files: Sequence[Path | str],
    config: EmbedConfig,
    device: str,
    batch_size: int | None,
    seconds: float,
    threads: int,
) -> tuple[list[float], list[float], float]:
    """Return seconds and seconds of audio of each run of batches, and by how many seconds the first is slower.

    The first is among the runs only where they are few; then it is not slower.

    Raises:
        AudioError: None of the recordings drawn can be embedded.
    """
    drawn = random.Random(0).sample(list(files), min(len(files), MAX_FILES))
    begins: list[float] = []
    audio, problem = [0.0], ""

    def advance(window_seconds: float, note: str = "") -> None:
        audio[-1] += window_seconds

    def before_batch() -> None:
        # The windows of a run are yielded after its last batch, so a batch after some of them begins another run.
        if begins and not audio[-1]:
            return
        begins.append(time.perf_counter())
        if begins[-1] - begins[0] > seconds and len(begins) > MIN_RUNS + 1:
            raise _Enough
        if len(begins) > 1:
            audio.append(0.0)

    chunks = embed_files(
        encoder, drawn, config, device, batch_size, advance, threads=threads, before_batch=before_batch
    )
    with suppress(_Enough), closing(chunks):
        for chunk in chunks:
            problem = chunk.problem or problem
        begins.append(time.perf_counter())
    if not sum(audio):
        raise AudioError(problem)
    times = [float(each) for each in np.diff(begins)]
    if len(times) <= MIN_RUNS:
        return times, audio, 0.0
    rate = sum(times[1:]) / sum(audio[1:])
    return times[1:], audio[1:], max(times[0] - rate * audio[0], 0.0)


def _window_seconds(encoder: Encoder, config: EmbedConfig) -> float:
    return config.window_seconds or encoder.card.window_seconds or DEFAULT_WINDOW_SECONDS


def _encoded_seconds(length: float, config: EmbedConfig) -> float:
    """Return how much of a recording is encoded."""
    if config.sample is None:
        return length
    count, seconds = config.sample.split("x")
    return min(length, int(count) * float(seconds))


def _header_seconds(files: Sequence[Path | str]) -> list[float]:
    """Return the lengths of local files drawn at random, as their headers state them."""
    lengths = []
    for path in random.Random(1).sample(list(files), min(len(files), MAX_HEADERS)):
        with suppress(AudioError):
            length = read_info(path).duration_seconds if isinstance(path, Path) else None
            if length is not None:
                lengths.append(length)
    return lengths


def mean_and_error(values: Sequence[float], is_all: bool) -> tuple[float, float]:
    """Return the mean of a sample and its relative standard error, 0 if the sample is everything."""
    mean = float(np.mean(values))
    if is_all:
        return mean, 0.0
    return mean, float(np.std(values, ddof=1) / math.sqrt(len(values)) / mean) if len(values) > 1 else 0.5


def ratio_error(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the relative standard error of a sum of values over a sum of weights, by the jackknife."""
    value_N, weight_N = np.asarray(values), np.asarray(weights)
    count = len(value_N)
    if count < 2:
        return 0.3
    left_N = (value_N.sum() - value_N) / (weight_N.sum() - weight_N)
    ratio = value_N.sum() / weight_N.sum()
    return float(np.sqrt((count - 1) / count * np.sum((left_N - left_N.mean()) ** 2)) / ratio)
