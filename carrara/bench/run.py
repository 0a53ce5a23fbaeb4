"""Benchmarking: for each encoder and task data and features, protocol, predictions, scores with intervals, a record.

Each record is written as soon as it is complete, so an interrupted run continues where it stopped: a task whose record
has the same fingerprint is done. The test clips' truths and predictions are written beside the record
(`carrara/bench/predictions.py`), so that a new metric needs no new run.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

from carrara.audio.decode import probe_audio
from carrara.bench import protocols, task_types, tasks
from carrara.bench.config import BenchConfig, Overwrite, parse_protocol_name
from carrara.bench.constant import answer_constantly
from carrara.bench.fusion import build_provider, fuse_late
from carrara.bench.interval import confidence_intervals, encode_draws, unit_groups
from carrara.bench.predictions import predictions_path, write_predictions
from carrara.bench.protocols._base import Protocol, ProtocolInputs
from carrara.bench.provenance import fingerprint, run_info
from carrara.bench.select_tasks import select_tasks
from carrara.bench.task_data import FeatureProvider
from carrara.bench.task_types._base import Prediction, TaskType, Truth, requested_metrics
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, CarraraError, DataError, StoreError, UsageError
from carrara.core.paths import user_path
from carrara.core.printable import one_line
from carrara.core.record import (
    DataInfo,
    EncoderInfo,
    ProtocolInfo,
    Record,
    Records,
    Score,
    TaskInfo,
    read_record,
    record_path,
    write_record,
)
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder
from carrara.encoders._fused import FusedEncoder
from carrara.encoders._hub.any_encoder import AnyEncoder, resolve_encoder
from carrara.encoders._text.tower import JointAudio, TextEncoder
from carrara.nn.device import pick_device

FIRST_SEED = 1234


def bench(
    encoders: AnyEncoder | Iterable[AnyEncoder],
    tasks: str | Path | Task | Iterable[str | Path | Task] | None = None,
    data_dir: Path | str | None = None,
    results: Path | str = "results",
    *,
    suite: str | None = None,
    protocol: str = "constrained",
    settings: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 1,
    corruptions: str | Iterable[str] = (),
    overwrite: Overwrite = "missing",
    device: str = "auto",
    sample_rate: int | None = None,
    limit: int | None = None,
    partial: bool = False,
    config: BenchConfig | None = None,
    datasets: Mapping[str, Dataset] | None = None,
    on_record: Callable[[Record, float], None] | None = None,
    on_problem: Callable[[Task, CarraraError], None] | None = None,
) -> Records:
    """Measure encoders on tasks and return one record for each pair, also written below `results`.

    A frame-level task has no record for an encoder without frames, and a search by text none for one without a text
    tower; a line on standard error says so.

    Args:
        encoders: an encoder, the name, folder or hub id of one, an `nn.Module`, a model of transformers or a function
            (samples, lengths) → [batch, layers, frames, dim] or [batch, dim]; or a list of them.
        tasks: a task, the name of one, a pattern such as `pebble/*`, a task file (.toml, .py), or a folder of
            recordings with labels; or a list of them. None means those of the suite.
        data_dir: folder of the datasets. None means `$CARRARA_DATA`.
        results: folder of the records.
        suite: all tasks of this suite. None means only `tasks`, and without those Pebble's.
        protocol: name of the protocol (`carrara ls protocols`), also with settings: `semi-constrained:head=svm`.
        settings: changes to the protocol's settings by dotted path, such as `{"head": "lstm"}`.
        seeds: how many seeds from 1234 on are trained, or the seeds.
        corruptions: corruptions of the test audio on which the chosen probe is scored too, such as `noise:20db`.
        overwrite: whether a task with a record is measured again; see `BenchConfig`.
        device: where the encoder and the probes run: auto, cpu, cuda, cuda:1, mps.
        sample_rate: in Hz, that modules and functions take.
        limit: use at most so many clips of each split; the records are marked partial.
        partial: measure even if clips are missing or cannot be decoded; the records are then marked partial.
        config: protocol, settings, seeds, corruptions and overwrite together, instead of those.
        datasets: datasets by name that replace those of the registry.
        on_record: is called with each record as soon as there is one, and the seconds that it took.
        on_problem: is called with a task that failed and its error, and the others go on. None raises the first error.

    Raises:
        UsageError: no such encoder, task, protocol, setting or corruption, or they do not fit each other.
        DataError: a dataset that is not on disk or incomplete, or a split with too few clips.
        StoreError: a record that cannot be read or written.
    """
    config = config or replace(
        parse_protocol_name(protocol, settings),
        seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)) if isinstance(seeds, int) else tuple(seeds),
        corruptions=(corruptions,) if isinstance(corruptions, str) else tuple(corruptions),
        overwrite=overwrite,
    )
    config.check()
    selected, own_datasets = select_tasks(suite, tasks)
    device = pick_device(device)
    data_dir = None if data_dir is None else user_path(data_dir, "data_dir")
    results = user_path(results, "results")
    _check_options(results, limit)
    records = Records()
    for given in _list_encoders(encoders):
        encoder = resolve_encoder(given, device, sample_rate)
        provider = build_provider(
            encoder,
            data_dir,
            device,
            limit=limit,
            partial=partial,
            datasets={**own_datasets, **(datasets or {})},
        )
        records += _measure_missing(
            provider, config, [_resolve_task(task) for task in selected], results, on_record, on_problem
        )
    return records


def _check_options(results: Path, limit: int | None) -> None:
    """Check what would be noticed only after a measurement, or measure something else.

    Raises:
        StoreError: the folder of the records is a file.
        UsageError: the limit is no number of clips.
    """
    if results.is_file():
        raise StoreError(f"{results}: is a file; give the folder of the records")
    if limit is not None and (not isinstance(limit, Integral) or limit < 1):
        raise UsageError(f"limit={limit!r}: give a number of clips, at least 1")


def _list_encoders(encoders: Any) -> list[AnyEncoder]:
    # A network may be iterable (nn.Sequential) and is still one encoder.
    is_list = isinstance(encoders, Iterable) and not isinstance(encoders, str | Mapping) and not callable(encoders)
    return list(encoders) if is_list else [encoders]


def _measure_missing(
    provider: FeatureProvider,
    config: BenchConfig,
    tasks: Sequence[Task],
    results: Path,
    on_record: Callable[[Record, float], None] | None,
    on_problem: Callable[[Task, CarraraError], None] | None,
) -> list[Record]:
    """Return an encoder's record of each task, the existing one or a new one; see `bench`."""
    records = []
    card = provider.card
    for task in tasks:
        task_type, reason = task_types.REGISTRY.get(task.task_type), ""
        if task_type.frame_level and card.frame_rate is None:
            reason = "has no frames, which this task needs"
        elif card.is_constant and "retrieval" in task.task_type:
            reason = "finds all clips equally similar, noise is the floor here"
        elif task_type.has_text_queries and not isinstance(provider.encoder, TextEncoder):
            reason = "has no text tower, which this task needs"
        if reason:
            print(one_line(f"{task.name}: {card.name} {reason}; no record"), file=sys.stderr)
            continue
        started = time.perf_counter()
        try:
            record = _existing_record(provider, config, task, results)
            records.append(record or _measure(provider, config, task, results))
        except (DataError, UsageError) as problem:
            if on_problem is None:
                raise
            on_problem(task, problem)
            continue
        if on_record is not None:
            on_record(records[-1], time.perf_counter() - started)
    return records


