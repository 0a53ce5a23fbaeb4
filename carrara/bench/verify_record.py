"""Verify a record that others made: schema, task, protocol and choice, and every score again from its predictions.

What cannot be verified without the audio and the encoder: that the predictions are the encoder's, and that the truths
are the dataset's (`data.index` is their hash together with those of the other splits). Scores on corrupted audio have
no predictions beside them; only their form is verified.

Letters: G draws, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench import protocols, task_types, tasks
from carrara.bench.config import parse_protocol_name
from carrara.bench.interval import confidence_intervals, decode_draws
from carrara.bench.predictions import read_groups, read_predictions, to_metric_input
from carrara.bench.provenance import fingerprint
from carrara.bench.task_data import MIN_CLIPS
from carrara.bench.task_types._base import requested_metrics
from carrara.core.errors import CarraraError, StoreError, UsageError
from carrara.core.hashing import sha256_of_json
from carrara.core.printable import one_line
from carrara.core.record import GridPoint, Record, Score, read_record
from carrara.core.settings import parse_settings
from carrara.core.task import Task

MAX_RECORD_BYTES = 4 * 2**20
MAX_PREDICTIONS_BYTES = 64 * 2**20
MAX_EXPANDED_BYTES = 512 * 2**20
MAX_TEXT = 200
TOLERANCE = 1e-6
DRAW_TOLERANCE = 0.01  # standard scores in half precision
BLOCK_ROWS = 4096
CHOICE_KEYS = ("layer", "learning_rate", "epoch", "valid")


@dataclass(frozen=True)
class Finding:
    """What is wrong with a record.

    Attributes:
        check: which check: schema, size, task, protocol, choice, predictions, scores or intervals.
        problem: one line that names the value and the cure.
    """

    check: str
    problem: str

    def __str__(self) -> str:
        return f"{self.check}: {self.problem}"


def verify_record_file(path: Path) -> list[Finding]:
    """Return what is wrong with a record and the predictions beside it; empty where all is right.

    Args:
        path: of the record; the predictions are beside it, as `carrara bench` writes both.
    """
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return [Finding("size", f"a record of {path.stat().st_size:,} bytes; at most {MAX_RECORD_BYTES:,}")]
        record = read_record(path)
    except OSError as problem:
        return [Finding("schema", f"{path}: cannot be read ({problem.strerror or problem})")]
    except StoreError as problem:
        return [Finding("schema", one_line(str(problem)))]
    return verify_record(record, path.with_suffix(".predictions.parquet"))


def verify_record(record: Record, predictions: Path) -> list[Finding]:
    """Return what is wrong with a record and the file of its predictions; empty where all is right."""
    findings = [*_check_sizes(record), *_check_task(record)]
    if findings:
        return findings
    task = tasks.task(record.task.name)
    findings = [*_check_protocol(record, task), *_check_choice(record)]
    try:
        check_predictions_size(predictions)
        by_seed, group_of = read_predictions(predictions), read_groups(predictions)
    except StoreError as problem:
        return [*findings, Finding("predictions", one_line(str(problem)))]
    return [*findings, *_check_scores(record, task, by_seed, group_of)]


def check_predictions_size(path: Path) -> None:
    """Check that a file of predictions is small enough to be read, however well it is compressed.

    Raises:
        StoreError: there is no such file, it is none of predictions, or it is too large, as it is or expanded.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import compute

    if not path.is_file():
        raise StoreError(f"no predictions {path.name} beside the record; `carrara bench` writes them, upload both")
    if path.stat().st_size > MAX_PREDICTIONS_BYTES:
        raise StoreError(f"{path.name}: {path.stat().st_size:,} bytes; at most {MAX_PREDICTIONS_BYTES:,}")
    try:
        columns = [name for name in ("id", "group", "truth", "prediction") if name in pq.read_schema(path).names]
        file = pq.ParquetFile(path, read_dictionary=columns)
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        expanded = sum(group.total_byte_size for group in groups)
        # A text that is repeated is stored once, so the length of every row counts, not that of the file.
        if expanded <= MAX_EXPANDED_BYTES:
            expanded = 0
            for batch in file.iter_batches(BLOCK_ROWS, columns=columns):
                for column in batch.columns:
                    lengths = compute.binary_length(column.dictionary.cast(pa.string()))
                    expanded += compute.sum(lengths.take(column.indices)).as_py() or 0
                if expanded > MAX_EXPANDED_BYTES:
                    break
    except (OSError, ValueError, AttributeError, pa.ArrowException) as problem:
        reason = str(problem).partition("\n")[0][:MAX_TEXT]
        raise StoreError(f"{path.name}: cannot read predictions ({reason}); run this task again") from None
    if expanded > MAX_EXPANDED_BYTES:
        raise StoreError(f"{path.name}: more than {MAX_EXPANDED_BYTES:,} bytes when expanded; run this task again")


def truths_identity(predictions: Path) -> str:
    """Return a hash that two files of predictions share where their clips, groups and truths are the same."""
    by_clip = next(iter(read_predictions(predictions).values()))
    group_of = read_groups(predictions)
    return sha256_of_json([[clip, group_of[clip], by_clip[clip][0]] for clip in sorted(by_clip)])


