"""Parquet files that hold the audio itself, as Hugging Face datasets writes them: a column `audio` of {bytes, path}.

Each row is an item. Where columns give the length (`duration`, `seconds`, or `samples` with `sample_rate`), no audio is
read to list them; otherwise each file is read once, row group by row group, and the lengths are kept in
`$CARRARA_HOME/shards` until the file changes. A crop needs the row group that holds its row, so row groups count as
shards for the order of an epoch (stream.py), and the last ones read stay in memory, up to `CACHE_BYTES`.

Tags of a tagging run come from a column of strings, lists of strings, or class numbers whose names datasets' own
metadata holds.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from carrara.core.errors import AudioError, DataError
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write
from carrara.core.paths import home
from carrara.core.storage import open_filesystem
from carrara.core.strict_json import parse_json, read_json
from carrara.pretrain.corpus.durations import read_duration

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

AUDIO, BYTES, PATH = "audio", "bytes", "path"
FORMAT = 1
CACHE_BYTES = 2**30
LENGTHS = ("duration", "seconds", "samples", "sample_rate")


def open_parquet(address: str) -> parquet.ParquetFile:
    """Return a Parquet file, local or remote; only the columns and rows in use are read.

    Raises:
        AudioError: it cannot be read, or is none.
    """
    import pyarrow
    from pyarrow import parquet

    files, path = open_filesystem(address)
    try:
        return parquet.ParquetFile(files.open(path, "rb"))
    except (OSError, pyarrow.ArrowException) as problem:
        reason = "no such file" if isinstance(problem, FileNotFoundError) else str(problem).partition("\n")[0]
        raise AudioError(f"{address}: cannot be read: {reason}") from None


def holds_audio(address: str) -> bool:
    """Return whether a file is a Parquet file with audio bytes in it; a file that cannot be read is none."""
    try:
        schema = open_parquet(address).schema_arrow
    except AudioError:
        return False
    index = schema.get_field_index(AUDIO)
    return index >= 0 and any(field.name == BYTES for field in _fields(schema.field(index).type))


def _fields(kind: pyarrow.DataType) -> list[pyarrow.Field]:
    import pyarrow

    return list(kind) if pyarrow.types.is_struct(kind) else []


def read_parquet_lengths(address: str) -> tuple[list[float | None], list[bool], list[str]]:
    """Return of each row the duration, None where it cannot be read, and whether a column gave it; and the reasons.

    Raises:
        AudioError: the file cannot be read.
        StoreError: the lengths cannot be kept.
    """
    file = open_parquet(address)
    names = [name for name in LENGTHS if name in file.schema_arrow.names]
    given: list[float | None] = [None] * file.metadata.num_rows
    if names:
        given = [_given_length(row) for row in file.read(names).to_pylist()]
    if None not in given:
        return given, [True] * len(given), []
    files, path = open_filesystem(address)
    cache_path = home() / "shards" / f"{sha256_of_json(address)[:32]}.json"
    key = {"format": FORMAT, "parquet": address, "version": str(files.ukey(path))}
    cached = _read_cached(cache_path, key)
    if cached is None:
        cached = _measure_lengths(file, address, given)
        with atomic_write(cache_path) as temporary:
            temporary.write_text(json.dumps({**key, "seconds": cached[0], "problems": cached[1]}), encoding="utf-8")
    return cached[0], [each is not None for each in given], cached[1]


def _given_length(row: dict[str, Any]) -> float | None:
    try:
        seconds = row.get("duration") or row.get("seconds") or row["samples"] / row["sample_rate"]
        return float(seconds) if 0 < float(seconds) < math.inf else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _read_cached(path: Path, key: dict[str, Any]) -> tuple[list[float | None], list[str]] | None:
    try:
        content = read_json(path)
        if any(content[name] != value for name, value in key.items()):
            return None
        return content["seconds"], content["problems"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or cut short: measured again


def _measure_lengths(
    file: parquet.ParquetFile, address: str, given: list[float | None]
) -> tuple[list[float | None], list[str]]:
    """Return the duration of each row by its header, reading one row group after another."""
    seconds, problems = list(given), []
    row = 0
    for batch in file.iter_batches(batch_size=16, columns=[AUDIO]):
        for audio in batch.column(0):
            if seconds[row] is None:
                try:
                    with _as_file(audio.as_py(), f"{address}, row {row + 1}") as name:
                        seconds[row] = read_duration(name)
                except AudioError as problem:
                    problems.append(str(problem))
            row += 1
    return seconds, problems


class _as_file:
    """The bytes of a row as a temporary file whose name errors replace by the row's."""

    def __init__(self, audio: dict[str, Any] | None, name: str) -> None:
        self.name, self.content = name, (audio or {}).get(BYTES)
        self.suffix = Path(str((audio or {}).get(PATH) or "")).suffix

    def __enter__(self) -> str:
        if not self.content:
            raise AudioError(f"{self.name}: has no audio bytes")
        self.file: Any = NamedTemporaryFile(prefix="carrara-", suffix=self.suffix)
        self.file.write(self.content)
        self.file.flush()
        return str(self.file.name)

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(problem, AudioError):
            raise AudioError(str(problem).replace(self.file.name, self.name)) from None


