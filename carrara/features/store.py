"""The feature store: one folder a key, one file a layer, each item's rows written once and readable while it grows.

A folder `<home>/<encoder>/<key>/` holds `meta.json` (all that the key is made of), one append-only file a layer
(little-endian half precision, rows of one width, so that one layer is memory-mapped alone) and `items.jsonl`, the log
of what is whole: an item's rows go to the layers first, its line to the log last. Whatever a killed writer left behind
the last whole line is cut off by the next one: no row is lost or doubled. One writer at a time, any number of readers.

Letters: R rows, D width.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carrara.core.errors import StoreError
from carrara.core.io import write_text

HALF = np.dtype("<f2")
LARGEST = float(np.finfo(HALF).max)
META, LOG, LOCK = "meta.json", "items.jsonl", "lock"
CURE = "`carrara cache clean` removes it, and it is made again"


class RowRange(NamedTuple):
    """Where an item's rows stand in every layer's file."""

    offset: int
    rows: int


class FeatureStore:
    """One folder of features, open for reading.

    Attributes:
        folder: where it stands.
        widths: features a row, by layer.
        places: where each committed item stands.
        rows: how many rows are committed.
    """

    def __init__(self, folder: Path, widths: Mapping[str, int], meta: Mapping[str, Any]) -> None:
        """Open a store, or make an empty one.

        Raises:
            StoreError: it was made with other settings, is damaged, or cannot be written.
        """
        self.folder, self.dims = Path(folder), dict(widths)
        self.meta: dict[str, Any] = {**meta, "widths": self.dims}
        self.items: dict[str, RowRange] = {}
        self.rows = 0
        self._agree()
        self.refresh()

    def layer(self, name: str) -> np.ndarray:
        """Return all committed rows of a layer, `[R, D]`, memory-mapped half precision."""
        rows, width = self.rows, self.dims[name]
        if not rows:
            return np.zeros((0, width), HALF)
        return np.memmap(self.path(name), HALF, "r", shape=(rows, width))

    def path(self, name: str) -> Path:
        """Return the file of a layer."""
        return self.folder / f"layer-{name}.f16"

    def refresh(self) -> int:
        """Read the log again, with what others committed since, and return how many of its bytes are whole.

        Raises:
            StoreError: a line before the last is not what this program writes.
        """
        log = self.folder / LOG
        text = log.read_bytes() if log.exists() else b""
        there = min((self._rows_there(name) for name in self.dims), default=0)
        places: dict[str, RowRange] = {}
        rows = whole = 0
        for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                item = json.loads(line)
                key, place = item["key"], RowRange(item["offset"], item["rows"])
            except (ValueError, KeyError, TypeError):
                raise StoreError(f"{log}: damaged after item {len(places)}; {CURE}") from None
            if place.offset != rows or key in places:
                raise StoreError(f"{log}: item {len(places) + 1} does not follow the one before; {CURE}")
            if rows + place.rows > there:
                break  # a machine that lost power kept the line but not the rows
            places[key] = place
            rows, whole = rows + place.rows, whole + len(line)
        self.items, self.rows = places, rows
        return whole

    @contextmanager
    def writer(self) -> Iterator[StoreWriter]:
        """Give the one writer; whatever an earlier one left unfinished is cut off.

        Raises:
            StoreError: another process is writing, or the folder cannot be written.
        """
        with held(self.folder / LOCK):
            with _writable(self.folder):
                whole = self.refresh()
                (self.folder / LOG).touch()
                os.truncate(self.folder / LOG, whole)
                writer = StoreWriter(self)
            try:
                yield writer
            finally:
                writer.close()

    def _rows_there(self, name: str) -> int:
        path = self.path(name)
        return path.stat().st_size // (self.dims[name] * HALF.itemsize) if path.exists() else 0

    def _agree(self) -> None:
        path = self.folder / META
        if not path.exists():
            write_text(path, json.dumps(self.meta, indent=1, ensure_ascii=False) + "\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise StoreError(f"{path}: cannot be read ({problem}); {CURE}") from None
        wanted = json.loads(json.dumps(self.meta))
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            key = differing[0]
            raise StoreError(
                f"{self.folder}: made with other settings: {', '.join(differing)} "
                f"({key} was {found.get(key)!r}, is {wanted.get(key)!r}); {CURE}"
            )


class StoreWriter:
    """Appends rows to a store's layers, and commits them as items."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._pending = 0
        self._files: dict[str, FileIO] = {}
        for name in store.dims:
            self._files[name] = FileIO(store.path(name), "a")
        self._log = FileIO(store.folder / LOG, "a")
        self.abandon()

    def append(self, layers: Mapping[str, np.ndarray]) -> None:
        """Add rows `[R, D]` of every layer to the item that is under way.

        Values that half precision cannot hold become its largest.

        Raises:
            StoreError: the disk is full or the folder cannot be written; the item is abandoned, the store as it was.
        """
        with self._undone():
            for name, file in self._files.items():
                _write(file, np.clip(layers[name], -LARGEST, LARGEST).astype(HALF).tobytes())
        self._pending += len(next(iter(layers.values())))

    def commit(self, key: str) -> None:
        """Make the rows added since the last commit an item.

        Raises:
            StoreError: as `append`.
        """
        place = RowRange(self._store.rows, self._pending)
        line = json.dumps({"key": key, "offset": place.offset, "rows": place.rows}) + "\n"
        size = os.fstat(self._log.fileno()).st_size
        with self._undone(size):
            _write(self._log, line.encode())
        self._store.items[key] = place
        self._store.rows += place.rows
        self._pending = 0

    def abandon(self) -> None:
        """Drop the rows added since the last commit."""
        rows = self._store.rows
        for name, file in self._files.items():
            file.truncate(rows * self._store.dims[name] * HALF.itemsize)
        self._pending = 0

    def close(self) -> None:
        """Drop what is not committed, bring the rest to the disk and close."""
        self.abandon()
        for file in (*self._files.values(), self._log):
            os.fsync(file.fileno())
            file.close()

    @contextmanager
    def _undone(self, log_size: int | None = None) -> Iterator[None]:
        try:
            with _writable(self._store.folder):
                yield
        except StoreError:
            self.abandon()
            if log_size is not None:
                self._log.truncate(log_size)
            raise


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Be the only one who writes in the folder of this lock file.

    Raises:
        StoreError: another process is writing there, or the folder cannot be written.
    """
    with _writable(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{lock.parent}: another process is writing here; wait until it is done") from None
        yield


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{folder}: cannot write here ({problem.strerror or problem})") from None