def _check_sizes(record: Record) -> Iterator[Finding]:
    """Yield what is odd about names and numbers, whatever the task."""
    parts = record.path(Path()).parts
    if len(parts) != 4 or any(part in (".", "..") or "\\" in part for part in parts):
        yield Finding("schema", f"encoder, weights, protocol or task name no file: {one_line(str(parts))[:MAX_TEXT]}")
    for name, text in {
        "the encoder's name": record.encoder.name,
        "the protocol's name": record.protocol.name,
        "the licence": record.encoder.license,
        "the hash of the weights": record.encoder.weights_sha256,
    }.items():
        if len(text) > MAX_TEXT:
            yield Finding("size", f"{name} has {len(text):,} characters; at most {MAX_TEXT}")
        if one_line(text) != text:
            yield Finding("schema", f"{name} has control codes: {one_line(text)[:MAX_TEXT]}")
    if not record.encoder.name.strip():
        yield Finding("schema", "the encoder has no name")
    if not 0 <= record.encoder.parameters < 10**15:
        yield Finding("size", f"{record.encoder.parameters:.3g} parameters")
    if bad := [name for name, seconds in record.run.seconds.items() if not 0 <= seconds < 10**9]:
        yield Finding("schema", f"the seconds of {bad[0][:40]!r} are no duration")


def _check_task(record: Record) -> Iterator[Finding]:
    """Yield where the record's task is not the task of that name in this version of the program."""
    name = record.task.name
    if name not in tasks.REGISTRY.names():
        yield Finding("task", f"{name[:80]!r} is no task of this version; `carrara ls tasks` shows all")
        return
    known = tasks.task(name)
    if record.task.version != known.version:
        cure = "measure again" if record.task.version < known.version else "upgrade carrara"
        yield Finding("task", f"version {record.task.version} of {name}, this program has {known.version}; {cure}")
        return
    try:
        own = parse_settings(Task, record.task.task, "the record's task")
    except UsageError as problem:
        yield Finding("task", one_line(str(problem)))
        return
    differing = [key for key in Task.model_fields if getattr(own, key) != getattr(known, key)]
    if differing:
        yield Finding("task", f"{', '.join(differing)} of {name} differ from the task's; measure the task as it is")
    if record.task.fingerprint != fingerprint(known, record.data.index):
        yield Finding("task", f"the fingerprint is not that of {name} on the index in the record; measure again")
    if record.data.name != known.dataset:
        yield Finding("task", f"measured on {record.data.name[:80]!r}, the dataset of {name} is {known.dataset}")
    task_type = task_types.REGISTRY.get(known.task_type)
    if few := [split for split in task_type.splits if record.data.n.get(split, 0) < MIN_CLIPS]:
        yield Finding("task", f"fewer than {MIN_CLIPS} clips in the split {few[0]}")
    if bool(record.data.missing) and not record.partial:
        yield Finding("task", f"{len(record.data.missing)} clips are missing, and the record is not marked partial")
    if lacking := [metric for metric in requested_metrics(known) if metric not in record.scores]:
        yield Finding("scores", f"no {lacking[0]}, which {name} records; measure again")
    if other := sorted(record.scores.keys() - set(requested_metrics(known))):
        yield Finding("scores", f"{other[0][:80]!r} is no metric of {name}")


def _check_protocol(record: Record, task: Task) -> Iterator[Finding]:
    """Yield where the protocol, its settings or a point of the search is not one that the protocol has."""
    try:
        config = parse_protocol_name(record.protocol.name)
        settings = config.protocol_settings()
    except UsageError as problem:
        yield Finding("protocol", one_line(str(problem)))
        return
    protocol = protocols.REGISTRY.get(config.protocol)
    if config.name != record.protocol.name:
        yield Finding("protocol", f"{record.protocol.name[:MAX_TEXT]!r} is written otherwise: {config.name!r}")
    if record.protocol.version != protocol.version:
        yield Finding(
            "protocol",
            f"version {record.protocol.version} of {protocol.name}, this program has {protocol.version}; measure again",
        )
    if record.protocol.monitor != f"valid {task.monitor}":
        yield Finding("protocol", f"chosen by {record.protocol.monitor[:80]!r}, the task's is 'valid {task.monitor}'")
    for reason in protocol.check_search(task, settings, record.grid):
        yield Finding("protocol", f"outside of the search space of {protocol.name}: {one_line(reason)}")


