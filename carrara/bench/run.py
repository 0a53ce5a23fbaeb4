"""The measuring of one encoder: task after task through features, protocol and intervals to a record each.

Every record is written as soon as it is made, so a run that was stopped goes on where it left off: a task whose record
has the same fingerprint is done. The test clips' truths and answers stand beside the record
(`carrara/bench/predictions.py`), so that a new metric needs no new run.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from carrara.bench import protocols, task_types, tasks
from carrara.bench.config import BenchConfig
from carrara.bench.interval import intervals
from carrara.bench.predictions import predictions_path, write_predictions
from carrara.bench.protocols._base import ProtocolInputs, ProtocolResult
from carrara.bench.provenance import fingerprint, index_identity, run_part
from carrara.bench.task_data import FeatureProvider, TaskData
from carrara.bench.task_types._base import TaskType
from carrara.core.clip import SPLITS
from carrara.core.errors import AudioError, CarraraError, DataError, UsageError
from carrara.core.record import (
    DataInfo,
    EncoderInfo,
    ProtocolInfo,
    Record,
    Score,
    TaskInfo,
    read_record,
    record_path,
    write_record,
)
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder


def bench(
    encoder: Encoder | str,
    tasks: Sequence[str | Task],
    data_dir: Path | str | None = None,
    results: Path | str = "results",
    *,
    config: BenchConfig | None = None,
    device: str = "cpu",
    limit: int | None = None,
    partial: bool = False,
    datasets: Mapping[str, Dataset] | None = None,
    on_problem: Callable[[Task, CarraraError], None] | None = None,
) -> list[Record]:
    """Measure an encoder on tasks and return a record a task, also written below `results`.

    Args:
        encoder: an encoder, or the name, folder or hub id of one.
        tasks: names on the shelf, or tasks.
        data_dir: folder of the datasets; none: where `$CARRARA_DATA` says.
        results: folder of the records.
        rules: how; none: the constrained protocol with one seed.
        device: where the encoder and the probes run.
        limit: use so many clips a side at most; the records call themselves partial.
        partial: measure even if clips are missing; the records then call themselves partial.
        datasets: datasets by name that take the place of the shelf's.
        on_problem: told of a task that failed, and the others go on; none: the first failure is raised.

    A task whose answers are given frame by frame has no record for an encoder that answers once a clip; a line on
    standard error says so.

    Raises:
        UsageError: no such encoder, task, protocol, setting or deformation.
        DataError: a dataset that is not there or of which clips are missing, or a side with too few.
        StoreError: a record that cannot be read or written.
    """
    config = config or BenchConfig()
    config.check()
    heard = _loaded(encoder, device)
    library = FeatureProvider(heard, Path(data_dir) if data_dir else None, device, limit, partial, datasets or {})
    found = []
    for task in [_task(name) for name in tasks]:
        answer = task_types.REGISTRY.get(task.task_type)
        if answer.frames and heard.card.frame_rate is None:
            print(f"{task.name}: {heard.card.name} answers once a clip, not frame by frame; no record", file=sys.stderr)
            continue
        try:
            standing = _standing(library, config, task, Path(results))
            found.append(standing or _measure(library, config, task, answer, Path(results)))
        except (DataError, UsageError) as problem:
            if on_problem is None:
                raise
            on_problem(task, problem)
    return found


def _loaded(encoder: Encoder | str, device: str) -> Encoder:
    if isinstance(encoder, Encoder):
        return encoder
    from carrara.encoders._hub.load import load

    return load(encoder, device)


def _task(task: str | Task) -> Task:
    return tasks.task(task) if isinstance(task, str) else task


def _standing(library: FeatureProvider, rules: BenchConfig, task: Task, results: Path) -> Record | None:
    """Return the record that makes a new measurement needless, if there is one."""
    card, protocol = library.encoder.card, protocols.REGISTRY.get(rules.protocol)
    path = record_path(results, card.name, card.weights_sha256, rules.name, task.name, task.version)
    if rules.overwrite == "always" or not path.is_file():
        return None
    record = read_record(path)
    # A run over a few clips never takes the place of a whole one unless that is asked for.
    if rules.overwrite == "never" or (library.limit is not None and not record.partial):
        return record
    found_since = bool(set(record.data.missing) - library.absent(task) - _unheard(record, library, task))
    same = (
        record.task.fingerprint == fingerprint(task, index_identity(library.clips(task)))
        and record.protocol.version == protocol.version
        and set(rules.seeds) <= {record.run.seed, *record.run.seeds}
        and set(rules.corruptions) <= set(record.robustness)
    )
    return record if same and not found_since else None


def _unheard(record: Record, library: FeatureProvider, task: Task) -> set[str]:
    """Return the clips that are there but could not be decoded when the record was made, as far as still so."""
    from carrara.audio.decode import probe

    broken = set()
    for clip in library.clips(task):
        if clip.id in record.data.missing and clip.path.is_file():
            try:
                probe(clip.path)
            except AudioError:
                broken.add(clip.id)
    return broken


def _measure(library: FeatureProvider, rules: BenchConfig, task: Task, answer: TaskType, results: Path) -> Record:
    protocol = protocols.REGISTRY.get(rules.protocol)
    material = library.material(task, answer)
    began = time.perf_counter()
    outcome = protocol.run(
        ProtocolInputs(
            task=task,
            answer=answer,
            encoder=library.encoder,
            clips={side: material.of(side) for side in SPLITS},
            sides=material.sides,
            frame_sides=partial(material.sides, frames=True),
            seeds=rules.seeds,
            device=library.device,
            settings=rules.read(protocol),
        )
    )
    answered = time.perf_counter()
    scores = _scores(task, answer, outcome.truths, outcome.answers, rules.seeds[0])
    seconds = {**material.seconds, **outcome.seconds, "intervals": time.perf_counter() - answered}
    took = time.perf_counter() - began
    record = Record(
        task=_task_part(task, library),
        data=_data_part(task, library, material),
        encoder=_encoder_part(library.encoder),
        protocol=ProtocolInfo(
            name=rules.name,
            version=protocol.version,
            tried=outcome.tried,
            chosen=outcome.chosen[0],
            monitor=f"valid {task.monitor}",
            chosen_by_seed=outcome.chosen if len(outcome.chosen) > 1 else (),
        ),
        grid=outcome.grid,
        scores=scores,
        run=run_part(rules.seeds, library.device, seconds),
        partial=library.limit is not None or bool(material.missing or library.lacking(task)),
        exceeded_time_limit=took > 3600 * rules.time_limit_hours,
        robustness=_deformed(material, rules, outcome),
    )
    ids = [clip.id for clip in material.of("test")]
    write_predictions(predictions_path(record, results), ids, outcome, rules.seeds)
    write_record(record, results)
    return record


def _task_part(task: Task, library: FeatureProvider) -> TaskInfo:
    return TaskInfo(
        name=task.name,
        version=task.version,
        fingerprint=fingerprint(task, index_identity(library.clips(task))),
        task=task.model_dump(mode="json"),
    )


def _data_part(task: Task, library: FeatureProvider, material: TaskData) -> DataInfo:
    sides = Counter(clip.split for clip in material.clips)
    return DataInfo(
        name=task.dataset,
        index=index_identity(library.clips(task)),
        n={side: sides[side] for side in SPLITS},
        missing=tuple(material.missing),
    )


def _encoder_part(encoder: Encoder) -> EncoderInfo:
    card = encoder.card
    return EncoderInfo(
        name=card.name,
        weights_sha256=card.weights_sha256,
        output_version=card.output_version,
        parameters=card.parameters,
        trained_on=card.trained_on,
        license=card.license,
    )


def _deformed(material: TaskData, rules: BenchConfig, outcome: ProtocolResult) -> dict[str, dict[str, Score]]:
    if rules.corruptions and outcome.read is None:
        raise UsageError(f"--deform: {material.task.name} cannot be asked about spoilt sound")
    found = {}
    for deform in rules.corruptions:
        side = material.spoilt(deform, outcome.frames)
        given = outcome.read(side) if outcome.read else []
        found[deform] = _scores(material.task, material.answer, side.truths, given, rules.seeds[0])
    return found


def _scores(
    task: Task, answer: TaskType, truths: Sequence[Any], answers_S: Sequence[Sequence[Any]], seed: int
) -> dict[str, Score]:
    by_seed = [answer.metrics(task, truths, given) for given in answers_S]
    spans = intervals(task, answer, truths, answers_S, seed)
    scores = {}
    for name in dict.fromkeys((*task.metrics, *task.extra_metrics, task.monitor)):
        values = [one[name] for one in by_seed]
        value, (low, high) = sum(values) / len(values), spans[name]
        if not all(map(math.isfinite, (value, low, high))):
            raise DataError(
                f"task {task.name!r}: {name} has no value on these {len(truths)} test clips, "
                "whose truths do not vary; more clips are needed"
            )
        scores[name] = Score(
            value=value,
            low=low,
            high=high,
            unit=answer.unit,
            n=len(truths),
            scale=answer.scale,
            by_seed=tuple(values) if len(values) > 1 else (),
        )
    return scores
