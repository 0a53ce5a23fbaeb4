"""The feature store: one folder a key, one file a layer, each item's rows written once and readable while it grows.

A folder `<home>/<encoder>/<key>/` holds `meta.json` (all that the key is made of), one append-only file a layer (half
precision, rows of one width, so that one layer is memory-mapped alone) and `items.jsonl`, the log of what is committed:
an item's rows go to the layers first, its line to the log last. After kill -9 the log says what is whole; a torn line is
dropped and the layers are cut back to it, so no row is lost or doubled. One writer at a time, any number of readers.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carrara.core.errors import StoreError
from carrara.core.files import write_text
from carrara.core.identity import identity

HALF = np.dtype("<f2")
LARGEST = float(np.finfo(HALF).max)
META, LOG, LOCK = "meta.json", "items.jsonl", "lock"


class Place(NamedTuple):
    """Where an item's rows stand in every layer's file."""

    offset: int
    rows: int


class Store:
    """One open folder of features."""

    def __init__(self, folder: Path, widths: Mapping[str, int], meta: Mapping[str, Any]) -> None:
        self.folder, self.widths = Path(folder), dict(widths)
        self.meta = {**meta, "widths": self.widths}
        self.places: dict[str, Place] = {}
        self._agree()
        self.refresh()

    def refresh(self) -> None:
        """Read the log again: what other processes committed since is there."""
        self.places = {}
        for line in _lines(self.folder / LOG):
            item = json.loads(line)
            self.places[item["key"]] = Place(item["offset"], item["rows"])

    def layer(self, name: str) -> np.ndarray:
        """Return all committed rows of a layer, `[rows, width]`, memory-mapped half precision."""
        rows, width = self.rows, self.widths[name]
        if not rows:
            return np.zeros((0, width), HALF)
        return np.memmap(self._file(name), HALF, "r", shape=(rows, width))

    @property
    def rows(self) -> int:
        """Rows that are committed."""
        return max((place.offset + place.rows for place in self.places.values()), default=0)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Give the one writer; whatever an earlier one left unfinished is cut off.

        Raises:
            StoreError: another process is writing, or the folder cannot be written.
        """
        with _written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / LOCK, "a")  # noqa: SIM115
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"{self.folder}: another process is writing here; wait for it") from None
            with _written(self.folder):
                self._mend()
                writer = Writer(self)
            with writer:
                yield writer

    def _mend(self) -> None:
        lines = _lines(self.folder / LOG)
        write_text(self.folder / LOG, "".join(line + "\n" for line in lines))
        self.refresh()
        for name, width in self.widths.items():
            with open(self._file(name), "ab") as file:
                file.truncate(self.rows * width * HALF.itemsize)

    def _agree(self) -> None:
        path = self.folder / META
        if not path.exists():
            with _written(self.folder):
                write_text(path, json.dumps(self.meta, indent=1, ensure_ascii=False))
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise StoreError(f"{path}: cannot be read ({problem}); `carrara cache clean` removes the store") from None
        if identity(found) != identity(self.meta):
            differing = sorted(key for key in {*found, *self.meta} if found.get(key) != self.meta.get(key))
            raise StoreError(
                f"{self.folder}: made with other {', '.join(differing)}; remove it with `carrara cache clean`"
            )

    def _file(self, name: str) -> Path:
        return self.folder / f"layer-{name}.f16"


class Writer:
    """Appends items to a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.files = {name: open(store._file(name), "ab") for name in store.widths}
        self.log = open(store.folder / LOG, "a", encoding="utf-8")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self.files.values(), self.log):
            file.close()

    def add(self, key: str, layers: Mapping[str, np.ndarray]) -> None:
        """Commit an item: its rows `[rows, width]` of every layer.

        Raises:
            StoreError: the disk is full or the folder cannot be written; the store is as it was.
        """
        store = self.store
        offset, rows = store.rows, len(next(iter(layers.values())))
        with _written(store.folder):
            for name, file in self.files.items():
                file.write(np.clip(layers[name], -LARGEST, LARGEST).astype(HALF).tobytes())
                file.flush()
            self.log.write(json.dumps({"key": key, "offset": offset, "rows": rows}) + "\n")
            self.log.flush()
        store.places[key] = Place(offset, rows)


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{folder}: cannot write here ({os.strerror(problem.errno or 5)})") from None
