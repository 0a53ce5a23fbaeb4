"""A record: the scores of one system on one task under one protocol, with everything needed to repeat them.

The path identifies a record: `results/<encoder>/<weights>/<protocol>/<task>@<version>.json`.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import warnings
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from carrara.core.errors import StoreError, UsageError
from carrara.core.io import write_text
from carrara.core.settings import Settings, parse_settings
from carrara.core.strict_json import read_json_object

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2


class Score(Settings):
    """A metric's finite value on the test split with its 95 % interval, over `n` scored units (track, clip, note).

    With several seeds, `value` is their mean and `by_seed` has each. Ratios are shown in percent, levels in dB, ranks
    as they are.

    The interval is of the kind `method` over `groups` independent groups, each a `resampled` (clip, song, singer,
    instrument, artist); both are empty in records older than these fields, whose intervals took every clip to be
    independent. `draws` has the metric in the draws of the bootstrap, as standard scores in half precision, base64:
    scores on the same clips are combined by them.
    """

    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    unit: str
    n: int
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["ratio", "dB", "rank"] = "ratio"
    by_seed: tuple[FiniteFloat, ...] = ()
    method: str = ""
    resampled: str = ""
    groups: int = 0
    draws: str = ""

    @field_validator("draws")
    @classmethod
    def _check_draws(cls, text: str) -> str:
        half_floats = base64.b64decode(text, validate=True)
        if len(half_floats) % 2 or not all(
            math.isfinite(number) for (number,) in struct.iter_unpack("<e", half_floats)
        ):
            raise ValueError("no finite numbers in half precision")
        return text

    def __str__(self) -> str:
        unit = 100.0 if self.scale == "ratio" else 1.0
        value, low, high = (f"{unit * each:.1f}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]{' dB' * (self.scale == 'dB')}"


class GridPoint(Settings):
    """One probe of the grid search: its setting and its best monitored validation score, reached at `epoch`.

    Each of its `epochs` was scored on all validation clips that the record counts (`data.n`), so that the best score of
    a grid is above what to expect of its probe [tsamardinos2018].

    `settings` has what else the protocol searches over, such as C; what has no learning rate has 0.
    """

    layer: str
    learning_rate: float
    valid: float
    epoch: int
    epochs: int
    seed: int | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class TaskInfo(Settings):
    """The resolved task, and the fingerprint of task, index, task type and metrics."""

    name: str
    version: int
    fingerprint: str
    task: dict[str, Any]


class DataInfo(Settings):
    """The recordings: the hash of the index, the number of clips used of each split, and the missing clips."""

    name: str
    index: str
    n: dict[str, int]
    missing: tuple[str, ...] = ()


class EncoderInfo(Settings):
    """The representation: name, hash of its weights, output version, settings, size, training data, licence.

    `settings` is empty in records older than this field.
    """

    name: str
    weights_sha256: str
    output_version: int
    parameters: int
    trained_on: tuple[str, ...] = ()
    license: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class ProtocolInfo(Settings):
    """The protocol: how many probes were tried, which one validation chose (for the first seed), by which score."""

    name: str
    version: int
    tried: int
    chosen: dict[str, Any]
    monitor: str
    chosen_by_seed: tuple[dict[str, Any], ...] = ()


class RunInfo(Settings):
    """The run: seeds, device, seconds per phase, package versions, commit, date (ISO, UTC) and command."""

    seed: int
    seeds: tuple[int, ...] = ()
    device: str
    seconds: dict[str, float]
    versions: dict[str, str]
    git: str
    date: str
    command: str


class Record(Settings):
    """The scores of one system on one task.

    `robustness` has the chosen probe's scores on corrupted test audio, by corruption; `exceeded_time_limit` marks a
    task that took longer than the protocol's time limit; `partial` marks one measured on a part of its clips.
    """

    schema_version: int = Field(default=SCHEMA, alias="schema")
    task: TaskInfo
    data: DataInfo
    encoder: EncoderInfo
    protocol: ProtocolInfo
    grid: tuple[GridPoint, ...]
    scores: dict[str, Score]
    run: RunInfo
    partial: bool = False
    exceeded_time_limit: bool = False
    robustness: dict[str, dict[str, Score]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_task(self) -> Record:
        metrics = self.task.task.get("metrics")
        if not isinstance(metrics, list | tuple) or not metrics:
            raise ValueError("its task names no metrics")
        if lacking := [name for name in metrics if not isinstance(name, str) or name not in self.scores]:
            raise ValueError(f"it lacks the score of {str(lacking[0])[:40]!r}, a metric of its task")
        return self

    def mean_score(self) -> float:
        """Return the mean of the task's own metrics [notes/benchmark §2.4]."""
        names = self.task.task["metrics"]
        return sum(self.scores[name].value for name in names) / len(names)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {score}" for name, score in self.scores.items())
        return f"<record of {self.encoder.name} on {self.task.name} ({self.protocol.name}): {scores}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return Records([self])._repr_html_()

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each score; see `Records.to_frame`."""
        return Records([self]).to_frame()

    def path(self, results: Path) -> Path:
        """Return the path of this record below a folder of results."""
        return record_path(
            results,
            self.encoder.name,
            self.encoder.weights_sha256,
            self.protocol.name,
            self.task.name,
            self.task.version,
        )


class Records(list[Record]):
    """A list of records that notebooks show as a table."""

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each score: system, task, protocol, metric, value, low, high, n, partial.

        Values are as recorded: ratios between 0 and 1, levels in dB.
        """
        import pandas as pd

        columns = ("system", "task", "protocol", "metric", "value", "low", "high", "n", "partial")
        rows = [
            [
                *(record.encoder.name, record.task.name, record.protocol.name, metric),
                *(score.value, score.low, score.high, score.n, record.partial),
            ]
            for record in self
            for metric, score in record.scores.items()
        ]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "<no records>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(record.encoder.name)}</td><td>{escape(record.task.name)}</td>"
            f"<td>{escape(record.protocol.name)}</td><td>{escape(metric)}</td><td>{score}</td></tr>"
            for record in self
            for metric, score in record.scores.items()
        )
        head = "".join(f"<th>{name}</th>" for name in ("system", "task", "protocol", "metric", "score"))
        return f"<table><tr>{head}</tr>{rows}</table>"


