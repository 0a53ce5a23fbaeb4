"""Writes embeddings to a Parquet file or a folder of Parquet parts, and resumes.

The metadata of a file says how it was made and which recordings it holds: path, SHA-256 and number of rows of each, in
the order of the rows. So the same command embeds only what is new, and files that were made in another way are never
mixed up or overwritten.
"""

from __future__ import annotations

import json
import os
import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import carrara
from carrara.audio.decode import VERSIONS, read_info
from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.io import file_lock
from carrara.core.progress import is_progress_shown, progress
from carrara.encoders._base import Encoder
from carrara.features.embed import EmbedChunk, EmbedConfig, embed_files, embedding_schema
from carrara.features.encode import compute_dtype
from carrara.features.extract import weights_identity
from carrara.features.hash_cache import hash_files
from carrara.features.store import write_errors

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

PART_ROWS, PART_SECONDS = 100_000, 300.0  # a part is closed at the end of the recording that exceeds either
ROW_GROUP_BYTES = 32 * 2**20
ROW_GROUP_TABLES = 4096


@dataclass
class EmbedReport:
    """Result of `write_embeddings`.

    Attributes:
        rows: rows of the output.
        reused: how many of the given recordings it held before.
        embedded: how many were embedded now.
        failed: why the others could not be embedded, by path.
    """

    rows: int = 0
    reused: int = 0
    embedded: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def write_embeddings(
    encoder: Encoder,
    files: Sequence[Path],
    output: Path,
    config: EmbedConfig,
    device: str = "cpu",
    batch_size: int | None = None,
    keep_others: bool = False,
    part_rows: int = PART_ROWS,
) -> EmbedReport:
    """Write the embeddings of recordings to Parquet, embedding only those that the output does not hold yet.

    Recordings are appended to `part-00000.parquet` and so on in a folder: the output itself, or `OUT.parquet.parts`
    until all are there and `OUT.parquet` is made. A part appears when it is complete, so whatever stops this function
    loses one part at most, and the next call continues. Then the output holds the given recordings.

    Args:
        encoder: the encoder; it is moved to the device and runs in evaluation mode.
        files: the recordings.
        output: a Parquet file `OUT.parquet`, or a folder for parts.
        config: what a row is.
        device: where the encoder runs.
        batch_size: largest number of windows in a batch. None means a number that suits the device.
        keep_others: keep the rows of recordings that are not given, or cannot be embedded now; else they are removed.
        part_rows: a part is closed at the end of the recording with which it has so many rows.

    Raises:
        UsageError: the encoder has no such layer, the windows do not suit it, or the output was made in another way.
        StoreError: the output is another kind of file, is being written, or cannot be written; nothing is lost.
    """
    output = Path(output)
    is_file = output.suffix == ".parquet" and not output.is_dir()
    folder = Path(f"{output}.parts") if is_file else output
    settings = {
        "encoder": encoder.card.name,
        "weights_sha256": weights_identity(encoder),
        "output_version": encoder.card.output_version,
        "encoder_settings": encoder.settings.model_dump(mode="json"),
        **config.model_dump(mode="json"),
        "decoders": VERSIONS,
        "compute_dtype": compute_dtype(device),
    }
    schema = embedding_schema(encoder, config).with_metadata(
        {
            "encoder": encoder.card.name,
            "weights_sha256": settings["weights_sha256"],
            "carrara": carrara.__version__,
            "settings": json.dumps(settings),
        }
    )
    try:
        with file_lock(folder / ".lock", wait=False):
            for leftover in (*folder.glob(".part-*.parquet.*"), output.with_name(f".{output.name}.tmp")):
                leftover.unlink(missing_ok=True)
            former = read_recordings(output, settings) if is_file and output.exists() else []
            stored = {(row.path, row.sha256) for row in [*former, *_read_parts(folder, settings)]}
            hashes = hash_files(files)
            report = EmbedReport()
            report.failed = {
                str(path): str(digest) for path, digest in hashes.items() if isinstance(digest, AudioError)
            }
            new = {
                path: digest
                for path, digest in hashes.items()
                if not isinstance(digest, AudioError) and (str(path), digest) not in stored
            }
            with (
                progress("embedding (seconds of audio)", _total_seconds(new)) as advance,
                closing(embed_files(encoder, list(new), config, device, batch_size, advance)) as chunks,
            ):
                report.failed |= _write_parts(folder, schema, chunks, new, part_rows)
            given = {str(path): str(hashes[path]) for path in hashes if str(path) not in report.failed}
            report.embedded = sum(str(path) in given for path in new)
            report.reused = len(given) - report.embedded
            if given:
                parts = _read_parts(folder, settings)
                kept: dict[str, StoredRecording] = {}
                for recording in [*former, *parts]:
                    digest = given.get(recording.path)
                    if recording.sha256 == digest or (keep_others and digest is None):
                        kept[recording.path] = recording
                report.rows = sum(recording.rows for recording in kept.values())
                if is_file:
                    order = list(kept) if keep_others else list(given)
                    _assemble_file(output, [kept[path] for path in order], former, parts, schema)
                else:
                    _remove_others(parts, kept, schema)
            return report
    finally:
        if is_file:
            with suppress(OSError):  # the folder of parts goes when it is empty
                folder.rmdir()


