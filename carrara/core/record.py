"""A record: one system's score on one task under one protocol, and all that it took to get it.

The path is the identity: `results/<encoder>/<weights>/<protocol>/<task>@<version>.json`. Written whole or not at all;
read by `read_record` alone, which brings older schemas up to date one step at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from carrara.core.errors import StoreError, UsageError
from carrara.core.io import write_text
from carrara.core.settings import Settings, parse_settings

SCHEMA = 1


class Score(Settings):
    """A metric's value on the test split with its 95 % interval, over `n` scored units (track, clip, note).

    Of several seeds the value is the mean and `by_seed` has each. A ratio is shown in percent, a level in dB as it is.
    """

    value: float
    low: float
    high: float
    unit: str
    n: int
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["ratio", "dB"] = "ratio"
    by_seed: tuple[float, ...] = ()


class GridPoint(Settings):
    """One probe of the search: what was tried and the best watched validation score it reached, at which epoch."""

    layer: str
    learning_rate: float
    valid: float
    epoch: int
    epochs: int
    seed: int | None = None


class TaskInfo(Settings):
    """Which question: the resolved task whole, and the fingerprint of task, index, answer kind and metrics."""

    name: str
    version: int
    fingerprint: str
    task: dict[str, Any]


class DataInfo(Settings):
    """Which recordings: the identity of the index, how many clips of each split were used, which were missing."""

    name: str
    index: str
    n: dict[str, int]
    missing: tuple[str, ...] = ()


class EncoderInfo(Settings):
    """Which representation: name, identity of its weights, output version, size, what it was trained on."""

    name: str
    weights_sha256: str
    output_version: int
    parameters: int
    trained_on: tuple[str, ...] = ()
    license: str = ""


class ProtocolInfo(Settings):
    """Which rules: how many probes were tried, which one validation chose (for the first seed), and by which score."""

    name: str
    version: int
    tried: int
    chosen: dict[str, Any]
    monitor: str
    chosen_by_seed: tuple[dict[str, Any], ...] = ()


class RunInfo(Settings):
    """What it took: seeds, device, seconds a phase, versions, source state, date (ISO, UTC) and the command."""

    seed: int
    seeds: tuple[int, ...] = ()
    device: str
    seconds: dict[str, float]
    versions: dict[str, str]
    git: str
    date: str
    command: str


class Record(Settings):
    """One score and all it took.

    `deformed` has, by deformation, the chosen probe's scores on test sound that was spoilt so; `over_wall` marks a task
    that took longer than the computational wall allows.
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

    def cell(self) -> float:
        """Return the row's score: the mean of the task's own metrics (benchmark.md, section 2.4)."""
        names = self.task.task["scores"]
        return sum(self.scores[name].value for name in names) / len(names)

    def path(self, results: Path) -> Path:
        """Return where this record stands below a folder of results."""
        return record_path(
            results,
            self.encoder.name,
            self.encoder.weights_sha256,
            self.protocol.name,
            self.task.name,
            self.task.version,
        )


def record_path(results: Path, encoder: str, weights: str, protocol: str, task: str, version: int) -> Path:
    """Return where the record with this identity stands below a folder of results."""
    folder = Path(results) / _plain(encoder) / weights[:12] / protocol
    return folder / f"{_plain(task)}@{version}.json"


def write_record(record: Record, results: Path) -> Path:
    """Write a record at its place and return the path.

    Raises:
        StoreError: it cannot be written.
    """
    path = record.path(results)
    write_text(path, json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False) + "\n")
    return path


def read_record(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        StoreError: not a record, cut short, or of a schema newer than this program.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        found = values["schema"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: not a record ({problem})") from None
    if not isinstance(found, int) or found > SCHEMA:
        raise StoreError(f"{path}: a record of schema {found}, this program reads up to {SCHEMA}; upgrade carrara")
    for step in range(found, SCHEMA):
        values = MIGRATIONS[step](values)
    try:
        return parse_settings(Record, values, str(path))
    except UsageError as problem:
        raise StoreError(str(problem)) from None


def read_records(results: Path) -> Iterator[Record]:
    """Yield every record below a folder, in the order of their paths.

    Raises:
        StoreError: the folder does not exist, or a file in it is not a record.
    """
    if not Path(results).is_dir():
        raise StoreError(f"{results}: no such folder of results; `carrara bench ENCODER -o {results}` makes one")
    for path in sorted(Path(results).rglob("*@*.json")):
        yield read_record(path)


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_.:" else "_" for char in name.replace("/", "__"))
