"""The measuring of one encoder: task after task through features, protocol and intervals to a record each.

Every record is written as soon as it is made, so a run that was stopped goes on where it left off: a task whose record
has the same fingerprint is done. The test clips' truths and answers stand beside the record as Parquet (columns id,
truth, answer; the last two as JSON), so that a new metric needs no new run.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from carrara.bench import answers, protocols, tasks
from carrara.bench.answers._base import Answer
from carrara.bench.inputs import Library, Prepared
from carrara.bench.interval import intervals
from carrara.bench.protocols._base import Outcome, Protocol
from carrara.bench.provenance import fingerprint, index_identity, run_part
from carrara.core.clip import SPLITS
from carrara.core.errors import DataError
from carrara.core.files import whole
from carrara.core.record import (
    DataPart,
    EncoderPart,
    ProtocolPart,
    Record,
    Score,
    TaskPart,
    read_record,
    record_path,
    write_record,
)
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder

Overwrite = Literal["never", "missing", "always"]


def bench(
    encoder: Encoder | str,
    tasks: Sequence[str | Task],
    data_dir: Path | str | None = None,
    results: Path | str = "results",
    *,
    device: str = "cpu",
    overwrite: Overwrite = "missing",
    limit: int | None = None,
    seed: int = 1234,
    protocol: str = "constrained",
    datasets: Mapping[str, Dataset] | None = None,
) -> list[Record]:
    """Measure an encoder on tasks and return a record a task, also written below `results`.

    Args:
        encoder: an encoder, or the name, folder or hub id of one.
        tasks: names on the shelf, or tasks.
        data_dir: folder of the datasets; none: where `$CARRARA_DATA` says.
        results: folder of the records.
        device: where the encoder and the probes run.
        overwrite: measure again `never`, when there is no record of this very question (`missing`), or `always`.
        limit: use so many clips a side at most; the records call themselves partial.
        seed: of the probes' draws and of the intervals'.
        protocol: name of the rules.
        datasets: datasets by name that take the place of the shelf's.

    A task whose answers are given frame by frame has no record for an encoder that answers once a clip; a line on
    standard error says so.

    Raises:
        UsageError: no such encoder, task or protocol.
        DataError: a dataset that is not there or a side with too few clips.
        StoreError: a record that cannot be read or written.
    """
    heard = _loaded(encoder, device)
    library = Library(heard, Path(data_dir) if data_dir else None, device, limit, datasets or {})
    rules = protocols.SHELF.get(protocol)
    found = []
    for name in tasks:
        task = _task(name)
        answer = answers.SHELF.get(task.answer)
        if answer.frames and heard.card.frame_rate is None:
            print(f"{task.name}: {heard.card.name} answers once a clip, not frame by frame; no record", file=sys.stderr)
            continue
        standing = _standing(library, rules, task, Path(results), overwrite)
        found.append(standing or _measure(library, rules, task, answer, Path(results), seed))
    return found


def predictions_path(record: Record, results: Path) -> Path:
    """Return where the test clips' truths and answers of a record stand."""
    return record.path(results).with_suffix(".predictions.parquet")


def _loaded(encoder: Encoder | str, device: str) -> Encoder:
    if isinstance(encoder, Encoder):
        return encoder
    from carrara.encoders._load import load

    return load(encoder, device)


def _task(task: str | Task) -> Task:
    return tasks.task(task) if isinstance(task, str) else task


def _standing(library: Library, rules: Protocol, task: Task, results: Path, overwrite: Overwrite) -> Record | None:
    """Return the record that makes a new measurement needless, if there is one."""
    card = library.encoder.card
    path = record_path(results, card.name, card.weights, rules.name, task.name, task.version)
    if overwrite == "always" or not path.is_file():
        return None
    record = read_record(path)
    # A run over a few clips never takes the place of a whole one unless that is asked for.
    if overwrite == "never" or (library.limit is not None and not record.partial):
        return record
    clips = library.clips(task)
    found_since = any(clip.path.is_file() for clip in clips if clip.id in record.data.missing)
    same = record.task.fingerprint == fingerprint(task, index_identity(clips))
    return record if same and not found_since and record.protocol.version == rules.version else None


def _measure(library: Library, rules: Protocol, task: Task, answer: Answer, results: Path, seed: int) -> Record:
    prepared = library.sides(task, answer)
    outcome = rules.run(task, answer, prepared.sides, seed, library.device)
    began = time.perf_counter()
    scores = _scores(task, answer, outcome, seed)
    seconds = {**prepared.seconds, **outcome.seconds, "intervals": time.perf_counter() - began}
    index = index_identity(library.clips(task))
    card = library.encoder.card
    sides = Counter(clip.split for clip in prepared.clips)
    record = Record(
        task=TaskPart(
            name=task.name,
            version=task.version,
            fingerprint=fingerprint(task, index),
            task=task.model_dump(mode="json"),
        ),
        data=DataPart(
            name=task.dataset,
            index=index,
            n={side: sides[side] for side in SPLITS},
            missing=tuple(prepared.missing),
        ),
        encoder=EncoderPart(
            name=card.name,
            weights=card.weights,
            code=card.code,
            parameters=card.parameters,
            trained_on=card.trained_on,
            license=card.license,
        ),
        protocol=ProtocolPart(
            name=rules.name,
            version=rules.version,
            tried=outcome.tried,
            chosen=outcome.chosen,
            on=f"valid {task.watch}",
        ),
        grid=outcome.grid,
        scores=scores,
        run=run_part(seed, library.device, seconds),
        partial=library.limit is not None or bool(prepared.missing),
    )
    _write_predictions(predictions_path(record, results), prepared, outcome)
    write_record(record, results)
    return record


def _scores(task: Task, answer: Answer, outcome: Outcome, seed: int) -> dict[str, Score]:
    values = answer.metrics(task, outcome.truths, outcome.answers)
    spans = intervals(task, answer, outcome.truths, outcome.answers, seed)
    scores = {}
    for name in dict.fromkeys((*task.scores, *task.also, task.watch)):
        low, high = spans[name]
        if not all(map(math.isfinite, (values[name], low, high))):
            raise DataError(
                f"task {task.name!r}: {name} has no value on these {len(outcome.truths)} test clips, "
                "whose truths do not vary; more clips are needed"
            )
        scores[name] = Score(
            value=values[name], low=low, high=high, unit=answer.unit, n=len(outcome.truths), better="higher"
        )
    return scores


def _write_predictions(path: Path, prepared: Prepared, outcome: Outcome) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": prepared.test_ids(),
            "truth": [json.dumps(truth, default=_plain) for truth in outcome.truths],
            "answer": [json.dumps(given, default=_plain) for given in outcome.answers],
        }
    )
    with whole(path) as draft:
        pq.write_table(table, draft)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else vars(value)