def _write_parts(
    folder: Path, schema: pyarrow.Schema, chunks: Iterable[EmbedChunk], hashes: Mapping[Path, str], part_rows: int
) -> dict[str, str]:
    """Append recordings to new parts, and return why some could not be embedded, by path."""
    number = 1 + max((int(file.stem.removeprefix("part-")) for file in _part_files(folder)), default=-1)
    failed: dict[str, str] = {}
    part: EmbeddingFile | None = None
    try:
        for chunk in chunks:
            part = part or EmbeddingFile(folder / f"part-{number:05d}.parquet", schema)
            if chunk.table is not None:
                part.write(chunk.table)
            elif chunk.problem is not None:
                part.discard()
                failed[str(chunk.path)] = chunk.problem
            else:
                part.complete(str(chunk.path), hashes[chunk.path])
                if part.rows >= part_rows or time.monotonic() - part.opened > PART_SECONDS:
                    finished, part, number = part, None, number + 1
                    finished.close()
    finally:
        if part is not None:  # also after an error or Ctrl-C: complete recordings are not lost
            part.close()
    return failed


def _part_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("part-*.parquet")) if file.stem.removeprefix("part-").isdecimal()]


def _read_parts(folder: Path, settings: Mapping[str, Any]) -> list[StoredRecording]:
    return [recording for file in _part_files(folder) for recording in read_recordings(file, settings)]


def _assemble_file(
    output: Path,
    recordings: list[StoredRecording],
    former: list[StoredRecording],
    parts: list[StoredRecording],
    schema: pyarrow.Schema,
) -> None:
    """Make the single file hold these recordings, unless it does; then remove the parts."""
    files = {recording.file for recording in parts}
    if recordings == parts and len(files) == 1:  # nothing is written twice
        with write_errors(output.parent):
            files.pop().replace(output)
    elif recordings != former:
        merge_recordings(output, recordings, schema)
    for file in files:
        file.unlink()


def _remove_others(parts: list[StoredRecording], kept: Mapping[str, StoredRecording], schema: pyarrow.Schema) -> None:
    """Remove the rows of all other recordings from a folder of parts."""
    for file, group in groupby(parts, key=lambda recording: recording.file):
        recordings = list(group)
        remaining = [recording for recording in recordings if kept.get(recording.path) is recording]
        if not remaining:
            file.unlink()
        elif len(remaining) < len(recordings):
            merge_recordings(file, remaining, schema)


def _total_seconds(files: Iterable[Path]) -> float | None:
    """Return the length of files as their headers state it. None where no progress bar shows it."""
    if not is_progress_shown():
        return None
    total = 0.0
    for path in files:
        with suppress(AudioError):
            total += read_info(path).duration_seconds or 0.0
    return total


@dataclass(frozen=True)
class StoredRecording:
    """A recording in a Parquet file: its path and SHA-256 when it was embedded, and its rows in the file."""

    path: str
    sha256: str
    file: Path
    first_row: int
    rows: int