def _check_choice(record: Record) -> Iterator[Finding]:
    """Yield where what a seed's validation chose is no point of the grid, or not its best."""
    protocol, seeds = record.protocol, record.run.seeds or (record.run.seed,)
    choices: Sequence[Mapping[str, Any]] = protocol.chosen_by_seed or (protocol.chosen,)
    if len(choices) != len(seeds) or len(set(seeds)) != len(seeds) or protocol.chosen != choices[0]:
        yield Finding("choice", f"{len(choices)} choices for the seeds {', '.join(map(str, seeds[:20]))}")
        return
    if protocol.tried < len(record.grid):
        yield Finding("choice", f"{protocol.tried} probes tried, and {len(record.grid)} points in the grid")
    if not record.grid:
        # A constant encoder and a search in a joint space choose nothing.
        if protocol.tried or not all(choice in ({"layer": "constant"}, {"space": "joint"}) for choice in choices):
            yield Finding("choice", "the grid is empty, so nothing shows what validation chose from")
        return
    for seed, choice in zip(seeds, choices):
        points = [point for point in record.grid if point.seed in (seed, None)]
        chosen = [point for point in points if _is_choice(point, choice)]
        if not chosen:
            yield Finding("choice", f"seed {seed}: {one_line(str(choice))[:MAX_TEXT]} is no point of the grid")
        elif max(point.valid for point in chosen) < max(point.valid for point in points):
            best = max(points, key=lambda point: point.valid)
            yield Finding(
                "choice",
                f"seed {seed}: layer {chosen[0].layer} reached {chosen[0].valid:.6g} on validation, layer {best.layer} "
                f"with learning rate {best.learning_rate:g} {best.valid:.6g}; validation alone may choose",
            )


def _is_choice(point: GridPoint, choice: Mapping[str, Any]) -> bool:
    values = {key: getattr(point, key) for key in CHOICE_KEYS} | point.settings
    return all(values[key] == value for key, value in choice.items() if key in values)


def _check_scores(
    record: Record, task: Task, by_seed: Mapping[int, Mapping[str, tuple[Any, Any]]], group_of: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield where scores and intervals are not those of the predictions."""
    seeds = record.run.seeds or (record.run.seed,)
    if set(by_seed) != set(seeds):
        yield Finding("predictions", f"of the seeds {sorted(by_seed)[:20]}, the record's are {sorted(seeds)[:20]}")
        return
    clips = list(by_seed[seeds[0]])
    if any(list(units) != clips for units in by_seed.values()):
        yield Finding("predictions", "the seeds predict different clips")
        return
    truths = [by_seed[seeds[0]][clip][0] for clip in clips]
    if any([units[clip][0] for clip in clips] != truths for units in by_seed.values()):
        yield Finding("predictions", "the seeds have different truths")
        return
    counts = {len(clips), record.data.n.get("test"), *(score.n for score in record.scores.values())}
    if len(counts) > 1:
        yield Finding("predictions", f"{len(clips)} clips predicted, {record.data.n.get('test')} of the test split")
        return
    task_type = task_types.REGISTRY.get(task.task_type)
    inputs = [to_metric_input(truth) for truth in truths]
    predictions_S = [[to_metric_input(by_seed[seed][clip][1]) for clip in clips] for seed in seeds]
    try:
        values_S = [task_type.metrics(task, inputs, predictions) for predictions in predictions_S]
        groups = [group_of[clip] for clip in clips]
        intervals = confidence_intervals(task, task_type, inputs, predictions_S, groups)
    except (CarraraError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        reason = one_line(" ".join(str(problem).split()))[:MAX_TEXT]
        yield Finding("predictions", f"cannot be scored ({reason}); run this task again")
        return
    for name, score in record.scores.items():
        value = sum(values[name] for values in values_S) / len(values_S)
        by_seed_S = tuple(values[name] for values in values_S) if len(values_S) > 1 else ()
        if not _is_close([score.value, *score.by_seed], [value, *by_seed_S]):
            yield Finding("scores", f"{name} is {score.value:.6f}, its predictions give {value:.6f}")
            continue
        if score.unit != task_type.unit or score.scale != task_type.scale:
            yield Finding("scores", f"{name} is in {score.scale} by {score.unit[:40]}, not {task_type.scale}")
        yield from _check_interval(name, score, intervals[name])


def _check_interval(name: str, score: Score, interval: Any) -> Iterator[Finding]:
    if not score.method:
        yield Finding("intervals", f"{name} has an interval of a former version; measure again")
    elif not _is_close([score.low, score.high], [interval.low, interval.high]):
        yield Finding(
            "intervals",
            f"{name} has [{score.low:.6f}, {score.high:.6f}], its predictions give "
            f"[{interval.low:.6f}, {interval.high:.6f}]",
        )
    elif (score.method, score.groups) != (interval.method, interval.groups):
        yield Finding(
            "intervals",
            f"{name} says {score.method[:40]} over {score.groups} groups, its predictions give {interval.method} over "
            f"{interval.groups}",
        )
    elif score.draws and not _are_draws(decode_draws(score.draws), interval.draw_G):
        yield Finding("intervals", f"{name} has draws that are not those of its predictions; measure again")


def _are_draws(stored_G: np.ndarray | None, draw_G: np.ndarray) -> bool:
    std = np.nanstd(draw_G)
    if stored_G is None or len(stored_G) != len(draw_G) or not std > 0:
        return False
    return bool(np.allclose(stored_G, np.nan_to_num((draw_G - np.nanmean(draw_G)) / std), atol=DRAW_TOLERANCE))


def _is_close(own: Sequence[float], recomputed: Sequence[float]) -> bool:
    return len(own) == len(recomputed) and all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in zip(own, recomputed)
    )