def record_path(results: Path, encoder: str, weights: str, protocol: str, task: str, version: int) -> Path:
    """Return the path of the record with this identity below a folder of results."""
    folder = Path(results) / _plain(encoder) / weights[:12] / protocol
    return folder / f"{_plain(task)}@{version}.json"


def write_record(record: Record, results: Path) -> Path:
    """Write a record below a folder of results and return its path.

    Raises:
        StoreError: it cannot be written.
    """
    path = record.path(results)
    write_text(path, json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n")
    return path


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        StoreError: the file is not a record, is cut short, or has the schema of another version of this program.
    """
    try:
        # Only the grid may hold an infinity: the score of a probe that diverged at once.
        values = read_json_object(Path(path), allow_nan=True)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise StoreError(f"{path}: not a record ({reason})") from None
    schema = values.get("schema")
    if type(schema) is not int or schema < 1:
        raise StoreError(f"{path}: not a record (its schema is {str(schema)[:40]!r})")
    if schema != SCHEMA:
        cure = "measure again" if schema < SCHEMA else "upgrade carrara"
        raise StoreError(f"{path}: a record of schema {schema}, this program reads schema {SCHEMA}; {cure}")
    try:
        return parse_settings(Record, values, str(path))
    except UsageError as problem:
        raise StoreError(str(problem)) from None


def read_records(results: Path) -> Iterator[Record]:
    """Yield every record below a folder, in the order of their paths.

    A file that is no record is left out with a warning that names it; hidden files (a Mac's `._x.json`) are left out.

    Raises:
        StoreError: the folder does not exist.
    """
    if not Path(results).is_dir():
        raise StoreError(f"{results}: no such folder of results; `carrara bench ENCODER -o {results}` creates one")
    for path in _record_files(results):
        try:
            yield read_record(path)
        except StoreError as problem:
            warnings.warn(f"left out: {problem}", stacklevel=2)


def find_record_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of records that some paths name: files as they are, and those below folders, sorted.

    Raises:
        UsageError: there is no such file or folder, or a folder holds no records.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = _record_files(path)
            if not below:
                raise UsageError(f"{path}: no records in it; `carrara bench ENCODER -o {path}` writes some")
            files += below
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; give a record or a folder of results")
    return list(dict.fromkeys(files))


def _record_files(folder: Path) -> list[Path]:
    return [path for path in sorted(Path(folder).rglob("*@*.json")) if not path.name.startswith(".")]


def _plain(name: str) -> str:
    """Return a name that every system takes for a folder: without the colon, which Windows forbids, or dots around."""
    plain = "".join(char if char.isalnum() or char in "-_." else "_" for char in name.replace("/", "__"))
    return plain.strip(".") or "_"