def _resolve_task(task: str | Task) -> Task:
    return tasks.task(task) if isinstance(task, str) else task


def _existing_record(provider: FeatureProvider, config: BenchConfig, task: Task, results: Path) -> Record | None:
    """Return the record that makes a new measurement needless, or None."""
    card, protocol = provider.card, protocols.REGISTRY.get(config.protocol)
    path = record_path(results, card.name, card.weights_sha256, config.name, task.name, task.version)
    if config.overwrite == "always" or not path.is_file():
        return None
    try:
        record = read_record(path)
    except StoreError as problem:
        if config.overwrite == "never":
            raise
        warnings.warn(f"{problem}; the task is measured anew", stacklevel=2)
        return None
    # A run over a few clips replaces a complete record only with overwrite="always".
    if config.overwrite == "never" or (provider.limit is not None and not record.partial):
        return record
    index = provider.index(task)
    missing = set(record.data.missing)
    still_missing = index.absent | {clip.id for clip in index.clips if clip.id in missing and _is_undecodable(clip)}
    # A dataset of another version may expect fewer clips, all of which are there.
    is_partial = provider.limit is not None or bool(still_missing or index.shortfall)
    same = (
        record.partial <= is_partial
        and record.task.fingerprint == fingerprint(task, index.identity)
        and record.encoder.output_version == card.output_version
        and record.encoder.settings in ({}, provider.encoder.settings.model_dump(mode="json"))
        and record.protocol.version == protocol.version
        and set(config.seeds) <= {record.run.seed, *record.run.seeds}
        and set(config.corruptions) <= set(record.robustness)
    )
    return record if same and missing <= still_missing else None


def _is_undecodable(clip: Clip) -> bool:
    try:
        probe_audio(clip.path)
    except AudioError:
        return True
    return False


