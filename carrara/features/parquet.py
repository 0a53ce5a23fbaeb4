"""Writes embeddings to a Parquet file or a folder of Parquet parts, and resumes.

The metadata of a file says how it was made and which recordings it holds, by path and SHA-256. So the same command
embeds only what is new, recordings that are not named keep their rows, and files that were made in another way are
never mixed up or overwritten.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carrara.audio.decode import read_info
from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.io import file_lock
from carrara.core.progress import is_progress_shown, progress
from carrara.core.storage import is_remote
from carrara.core.strict_json import parse_json, parse_json_object
from carrara.encoders._base import Encoder
from carrara.features.embed import (
    EmbedChunk,
    embed_files,
    embed_settings,
    embedding_schema,
    settings_metadata,
)
from carrara.features.embed_config import EmbedConfig
from carrara.features.embedding_table import flatten_settings
from carrara.features.hash_cache import FileHashCache, hash_files
from carrara.features.ray_pool import RayCluster, embed_on_ray
from carrara.features.store import write_errors

if TYPE_CHECKING:
    import pyarrow

PART_ROWS, PART_SECONDS = 100_000, 300.0  # a part is closed at the end of the recording that exceeds either
ROW_GROUP_BYTES, ROW_GROUP_TABLES = 32 * 2**20, 4096
MAX_HEADERS = 5000  # of more files the headers are not read before embedding begins
LEFTOVER = re.compile(r"\.part-\d+\.parquet\.(tmp|copy)")  # of a killed process


@dataclass
class EmbedReport:
    """Result of `write_embeddings`.

    Attributes:
        rows: Rows of the output.
        recordings: Recordings of the output.
        reused: How many of the given recordings it held before.
        embedded: How many were embedded now.
        failed: Why the others could not be embedded, by path.
        kept: Paths of the recordings whose former rows stay: those that were not given, or failed.
    """

    rows: int = 0
    recordings: int = 0
    reused: int = 0
    embedded: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Recording:
    """A recording in a Parquet file: its path, and its SHA-256 when it was embedded."""

    path: str
    sha256: str
    file: Path


def write_embeddings(
    encoder: Encoder,
    files: Sequence[Path | str],
    output: Path,
    config: EmbedConfig,
    device: str = "cpu",
    batch_size: int | None = None,
    overwrite: bool = False,
    part_rows: int = PART_ROWS,
    threads: int = 2,
    cluster: RayCluster | None = None,
) -> EmbedReport:
    """Write the embeddings of recordings to Parquet, embedding only those that the output does not hold yet.

    Recordings are appended to `part-00000.parquet` and so on in a folder: the output itself, or `OUT.parquet.parts`
    until all are there and `OUT.parquet` is made. A part appears when it is complete, so whatever stops this function
    loses one part at most, and the next call continues. Other files in the folder stay.

    Args:
        encoder: The encoder; it is moved to the device and runs in evaluation mode.
        files: The recordings, local or as fsspec addresses.
        output: A Parquet file `OUT.parquet`, or a folder for parts; it is made or completed.
        config: What a row is.
        device: Where the encoder runs.
        batch_size: Largest number of windows in a batch. None means a number that suits the device.
        overwrite: Drop the rows of recordings that are not given, and an output that was made in another way.
        part_rows: A part is closed at the end of the recording with which it has so many rows.
        threads: How many files are read or decoded at once.
        cluster: Ray's, on which they are embedded; None embeds in this process.

    Raises:
        UsageError: The encoder has no such layer, the windows do not suit it, or the output was made in another way.
        StoreError: The output is another kind of file, is being written, or cannot be written; nothing is lost.
    """
    output = Path(output)
    is_file = output.suffix == ".parquet" and not output.is_dir()
    output = Path(os.path.realpath(output)) if is_file else output  # a link stays
    if is_file and output.exists() and not output.is_file():
        raise StoreError(f"{output}: a pipe or device; choose another -o")
    folder = Path(f"{output}.parts") if is_file else output
    is_new = not folder.exists()
    settings = embed_settings(encoder, config, device)
    schema = embedding_schema(encoder, config).with_metadata(settings_metadata(settings))
    try:
        with file_lock(folder / ".lock", wait=False):
            _sweep(folder, output, is_file)
            before = [*([output] if is_file and output.exists() else []), *_list_parts(folder)]
            obsolete = [file for file in before if overwrite and _find_difference(file, settings)]
            former = _read_recordings([file for file in before if file not in obsolete], settings)
            report = EmbedReport()
            new, hashes = _find_new(files, former, report.failed, threads, config.sample is not None)
            report.reused = len(hashes)
            cache = FileHashCache()
            with (
                closing(cache),
                progress("embedding", _total_seconds(new), of_audio=True) as advance,
                closing(
                    _embed_hashed(encoder, new, config, device, batch_size, advance, cache, hashes, threads)
                    if cluster is None or not new
                    else embed_on_ray(cluster, encoder, new, config, device, batch_size, advance, hashes)
                ) as chunks,
            ):
                problems = _write_parts(folder, schema, chunks, hashes, part_rows)
            report.failed |= problems
            report.embedded = len(new) - len(problems)
            given = {path: digest for path, digest in hashes.items() if path not in problems}
            added = _read_recordings([file for file in _list_parts(folder) if file not in before], settings)
            chosen = _choose([*former, *added], given, report.failed, overwrite)
            if chosen:
                report.rows = _arrange(output if is_file else None, [*former, *added], chosen, schema)
                for file in {*obsolete} - {output}:
                    file.unlink(missing_ok=True)
            report.recordings = len(chosen)
            report.kept = [item.path for item in chosen if item.path not in given]
            return report
    finally:
        if is_file or is_new:
            with suppress(OSError):  # the folder of parts is removed when it is empty
                folder.rmdir()


def _sweep(folder: Path, output: Path, is_file: bool) -> None:
    """Remove what a killed process was writing.

    Raises:
        StoreError: The output is a folder that holds other files than parts.
    """
    leftovers = [file for file in folder.iterdir() if LEFTOVER.fullmatch(file.name)]
    for leftover in (*leftovers, output.with_name(f".{output.name}.tmp")):
        leftover.unlink(missing_ok=True)
    visible = {file for file in folder.iterdir() if not file.name.startswith((".", "_"))}
    if not is_file and (others := sorted(visible.difference(_list_parts(folder)))):
        raise StoreError(f"{folder}: holds other files, such as {others[0].name}; choose another -o")


def _find_new(
    files: Iterable[Path | str], former: Iterable[_Recording], failed: dict[str, str], threads: int, in_ranges: bool
) -> tuple[list[Path | str], dict[str, str]]:
    """Return the files that are to be embedded, and the SHA-256 of the others by path.

    Only files that are stored are hashed here, so that embedding a million new ones starts at once.

    Args:
        files: The recordings.
        former: Those that the output holds.
        failed: Is given the problems of stored files that cannot be read.
        threads: How many files are read at once.
        in_ranges: Whether only excerpts of remote files are read.
    """
    stored: dict[str, set[str]] = {}
    for item in former:
        stored.setdefault(item.path, set()).add(item.sha256)
    kept = [path for path in files if str(path) in stored]
    digests = hash_files(kept, threads=threads, in_ranges=in_ranges, title="looking for changed files")
    new: list[Path | str] = []
    hashes: dict[str, str] = {}
    for path in dict.fromkeys(files):
        digest = digests.get(path)
        if isinstance(digest, AudioError):
            failed[str(path)] = str(digest)
        elif digest is not None and digest in stored[str(path)]:
            hashes[str(path)] = digest
        else:
            new.append(path)
    return new, hashes


def _embed_hashed(
    encoder: Encoder,
    files: Sequence[Path | str],
    config: EmbedConfig,
    device: str,
    batch_size: int | None,
    advance: Callable[..., None],
    cache: FileHashCache,
    hashes: MutableMapping[str, str],
    threads: int,
) -> Generator[EmbedChunk, None, None]:
    """Yield the chunks of `embed_files`; `hashes` receives the SHA-256 of each file by path as it is opened."""

    @contextmanager
    def open_hashed(path: Path | str) -> Iterator[Path]:
        with cache.open(path, in_ranges=config.sample is not None) as (file, hashes[str(path)]):
            yield file

    return embed_files(encoder, files, config, device, batch_size, advance, open_hashed, threads)


def _choose(
    stored: Iterable[_Recording], given: Mapping[str, str], failed: Iterable[str], overwrite: bool
) -> list[_Recording]:
    """Return the recordings that the output is to hold, the latest of each path.

    Args:
        stored: Recordings that files hold, the latest last.
        given: SHA-256 of the recordings that were named and could be embedded, by path.
        failed: Paths of those that were named and could not; their former rows are better than none.
        overwrite: Whether the rows of recordings that were not named are dropped.
    """
    names = {os.path.abspath(path): path for path in (*given, *failed)}
    chosen: dict[str, _Recording] = {}
    for item in stored:
        name = names.get(os.path.abspath(item.path))  # a former row may name the same file by another path
        if name is None:
            is_chosen = not overwrite
        else:
            is_chosen = name not in given or (item.path, item.sha256) == (name, given[name])
        if is_chosen:
            chosen[item.path] = item
    return list(chosen.values())


def _write_parts(
    folder: Path, schema: pyarrow.Schema, chunks: Iterable[EmbedChunk], hashes: Mapping[str, str], part_rows: int
) -> dict[str, str]:
    """Append recordings to new parts, and return why some could not be embedded, by path."""
    number = 1 + max((int(file.stem.removeprefix("part-")) for file in _list_parts(folder)), default=-1)
    problems: dict[str, str] = {}
    part: _EmbeddingFile | None = None
    try:
        for chunk in chunks:
            part = part or _EmbeddingFile(folder / f"part-{number:05d}.parquet", schema)
            if chunk.table is not None:
                part.write(chunk.table)
            elif chunk.problem is not None:
                part.discard()
                problems[str(chunk.path)] = chunk.problem
            else:
                part.complete(str(chunk.path), hashes[str(chunk.path)])
                if part.rows >= part_rows or time.monotonic() - part.opened > PART_SECONDS:
                    finished, part, number = part, None, number + 1
                    finished.close()
    finally:
        if part is not None:  # also after an error or Ctrl-C: complete recordings are not lost
            part.close()
    return problems


def _arrange(output: Path | None, stored: list[_Recording], kept: list[_Recording], schema: pyarrow.Schema) -> int:
    """Make one file, or without `output` each part, hold exactly the recordings to be kept; return their rows."""
    from pyarrow import parquet

    counts = Counter(item.file for item in stored)
    targets: dict[Path, list[_Recording]] = {}
    for item in kept:
        targets.setdefault(output or item.file, []).append(item)
    rows = 0
    for target, recordings in targets.items():
        source = recordings[0].file
        if len(recordings) == counts[source] and all(item.file == source for item in recordings):
            with write_errors(target.parent):
                source.replace(target)  # a whole file, often the target itself: nothing is written twice
        else:
            _merge(target, recordings, schema)
        rows += parquet.read_metadata(target).num_rows
    for file in counts.keys() - targets.keys():
        file.unlink(missing_ok=True)
    return rows


def _merge(target: Path, recordings: list[_Recording], schema: pyarrow.Schema) -> None:
    """Write a file of recordings that other files hold, file by file; the target may be one of these."""
    import pyarrow
    from pyarrow import compute

    sources: dict[Path, list[_Recording]] = {}
    for item in recordings:
        sources.setdefault(item.file, []).append(item)
    merged = _EmbeddingFile(target, schema)
    try:
        for file, own in sources.items():
            paths = pyarrow.array([item.path for item in own])
            for table in _iter_row_groups(file):
                merged.write(table.filter(compute.is_in(table["path"], paths)))
            for item in own:
                merged.complete(item.path, item.sha256)
    except BaseException:
        merged.abort()
        raise
    merged.close()


class _EmbeddingFile:
    """A Parquet file of embeddings that is being written, under a hidden name until `close`.

    Attributes:
        rows: Rows of the recordings that are complete.
        opened: When writing began, on the monotonic clock.

    Raises:
        StoreError: The folder cannot be written, or the disk is full (any method).
    """

    def __init__(self, path: Path, schema: pyarrow.Schema) -> None:
        self.path, self.rows, self.opened = path, 0, time.monotonic()
        self._tmp, self._schema = path.with_name(f".{path.name}.tmp"), schema
        self._recordings: list[tuple[str, str]] = []
        self._pending: list[pyarrow.Table] = []  # tables that are not in the file yet, the complete ones first
        self._complete = self._pending_bytes = self._written_rows = self._current_rows = 0
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
        self._recordings.append((path, sha256))
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
            for table in _iter_row_groups(copy):
                self._pending.append(table.slice(0, self.rows - self._written_rows))
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
            self._writer = parquet.ParquetWriter(self._tmp, self._schema)

    def _flush(self) -> None:
        import pyarrow

        if self._pending:
            table = pyarrow.concat_tables(self._pending).combine_chunks().cast(self._schema)
            with write_errors(self.path.parent):
                self._writer.write_table(table)
            self._written_rows += table.num_rows
            self._pending, self._pending_bytes, self._complete = [], 0, 0


def _iter_row_groups(file: Path) -> Iterator[pyarrow.Table]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as reader:
        for number in range(reader.num_row_groups):
            yield reader.read_row_group(number)


def _list_parts(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("part-*.parquet")) if file.stem.removeprefix("part-").isdecimal()]


def _read_recordings(files: Iterable[Path], settings: Mapping[str, Any]) -> list[_Recording]:
    """Return the recordings that Parquet files hold.

    Raises:
        UsageError: A file was made with other settings than these.
        StoreError: It is another kind of file.
    """
    recordings: list[_Recording] = []
    for file in files:
        if difference := _find_difference(file, settings):
            raise UsageError(f"{file}: made with {difference}; choose another -o, or replace it with --overwrite")
        recordings += [_Recording(path, sha256, file) for path, sha256 in _read_metadata(file)[1]]
    return recordings


def _find_difference(file: Path, settings: Mapping[str, Any]) -> str:
    """Return the setting with which a file was made otherwise, and both values; empty if there is none.

    Raises:
        StoreError: It is another kind of file.
    """
    stored, _ = _read_metadata(file)
    for key, value in flatten_settings(json.loads(json.dumps(settings))).items():
        if stored.get(key) != value:
            return f"another {key} ({reprlib.repr(stored.get(key))}, now {reprlib.repr(value)})"
    return ""


def _read_metadata(file: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """Return the settings of a file, and path and SHA-256 of each of its recordings.

    Raises:
        StoreError: It is another kind of file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file).metadata
        recordings = [[str(path), str(sha256)] for path, sha256 in parse_json(metadata[b"files"])]
        return flatten_settings(parse_json_object(metadata[b"settings"])), recordings
    except (OSError, pyarrow.ArrowException, AttributeError, KeyError, TypeError, ValueError):
        if _is_cut_short(file):
            raise StoreError(f"{file}: cut short; remove it, and its recordings are embedded again") from None
        raise StoreError(f"{file}: exists already, and was not made by this command; choose another -o") from None


def _is_cut_short(file: Path) -> bool:
    """Return whether a file begins as Parquet and does not end so."""
    try:
        with open(file, "rb") as stream:
            begins = stream.read(4) == b"PAR1"
            stream.seek(-4, os.SEEK_END)
            return begins and stream.read(4) != b"PAR1"
    except OSError:
        return False


def _total_seconds(files: Sequence[Path | str]) -> float | None:
    """Return the length of files as their headers state it. None of many or remote ones, or if no bar shows it."""
    if len(files) > MAX_HEADERS or not is_progress_shown() or any(is_remote(str(path)) for path in files):
        return None
    total = 0.0
    for path in files:
        with suppress(AudioError):
            total += read_info(path).duration_seconds or 0.0
    return total