def read_recordings(file: Path, settings: Mapping[str, Any]) -> list[StoredRecording]:
    """Return the recordings that a Parquet file holds, in the order of its rows.

    Args:
        file: the file.
        settings: how embeddings are made now.

    Raises:
        UsageError: the file was made with other settings.
        StoreError: it is another kind of file.
    """
    import pyarrow
    from pyarrow import parquet

    recordings: list[StoredRecording] = []
    try:
        metadata = parquet.read_metadata(file).metadata
        stored = _flat(json.loads(metadata[b"settings"]))
        first_row = 0
        for path, sha256, rows in json.loads(metadata[b"files"]):
            recordings.append(StoredRecording(path, sha256, file, first_row, rows))
            first_row += rows
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError):
        raise StoreError(f"{file}: exists already, and was not made by this command; choose another -o") from None
    for key, value in _flat(json.loads(json.dumps(settings))).items():
        if stored.get(key) != value:
            values = f"{reprlib.repr(stored.get(key))}, now {reprlib.repr(value)}"
            raise UsageError(f"{file}: made with another {key} ({values}); choose another -o or remove it")
    return recordings


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of the encoder one by one, so that a message can name the one that differs."""
    own = {key: value for key, value in settings.items() if key != "encoder_settings"}
    return own | {f"setting {key}": value for key, value in settings["encoder_settings"].items()}


class EmbeddingFile:
    """A Parquet file of embeddings that is being written, under a hidden name until `close`.

    Rows are gathered into row groups. One process at a time may write a file.

    Attributes:
        rows: rows of the recordings that are complete.
        opened: when writing began, on the monotonic clock.

    Raises:
        StoreError: the folder cannot be written, or the disk is full (any method).
    """

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self.path, self.rows, self.opened = path, 0, time.monotonic()
        self._tmp = path.with_name(f".{path.name}.tmp")
        self._schema = schema
        self._recordings: list[tuple[str, str, int]] = []
        self._pending: list[pyarrow.Table] = []  # not yet in the file, those of complete recordings first
        self._complete = 0  # tables of complete recordings among them
        self._pending_bytes = self._written_rows = self._current_rows = 0
        self._open()

    def write(self, table: pyarrow.Table) -> None:
        """Add rows to the current recording."""
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        self._current_rows += table.num_rows
        if self._pending_bytes >= ROW_GROUP_BYTES or len(self._pending) >= ROW_GROUP_TABLES:
            self._flush()

    def complete(self, path: str, sha256: str) -> None:
        """Make the rows added since the last call those of a recording."""
        self._recordings.append((path, sha256, self._current_rows))
        self.rows += self._current_rows
        self._current_rows, self._complete = 0, len(self._pending)

    def discard(self) -> None:
        """Drop the rows of a recording that is not complete."""
        del self._pending[self._complete :]
        self._pending_bytes, self._current_rows = sum(table.nbytes for table in self._pending), 0
        if self._written_rows > self.rows:  # some are in the file already: copy the others
            self._writer.close()
            copy = self._tmp.replace(self._tmp.with_suffix(".copy"))
            self._written_rows = 0
            self._open()
            with closing(_RowReader()) as reader:
                for table in reader.read(StoredRecording("", "", copy, 0, self.rows)):
                    self._pending.append(table)
                    self._flush()
            copy.unlink()

    def close(self) -> None:
        """Give the file its name; without a complete recording it is removed."""
        try:
            self.discard()
            if self._recordings:
                self._flush()
                self._writer.add_key_value_metadata({"files": json.dumps(self._recordings)})
            with write_errors(self.path.parent):
                self._writer.close()
                if self._recordings:
                    with open(self._tmp, "r+b") as file:
                        os.fsync(file.fileno())
                    self._tmp.replace(self.path)
        finally:
            self._tmp.unlink(missing_ok=True)

    def abort(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self._writer.close()
        self._tmp.unlink(missing_ok=True)

    def _open(self) -> None:
        from pyarrow import parquet

        with write_errors(self.path.parent):
            self._tmp.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(self._tmp, self._schema)

    def _flush(self) -> None:
        import pyarrow

        if self._pending:
            table = pyarrow.concat_tables(self._pending).combine_chunks().cast(self._schema)
            with write_errors(self.path.parent):
                self._writer.write_table(table)
            self._written_rows += table.num_rows
            self._pending, self._pending_bytes, self._complete = [], 0, 0


class _RowReader:
    """Reads rows of recordings; a row group that neighbours share is read once."""

    def __init__(self) -> None:
        self._file: parquet.ParquetFile | None = None
        self._path, self._number = Path(), -1
        self._group: pyarrow.Table | None = None

    def read(self, recording: StoredRecording) -> Iterator[pyarrow.Table]:
        """Yield the rows of a recording."""
        from pyarrow import parquet

        if self._file is None or self._path != recording.file:
            self.close()
            self._file, self._path, self._number = parquet.ParquetFile(recording.file), recording.file, -1
        first, last, begin = recording.first_row, recording.first_row + recording.rows, 0
        for number in range(self._file.num_row_groups):
            end = begin + self._file.metadata.row_group(number).num_rows
            if begin < last and end > first:
                if self._group is None or number != self._number:
                    self._number, self._group = number, self._file.read_row_group(number)
                offset = max(first - begin, 0)
                yield self._group.slice(offset, min(end, last) - begin - offset)
            begin = end

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()


def merge_recordings(path: Path, recordings: Iterable[StoredRecording], schema: pyarrow.Schema) -> None:
    """Write a Parquet file of recordings that other files hold; it may replace one of these.

    Raises:
        StoreError: the folder cannot be written, or the disk is full; an older file stays unharmed.
    """
    merged = EmbeddingFile(path, schema)
    with closing(_RowReader()) as reader:
        try:
            for recording in recordings:
                for table in reader.read(recording):
                    merged.write(table)
                merged.complete(recording.path, recording.sha256)
        except BaseException:
            merged.abort()
            raise
    merged.close()