class _RowGroups:
    """The row groups read last, for all threads; the oldest go where they exceed `CACHE_BYTES` together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.groups: OrderedDict[tuple[str, int], pyarrow.ChunkedArray] = OrderedDict()
        self.first_rows: dict[str, list[int]] = {}

    def row(self, address: str, row: int) -> dict[str, Any] | None:
        """Return {bytes, path} of a row."""
        import pyarrow

        with self.lock:
            firsts = self.first_rows.get(address)
            file = None
            if firsts is None:
                file = open_parquet(address)
                firsts = self.first_rows[address] = group_starts(file)
            group = next(index for index in reversed(range(len(firsts))) if firsts[index] <= row)
            column = self.groups.pop((address, group), None)
            if column is None:
                try:
                    column = (file or open_parquet(address)).read_row_group(group, columns=[AUDIO]).column(0)
                except (OSError, pyarrow.ArrowException) as problem:
                    reason = str(problem).partition("\n")[0]
                    raise AudioError(f"{address}, row {row + 1}: cannot be read: {reason}") from None
            self.groups[address, group] = column
            while len(self.groups) > 1 and sum(each.nbytes for each in self.groups.values()) > CACHE_BYTES:
                self.groups.popitem(last=False)
        value: dict[str, Any] | None = column[row - firsts[group]].as_py()
        return value


_ROW_GROUPS = _RowGroups()


def parquet_row_file(address: str, row: int) -> _as_file:
    """Return the audio of a row, as a context that gives the name of a file for as long as it is open.

    Raises:
        AudioError: it cannot be read.
    """
    return _as_file(_ROW_GROUPS.row(address, row), f"{address}, row {row + 1}")


def group_starts(file: parquet.ParquetFile) -> list[int]:
    """Return the first row of each row group that has rows."""
    starts, row = [], 0
    for index in range(file.metadata.num_row_groups):
        starts.append(row)
        row += file.metadata.row_group(index).num_rows
    return starts


def read_parquet_tags(address: str, field: str) -> tuple[list[list[str]], list[str]]:
    """Return the tags of each row, and its split where there is a column `split`, else "".

    Raises:
        DataError: there is no such column, or it holds neither strings nor named classes.
        AudioError: the file cannot be read.
    """
    file = open_parquet(address)
    names = file.schema_arrow.names
    if field not in names:
        others = ", ".join(name for name in names if name != AUDIO)
        raise DataError(f"{address}: has no column {field}, only {others}; choose one with --set labels.field=NAME")
    table = file.read([field, *(["split"] if "split" in names else [])])
    classes = _class_names(file.schema_arrow.metadata or {}, field)
    tags = [_tags_of(value, classes, address, field) for value in table[field].to_pylist()]
    splits = [str(split or "") for split in table["split"].to_pylist()] if "split" in table.column_names else []
    return tags, splits or [""] * len(tags)


def _class_names(metadata: dict[bytes, bytes], field: str) -> list[str]:
    try:
        feature = parse_json(metadata[b"huggingface"], allow_nan=True)["info"]["features"][field]
    except (KeyError, ValueError, TypeError):
        return []
    feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
    return list(feature.get("names", [])) if isinstance(feature, dict) else []


def _tags_of(value: Any, classes: list[str], address: str, field: str) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    tags = [
        classes[each] if isinstance(each, int) and not isinstance(each, bool) and 0 <= each < len(classes) else each
        for each in values
    ]
    if not all(isinstance(tag, str) for tag in tags):
        raise DataError(
            f"{address}: column {field} holds {str(value)[:40]!r}, neither strings nor classes with names; choose "
            "another with --set labels.field=NAME"
        )
    return tags
