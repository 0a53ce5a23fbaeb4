"""What a network learns from: a table of items, each a sound file, a stretch of one or a member of a tar shard.

The table is columns, not objects: a million items take some hundred megabytes, and an `Item` is made when it is asked
for. `carrara/pretrain/corpus/find.py` makes it.

Letters: N items, S shards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from carrara.core.hashing import canonical_json

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ["id", "path", "samples", "start", "offset", "size"]
CHUNK = 4096


@dataclass(frozen=True)
class Item:
    """A sound of the corpus.

    Attributes:
        id: its name below what was given.
        path: of its file, or of the shard that it stands in; a path or an address of fsspec.
        samples: its length, at the rate of the corpus.
        start: where it begins in its file, in seconds.
        offset, size: its bytes in a shard; none: the file is its own.
    """

    id: str
    path: str
    samples: int
    start: float = 0.0
    offset: int | None = None
    size: int | None = None


class Items:
    """The items in order, each made from its row when it is asked for."""

    def __init__(self, table: pyarrow.Table) -> None:
        """Take a table with the columns of `Item`."""
        self.table = table
        self._columns = [table[name].combine_chunks() for name in COLUMNS]

    def __len__(self) -> int:
        """Return their number."""
        return self.table.num_rows

    def __getitem__(self, number: int) -> Item:
        """Return an item by its number."""
        return Item(*(column[number].as_py() for column in self._columns))


@dataclass(frozen=True, eq=False)
class Corpus:
    """The sounds that crops come from.

    Attributes:
        items: in the order of their names, those of a shard together and as they stand in it.
        sample_rate: that lengths are counted in, in Hz.
        short: number of items that are shorter than a crop.
        unreadable: the reason of each file, member or part of a shard that is left out.
        trusted: number of items whose length was told by a manifest or a shard, and not looked up.
    """

    items: Items
    sample_rate: int
    short: int
    unreadable: tuple[str, ...]
    trusted: int = 0

    @property
    def seconds(self) -> float:
        """Length of everything together."""
        return int(self.items.table["samples"].to_numpy().sum()) / self.sample_rate

    def identity(self) -> str:
        """Return the SHA-256 of the names, lengths and starts; the same wherever the corpus stands."""
        digest = hashlib.sha256(f"[{self.sample_rate},[".encode())
        joint = ""
        for batch in self.items.table.select(["id", "samples", "start"]).to_batches(CHUNK):
            columns = (column.to_pylist() for column in batch.columns)
            rows = ([name, samples, start] if start else [name, samples] for name, samples, start in zip(*columns))
            digest.update((joint + ",".join(map(canonical_json, rows))).encode())
            joint = ","
        digest.update(b"]]")
        return digest.hexdigest()

    def together(self) -> np.ndarray:
        """Return the number of items of each shard, `[S]`; a file that is its own counts as a shard of one."""
        from pyarrow import compute

        path, member_N = self.items.table["path"].combine_chunks(), self.items.table["offset"].is_valid().to_numpy()
        changes = compute.not_equal(path[1:], path[:-1]).to_numpy(zero_copy_only=False)
        begins_N = np.append(True, changes | ~member_N[1:] | ~member_N[:-1])
        return np.diff(np.append(np.flatnonzero(begins_N), len(begins_N)))
