"""The feature store: a folder for each key, a file for each layer, rows written once and readable while it grows.

A folder `<home>/<encoder>/<key>/` holds `meta.json` (everything that the key is made of), an append-only file for each
layer (little-endian half precision, so that one layer is memory-mapped alone) and `items.jsonl`, the log of complete
items: an item's rows are written to the layers first, its line to the log last. What a killed writer left after the
last complete line is cut off by the next writer. One writer at a time, any number of readers; `carrara cache
clean` does not remove a folder that some process has open.

Letters: R rows, D dim.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carrara.core.errors import StoreError
from carrara.core.io import file_lock, hold_folder, write_text
from carrara.core.strict_json import parse_json_object, read_json_object

HALF = np.dtype("<f2")
LARGEST = float(np.finfo(HALF).max)
META, LOG, LOCK = "meta.json", "items.jsonl", "lock"
CURE = "remove it with `carrara cache clean`, and it is extracted again"


class RowRange(NamedTuple):
    """An item's rows in every layer's file."""

    offset: int
    rows: int


class FeatureStore:
    """One folder of features, open for reading.

    Attributes:
        folder: The folder.
        dims: Features a row, by layer.
        items: The rows of each committed item, by its key.
        rows: How many rows are committed.
    """

    def __init__(self, folder: Path, dims: Mapping[str, int], meta: Mapping[str, Any]) -> None:
        """Open a store, or create an empty one.

        Raises:
            StoreError: It was made with other settings, is damaged, or cannot be written.
        """
        self.folder, self.dims = Path(folder), dict(dims)
        self.items: dict[str, RowRange] = {}
        self.rows = 0
        handle = hold_folder(self.folder)
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        self._check_meta({**meta, "dims": self.dims})
        self.refresh()

    def layer(self, name: str) -> np.ndarray:
        """Return all committed rows of a layer, `[R, D]`, memory-mapped half precision."""
        shape = (self.rows, self.dims[name])
        return np.memmap(self.path(name), HALF, "r", shape=shape) if self.rows else np.zeros(shape, HALF)

    def path(self, name: str) -> Path:
        """Return the file of a layer."""
        return self.folder / f"layer-{name}.f16"

    def refresh(self) -> int:
        """Read the log with what other processes committed, and return the size of its complete part in bytes.

        Raises:
            StoreError: A line before the last is damaged.
        """
        log = self.folder / LOG
        text = log.read_bytes() if log.exists() else b""
        files = [(self.path(name), dim * HALF.itemsize) for name, dim in self.dims.items()]
        rows_on_disk = min((path.stat().st_size // size if path.exists() else 0 for path, size in files), default=0)
        items: dict[str, RowRange] = {}
        rows = complete = 0
        for line in text.split(b"\n")[:-1]:
            try:
                entry = parse_json_object(line)
                key, item = entry["key"], RowRange(entry["offset"], entry["rows"])
                if not (isinstance(key, str) and isinstance(item.rows, int) and item.rows >= 0):
                    raise ValueError("not the line of an item")
            except (ValueError, KeyError):
                raise StoreError(f"{log}: damaged after item {len(items)}; {CURE}") from None
            if item.offset != rows or key in items:
                raise StoreError(f"{log}: item {len(items) + 1} does not follow the one before; {CURE}")
            if rows + item.rows > rows_on_disk:
                break  # a machine that lost power kept the line but not the rows
            items[key] = item
            rows, complete = rows + item.rows, complete + len(line) + 1
        self.items, self.rows = items, rows
        return complete

    @contextmanager
    def writer(self) -> Iterator[StoreWriter]:
        """Yield the only writer, after cutting off what an earlier one left unfinished.

        Another process that is writing is waited for; afterwards `items` has what it committed.

        Raises:
            StoreError: The folder cannot be written.
        """
        with file_lock(self.folder / LOCK):
            with write_errors(self.folder):
                complete = self.refresh()
                (self.folder / LOG).touch()
                os.truncate(self.folder / LOG, complete)
                writer = StoreWriter(self)
            try:
                yield writer
            finally:
                writer.close()

    def _check_meta(self, meta: Mapping[str, Any]) -> None:
        path = self.folder / META
        if not path.exists():
            write_text(path, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
            return
        try:
            stored = read_json_object(path)
        except (OSError, ValueError) as problem:
            raise StoreError(f"{path}: cannot be read ({problem}); {CURE}") from None
        own = json.loads(json.dumps(meta))
        differing = sorted(key for key in {*stored, *own} if stored.get(key) != own.get(key))
        if differing:
            key = differing[0]
            raise StoreError(
                f"{self.folder}: made with other settings: {', '.join(differing)} "
                f"({key} was {stored.get(key)!r}, is {own.get(key)!r}); {CURE}"
            )


class StoreWriter:
    """Appends rows to a store's layers, and commits them as items."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._pending = 0
        self._layers = {name: FileIO(store.path(name), "a") for name in store.dims}
        self._log = FileIO(store.folder / LOG, "a")
        self.abandon()

    def append(self, layers: Mapping[str, np.ndarray]) -> None:
        """Add rows `[R, D]` of every layer to the current item; values beyond half precision become its largest.

        Raises:
            StoreError: The disk is full or the folder cannot be written; the item is abandoned, the store unharmed.
        """
        with self._abandon_on_error():
            for name, file in self._layers.items():
                _write_all(file, np.clip(layers[name], -LARGEST, LARGEST).astype(HALF).tobytes())
        self._pending += len(next(iter(layers.values())))

    def commit(self, key: str) -> None:
        """Make the rows added since the last commit an item.

        Raises:
            StoreError: As `append`.
        """
        item = RowRange(self._store.rows, self._pending)
        line = json.dumps({"key": key, "offset": item.offset, "rows": item.rows}) + "\n"
        with self._abandon_on_error():
            _write_all(self._log, line.encode())
        self._store.items[key] = item
        self._store.rows += item.rows
        self._pending = 0

    def abandon(self) -> None:
        """Drop the rows added since the last commit."""
        for name, file in self._layers.items():
            file.truncate(self._store.rows * self._store.dims[name] * HALF.itemsize)
        self._pending = 0

    def close(self) -> None:
        """Drop what is not committed, flush the rest to the disk and close the files."""
        self.abandon()
        for file in (*self._layers.values(), self._log):
            os.fsync(file.fileno())
            file.close()

    @contextmanager
    def _abandon_on_error(self) -> Iterator[None]:
        log_size = os.fstat(self._log.fileno()).st_size
        try:
            with write_errors(self._store.folder):
                yield
        except StoreError:
            self.abandon()
            self._log.truncate(log_size)
            raise


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the folder."""
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{folder}: cannot write here ({problem.strerror or problem})") from None