def _measure(provider: FeatureProvider, config: BenchConfig, task: Task, results: Path) -> Record:
    """Return a new record of a task, written below `results`."""
    started = time.perf_counter()
    encoder = provider.encoder
    task_type: TaskType = task_types.REGISTRY.get(task.task_type)
    protocol = _protocol_for(encoder, config)
    settings = config.protocol_settings()

    window_spec = protocol.window_spec(task, task_type, encoder.card, settings)
    if config.corruptions and window_spec is None:
        raise UsageError(f"--corrupt: {task.name} is not scored on corrupted audio; leave --corrupt or the task out")
    joint = provider.with_encoder(JointAudio(encoder), provider.home) if task_type.has_text_queries else provider
    data = joint.load(task, task_type, window_spec, task_type.splits)
    loaded = time.perf_counter()

    result = protocol.run(
        ProtocolInputs(
            task=task,
            task_type=task_type,
            encoder=encoder,
            train=data.splits["train"],
            valid=data.splits["valid"],
            settings=settings,
            seeds=config.seeds,
            device=provider.device,
        )
    )
    chosen = time.perf_counter()
    test, truths = data.unlabelled_test(), data.splits["test"].truths
    predictions_S = result.predictor.predict(test)
    predicted = time.perf_counter()
    dataset = provider.dataset(task)
    scores = _score(task, task_type, truths, predictions_S, test.clips, dataset)
    scored = time.perf_counter()
    seconds = {"features": loaded - started, **result.seconds}
    seconds |= {"test": predicted - chosen, "intervals": scored - predicted}
    robustness = {}
    for corruption in config.corruptions:
        corrupted_S = result.predictor.predict(joint.corrupted_test(data, corruption))
        robustness[corruption] = _score(task, task_type, truths, corrupted_S, test.clips, dataset)

    index = provider.index(task)
    record = Record(
        task=TaskInfo(
            name=task.name,
            version=task.version,
            fingerprint=fingerprint(task, index.identity),
            task=task.model_dump(mode="json"),
        ),
        data=DataInfo(
            name=task.dataset,
            index=index.identity,
            n={name: len(split.clips) for name, split in data.splits.items()},
            missing=data.missing,
        ),
        encoder=_encoder_info(provider),
        protocol=ProtocolInfo(
            name=config.name,
            version=protocol.version,
            tried=result.tried,
            chosen=result.chosen[0],
            monitor=f"valid {task.monitor}",
            chosen_by_seed=result.chosen if len(result.chosen) > 1 else (),
        ),
        grid=result.grid,
        scores=scores,
        run=run_info(config.seeds, provider.device, seconds),
        partial=provider.limit is not None or bool(data.missing or index.shortfall),
        exceeded_time_limit=scored - started > 3600 * config.time_limit_hours,
        robustness=robustness,
    )
    write_predictions(predictions_path(record, results), test.clips, truths, predictions_S, config.seeds)
    write_record(record, results)
    for folder in result.checkpoints:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def _protocol_for(encoder: Encoder, config: BenchConfig) -> Protocol:
    """Return the protocol, without training for a constant encoder, on each part for a late fusion."""
    protocol: Protocol = protocols.REGISTRY.get(config.protocol)
    if encoder.card.is_constant:
        return answer_constantly(protocol)
    return fuse_late(protocol) if isinstance(encoder, FusedEncoder) and encoder.is_late else protocol


def _encoder_info(provider: FeatureProvider) -> EncoderInfo:
    facts = provider.card.model_dump(include=set(EncoderInfo.model_fields))
    return EncoderInfo.model_validate(facts | {"settings": provider.encoder.settings.model_dump(mode="json")})


def _score(
    task: Task,
    task_type: TaskType,
    truths: Sequence[Truth],
    predictions_S: Sequence[Sequence[Prediction]],
    clips: Sequence[Clip],
    dataset: Dataset,
) -> dict[str, Score]:
    """Return each metric's mean over the training seeds, with its interval."""
    by_seed = [task_type.metrics(task, truths, predictions) for predictions in predictions_S]
    intervals = confidence_intervals(task, task_type, truths, predictions_S, unit_groups(clips))
    group_name = dataset.group_names.get(task.split_scheme, "group")
    scores = {}
    for name in requested_metrics(task):
        values = [metrics[name] for metrics in by_seed]
        value, interval = sum(values) / len(values), intervals[name]
        if not all(map(math.isfinite, (value, interval.low, interval.high))):
            raise DataError(
                f"task {task.name!r}: {name} has no value on these {len(truths)} test clips: too few of them differ "
                "in their truths"
            )
        scores[name] = Score(
            value=value,
            low=interval.low,
            high=interval.high,
            unit=task_type.unit,
            n=len(truths),
            scale=task_type.metric_scale(name),
            better="lower" if task_type.metric_scale(name) == "rank" else "higher",
            by_seed=tuple(values) if len(values) > 1 else (),
            method=interval.method,
            resampled=group_name if interval.groups < len(truths) else task_type.unit,
            groups=interval.groups,
            draws=encode_draws(interval.draw_G),
        )
    return scores
