"""A Parquet file of embeddings that resumes: each recording becomes a part, the parts are joined when all are there.

Beside `OUT.parquet` stands, while it is being made, `OUT.parquet.parts/` with one small Parquet file a recording, named
by path, content and settings, each whole or not there. So whatever stops the work, the same command goes on from there.
The finished file tells in its metadata which recordings it holds, by content, and how it was made: the same command on
a grown folder hears only what is new, and a file made in another way is never mixed up or overwritten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import carrara
from carrara.audio.decode import VERSIONS, header
from carrara.core.errors import AudioError, StoreError
from carrara.core.hashing import sha256_of_json
from carrara.core.io import atomic_write, write_text
from carrara.core.progress import progress, shown
from carrara.encoders._base import Encoder
from carrara.features.embed import EmbedConfig, EmbedChunk, embed_files, embedding_schema
from carrara.features.encode import compute_dtype
from carrara.features.extract import weights_identity
from carrara.features.hash_cache import FileHashCache
from carrara.features.store import held

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

GROUP_BYTES = 32 * 2**20
MOST_WAITING = 4096
SETTINGS, LOCK = "settings.json", "lock"


@dataclass
class EmbedReport:
    """What came of it: rows of the file, recordings kept from before and heard now, and why the others were not."""

    rows: int = 0
    kept: int = 0
    heard: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Old:
    """The finished file of an earlier run: each recording's key, and its first row and number of rows."""

    file: parquet.ParquetFile
    keys: dict[str, str]
    spans: dict[str, tuple[int, int]]
    _last: dict[int, pyarrow.Table] = field(default_factory=dict)

    def group(self, number: int) -> pyarrow.Table:
        """Return a row group; neighbouring recordings share one, so the last is remembered."""
        if number not in self._last:
            self._last.clear()
            self._last[number] = self.file.read_row_group(number)
        return self._last[number]


def write_embeddings(
    encoder: Encoder, files: Sequence[Path], out: Path, how: EmbedConfig, device: str = "cpu", batch: int | None = None
) -> EmbedReport:
    """Write the embeddings of recordings to a Parquet file, hearing only those that it does not hold yet.

    Raises:
        UsageError: the encoder has no such layer, or the windows do not suit.
        StoreError: the file was made in another way, is being written, or cannot be written; nothing is lost.
    """
    out, parts = Path(out), Path(f"{out}.parts")
    made = _made(encoder, how, device)
    names = embedding_schema(encoder, how)
    old = _old(out, made)
    with held(parts / LOCK):
        _agree(parts, made)
        written = EmbedReport()
        keys = _keys(files, made, written.failed)
        for stale in parts.glob(".*"):
            stale.unlink()
        missing = [
            path
            for path, key in keys.items()
            if not (old and old.keys.get(str(path)) == key) and not _part(parts, key).exists()
        ]
        _hear(encoder, missing, parts, keys, names, (how, device, batch), written)
        there = [path for path in keys if str(path) not in written.failed]
        written.heard = len(set(missing) & set(there))
        written.kept = len(there) - written.heard
        if there:
            written.rows = _join(out, parts, {path: keys[path] for path in there}, names, made, old)
        shutil.rmtree(parts)
    return written


def _made(encoder: Encoder, how: EmbedConfig, device: str) -> dict[str, Any]:
    """Return everything that the numbers depend on."""
    return {
        "encoder": encoder.card.name,
        "weights": weights_identity(encoder),
        "code": encoder.card.output_version,
        "encoder_settings": encoder.settings.model_dump(mode="json"),
        **how.model_dump(mode="json"),
        "decoders": VERSIONS,
        "computed": compute_dtype(device),
    }


def _keys(files: Sequence[Path], made: Mapping[str, Any], failed: dict[str, str]) -> dict[Path, str]:
    contents, keys = FileHashCache(), {}
    for path in files:
        try:
            keys[path] = sha256_of_json([str(path), contents.sha256(path), made])[:16]
        except AudioError as problem:
            failed[str(path)] = str(problem)
    contents.close()
    return keys


def _part(parts: Path, key: str) -> Path:
    return parts / f"{key}.parquet"


def _hear(
    encoder: Encoder,
    missing: Sequence[Path],
    parts: Path,
    keys: Mapping[Path, str],
    names: pyarrow.Schema,
    manner: tuple[EmbedConfig, str, int | None],
    written: EmbedReport,
) -> None:
    """Make the parts that are missing, and note the reasons of those that cannot be made."""
    from pyarrow import parquet

    how, device, batch = manner
    with (
        progress("embedding, seconds of sound", _seconds(missing)) as advance,
        closing(embed_files(encoder, missing, how, device, batch, advance)) as stream,
    ):
        for path in missing:
            try:
                with atomic_write(_part(parts, keys[path])) as draft, parquet.ParquetWriter(draft, names) as writer:
                    _until_end(stream, writer)
            except AudioError as problem:
                written.failed[str(path)] = str(problem)


def _until_end(stream: Iterator[EmbedChunk], writer: parquet.ParquetWriter) -> None:
    """Write one recording.

    Raises:
        AudioError: it could not be heard whole.
    """
    with _grouped(writer) as write:
        for piece in stream:
            if piece.table is not None:
                write(piece.table)
            elif piece.problem is not None:
                raise AudioError(piece.problem)
            else:
                return


@contextmanager
def _grouped(writer: parquet.ParquetWriter) -> Iterator[Callable[[pyarrow.Table], None]]:
    """Give a function that writes tables, many small ones together."""
    import pyarrow

    waiting: list[pyarrow.Table] = []

    def flush() -> None:
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting).combine_chunks())
            waiting.clear()

    def write(table: pyarrow.Table) -> None:
        waiting.append(table)
        if sum(table.nbytes for table in waiting) >= GROUP_BYTES or len(waiting) >= MOST_WAITING:
            flush()

    yield write
    flush()


def _join(
    out: Path, parts: Path, keys: Mapping[Path, str], names: pyarrow.Schema, made: Mapping[str, Any], old: _Old | None
) -> int:
    """Write the finished file from the parts and the old file, unless the old file is it; return its rows."""
    from pyarrow import parquet

    fresh = {str(path): _part(parts, key) for path, key in keys.items() if _part(parts, key).exists()}
    if old is not None and not fresh and list(old.keys) == [str(path) for path in keys]:
        return old.file.metadata.num_rows
    counts = {
        str(path): parquet.read_metadata(fresh[str(path)]).num_rows if str(path) in fresh else _span(old, path)[1]
        for path in keys
    }
    told = {
        "encoder": made["encoder"],
        "weights": made["weights"],
        "carrara": carrara.__version__,
        "settings": json.dumps(made),
        "files": json.dumps([[str(path), key, counts[str(path)]] for path, key in keys.items()]),
    }
    with (
        atomic_write(out) as draft,
        parquet.ParquetWriter(draft, names.with_metadata(told)) as writer,
        _grouped(writer) as write,
    ):
        for path in keys:
            source = parquet.ParquetFile(fresh[str(path)]) if str(path) in fresh else None
            for table in _all(source) if source else _kept(old, path):
                write(table.cast(names))
    return sum(counts.values())


def _all(file: parquet.ParquetFile) -> Iterator[pyarrow.Table]:
    with file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _span(old: _Old | None, path: Path) -> tuple[int, int]:
    return old.spans[str(path)] if old else (0, 0)


def _kept(old: _Old | None, path: Path) -> Iterator[pyarrow.Table]:
    """Yield a recording's rows of the old file."""
    begin, count = _span(old, path)
    first = 0
    for group in range(old.file.num_row_groups if old else 0):
        rows = old.file.metadata.row_group(group).num_rows if old else 0
        low, high = max(begin, first), min(begin + count, first + rows)
        if old and low < high:
            yield old.group(group).slice(low - first, high - low)
        first += rows


def _old(out: Path, made: Mapping[str, Any]) -> _Old | None:
    """Return the finished file of an earlier run, if there is one."""
    import pyarrow
    from pyarrow import parquet

    if not out.exists():
        return None
    try:
        file = parquet.ParquetFile(out)
        told = file.schema_arrow.metadata or {}
        found, files = json.loads(told[b"settings"]), json.loads(told[b"files"])
    except (OSError, pyarrow.ArrowException, KeyError, ValueError):
        raise StoreError(f"{out}: there already, and not made by `carrara embed`; give another -o") from None
    _same(out, found, made)
    keys, spans, first = {}, {}, 0
    for path, key, rows in files:
        keys[path], spans[path] = key, (first, rows)
        first += rows
    return _Old(file, keys, spans)


def _agree(parts: Path, made: Mapping[str, Any]) -> None:
    """Note in the folder of parts how they are made, or see that it is as before."""
    note = parts / SETTINGS
    if not note.exists():
        write_text(note, json.dumps(made, indent=1) + "\n")
        return
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise StoreError(f"{note}: cannot be read ({problem}); remove {parts} to begin again") from None
    _same(parts, found, made)


def _same(path: Path, found: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(made))
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        raise StoreError(
            f"{path}: made with another {key} ({found.get(key)!r}, now {wanted[key]!r}); give another -o or remove it"
        )


def _seconds(files: Sequence[Path]) -> float | None:
    """Return how long files are together, as far as their heads say; asked for only where it is shown."""
    if not shown():
        return None
    total = 0.0
    for path in files:
        with suppress(AudioError):
            total += header(path).duration_seconds or 0.0
    return total
