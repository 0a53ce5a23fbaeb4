"""The corpus as a table of items, built from files, folders, manifests, tar shards and Parquet with audio in it.

The table is columnar: a million items take some hundred megabytes, and an `Item` is created when it is indexed. Items
shorter than a crop are left out and counted; unreadable ones are left out with a line each, of which the first is
warned about. Durations come from file headers, or without opening the file from a manifest or a shard's JSON.

Letters: N items, S shards.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carrara.audio.decode import SUFFIXES, load_audio
from carrara.core.errors import AudioError, DataError
from carrara.core.hashing import canonical_json
from carrara.core.storage import (
    absolute,
    expand_braces,
    is_remote,
    list_files,
    local_copy,
    normalize,
    suffix,
)
from carrara.data import REGISTRY as DATASETS
from carrara.data.folder import FolderDataset
from carrara.pretrain.corpus import manifest
from carrara.pretrain.corpus.durations import read_duration, read_each
from carrara.pretrain.corpus.parquet_shards import (
    group_starts,
    holds_audio,
    open_parquet,
    parquet_row_file,
    read_parquet_lengths,
)
from carrara.pretrain.corpus.tar_shards import read_shard

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ["id", "path", "samples", "start", "offset", "size", "row"]
# Before items are sorted, by the name of the file or shard, and cut to whole samples.
UNSORTED_COLUMNS = ["id", "sort_key", "path", "start", "seconds", "offset", "size", "row", "is_length_given", "group"]
CHUNK = 4096
TAR, PARQUET = ".tar", ".parquet"
# A length in samples that was converted to seconds and back may be slightly below a whole number.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Item:
    """An audio file of the corpus, a segment of one, a member of a tar shard, or a row of a Parquet file.

    Attributes:
        id: its name below the folder that was given, or the manifest's id.
        path: path or fsspec address of its file or shard.
        samples: its length at the corpus's sample rate.
        start: where it begins in its file, in seconds.
        offset, size: its bytes in a tar shard; None for others.
        row: its row in a Parquet file, from 0; None for others.
    """

    id: str
    path: str
    samples: int
    start: float = 0.0
    offset: int | None = None
    size: int | None = None
    row: int | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        if self.row is not None:
            return f"{self.path}, row {self.row + 1}"
        return self.path if self.offset is None else self.id

    def load(self, sample_rate: int, start: float, duration: float) -> np.ndarray:
        """Return float32 mono samples from `start` seconds on, fewer than `duration` seconds at the end of the file.

        Raises:
            AudioError: it cannot be read.
        """
        if self.row is not None:
            with parquet_row_file(self.path, self.row) as file:
                return load_audio(file, sample_rate, self.start + start, duration)
        with local_copy(self.path, self.offset, self.size, self.name) as path:
            return load_audio(path, sample_rate, self.start + start, duration)


def _schema(columns: Sequence[str]) -> pyarrow.Schema:
    import pyarrow

    types = dict.fromkeys(("id", "sort_key", "path"), pyarrow.large_string())
    types |= dict.fromkeys(("samples", "offset", "size", "row", "group"), pyarrow.int64())
    types |= dict.fromkeys(("start", "seconds"), pyarrow.float64()) | {"is_length_given": pyarrow.bool_()}
    return pyarrow.schema([(name, types[name]) for name in columns])


def build_table(rows: Sequence[tuple[object, ...]], columns: Sequence[str] = COLUMNS) -> pyarrow.Table:
    """Return rows as a table with these columns, the fields of `Item` by default."""
    import pyarrow

    schema = _schema(columns)
    values = zip(*rows) if rows else [()] * len(schema)
    return pyarrow.table([pyarrow.array(column, field.type) for column, field in zip(values, schema)], schema=schema)


class Items:
    """The sequence of items; each is created from its row when it is indexed."""

    def __init__(self, table: pyarrow.Table) -> None:
        """Take a table with the columns of `Item`."""
        self.table = table
        self._columns = [table[name].combine_chunks() for name in COLUMNS]

    def __len__(self) -> int:
        """Return their number."""
        return self.table.num_rows

    def __getitem__(self, index: int) -> Item:
        """Return an item by its index."""
        return Item(*(column[index].as_py() for column in self._columns))


@dataclass(frozen=True, eq=False)
class Corpus:
    """The items that crops are drawn from.

    Attributes:
        items: sorted by name; members of a shard together, in the shard's order.
        sample_rate: of the items' lengths, in Hz.
        short: number of items left out because they are shorter than a crop.
        unreadable: the reason for each file, member or part of a shard that is left out.
        trusted: number of items whose length comes from a manifest or a shard's JSON and was not verified.
    """

    items: Items
    sample_rate: int
    short: int
    unreadable: tuple[str, ...]
    trusted: int = 0

    @property
    def seconds(self) -> float:
        """Total duration."""
        return int(self.items.table["samples"].to_numpy().sum()) / self.sample_rate

    def identity(self) -> str:
        """Return the SHA-256 of names, lengths and starts; it does not depend on where the corpus is stored."""
        digest = hashlib.sha256(f"[{self.sample_rate},[".encode())
        comma = ""
        for batch in self.items.table.select(["id", "samples", "start"]).to_batches(CHUNK):
            columns = (column.to_pylist() for column in batch.columns)
            rows = ([name, samples, start] if start else [name, samples] for name, samples, start in zip(*columns))
            digest.update((comma + ",".join(map(canonical_json, rows))).encode())
            comma = ","
        digest.update(b"]]")
        return digest.hexdigest()

    def shard_sizes(self) -> np.ndarray:
        """Return the number of items in each shard, `[S]`; a file of its own is a shard of one, a row group a shard."""
        from pyarrow import compute

        table = self.items.table
        path, member_N = table["path"].combine_chunks(), table["offset"].is_valid().to_numpy()
        changes = compute.not_equal(path[1:], path[:-1]).to_numpy(zero_copy_only=False)
        if "group" in table.column_names:
            group_N = compute.fill_null(table["group"], -1).to_numpy()
            member_N = member_N | (group_N >= 0)
            changes = changes | (group_N[1:] != group_N[:-1])
        begins_N = np.append(True, changes | ~member_N[1:] | ~member_N[:-1])
        return np.diff(np.append(np.flatnonzero(begins_N), len(begins_N)))


def build_corpus(paths: Sequence[str | Path], sample_rate: int, crop_samples: int) -> Corpus:
    """Return the corpus of files, folders, datasets, manifests (.parquet, .csv), tar shards and Parquet with audio.

    Only headers are read.

    Args:
        paths: local paths, fsspec addresses and names of datasets; `{000000..000123}` stands for every number of a
            range.
        sample_rate: of the network, in Hz.
        crop_samples: length of a crop; shorter items are left out.

    Raises:
        DataError: a path does not exist, no file holds audio, none is as long as a crop, or two have the same name.
        UsageError: fsspec cannot open an address.
        StoreError: the index of a shard cannot be written.
    """
    import pyarrow
    from pyarrow import compute

    addresses = [address for path in paths for address in expand_braces(normalize(_dataset_folder(path)))]
    manifests = [
        address
        for address in addresses
        if suffix(address) == ".csv" or (suffix(address) == PARQUET and not holds_audio(absolute(address)))
    ]
    names = _name_files([address for address in addresses if address not in manifests])
    if not names and not manifests:
        raise DataError(
            f"{', '.join(addresses[:3])}: no audio file in it; known are {' '.join(sorted(SUFFIXES))}, .tar, "
            "and .parquet with a column audio"
        )
    malformed = [path for path in names if path.encode("utf-8", "ignore").decode() != path]
    problems = [f"{ascii(path)[1:-1]}: its name is not UTF-8; rename it" for path in malformed]
    names = {path: name for path, name in names.items() if path not in malformed}
    tables = []
    for table, faults in [
        _file_rows({path: name for path, name in names.items() if suffix(path) not in {TAR, PARQUET}}),
        _parquet_rows({path: name for path, name in names.items() if suffix(path) == PARQUET}),
        _shard_rows({path: name for path, name in names.items() if suffix(path) == TAR}),
        *map(_manifest_rows, manifests),
    ]:
        tables.append(table)
        problems += faults
    table = pyarrow.concat_tables(tables)
    samples_N = np.floor(table["seconds"].to_numpy() * sample_rate + ROUNDING).astype(np.int64)
    long_enough_N = samples_N >= crop_samples
    short = int((~long_enough_N).sum())
    if not long_enough_N.any():
        first = f"; the first: {problems[0]}" if problems else ""
        tenths = int(samples_N.max(initial=0)) * 10 // sample_rate
        shorter = f", or shorter crops with --set crop_seconds={tenths / 10:g}" if tenths else ""
        raise DataError(
            f"{', '.join(addresses[:3])}: no file is as long as a crop of {crop_samples / sample_rate:g} s "
            f"({short} shorter, {len(problems)} unreadable{first}); give longer audio{shorter}"
        )
    if problems:
        more = f"; and {len(problems) - 1} more of the corpus, see its run.json" if len(problems) > 1 else ""
        warnings.warn(f"left out: {problems[0]}{more}", stacklevel=2)
    _check_unique(table["id"])
    order = compute.sort_indices(table, [(key, "ascending") for key in ("sort_key", "path", "offset", "row")])
    order = order.filter(pyarrow.array(long_enough_N).take(order))
    trusted = int((table["is_length_given"].to_numpy() & long_enough_N).sum())
    table = table.append_column("samples", [samples_N]).select([*COLUMNS, "group"]).take(order)
    return Corpus(Items(table), sample_rate, short, tuple(problems), trusted)


def _dataset_folder(path: str | Path) -> str | Path:
    """Return the folder of a dataset's audio where a path is its name and no file or folder here, else the path.

    Raises:
        DataError: the dataset is not on disk.
    """
    name = str(path)
    if name not in DATASETS.names() or name == FolderDataset.name or Path(name).exists():
        return path
    dataset = DATASETS.get(name)
    folder: Path = dataset.corpus_folder(dataset.root())
    if not folder.is_dir():
        raise DataError(f"{name}: no audio at {folder}; {dataset.download_cure()}")
    return folder


def _name_files(addresses: Sequence[str]) -> dict[str, str]:
    """Return {address: name below the given folder} of every audio file and shard."""
    names: dict[str, str] = {}
    parents = []
    for address in addresses:
        files = None if is_remote(address) and suffix(address) in {TAR, PARQUET, *SUFFIXES} else list_files(address)
        if files is not None:
            names |= {
                path: name
                for name, path in files.items()
                if suffix(name) in {TAR, *SUFFIXES} or (suffix(name) == PARQUET and holds_audio(absolute(path)))
            }
        elif is_remote(address) or Path(address).exists():
            names[address] = ""
            parents.append(absolute(address).rpartition("/")[0] + "/")
        else:
            raise DataError(f"{address}: there is no such file or folder; --corpus takes both")
    root = os.path.commonprefix(parents).rpartition("/")[0] + "/" if parents else ""  # noqa: RUF071 - cut at a slash
    return {path: name or absolute(path).removeprefix(root) for path, name in names.items()}


def _check_unique(names: pyarrow.ChunkedArray) -> None:
    """Raise a DataError if two items have the same name, because labels are stored by name."""
    from pyarrow import compute

    if compute.count_distinct(names).as_py() < len(names):
        counts = compute.value_counts(names)
        name = counts.filter(compute.greater(counts.field("counts"), 1)).field("values")[0]
        raise DataError(f"two files of the corpus are named {name}; give the folder above both, or a manifest with ids")


def _file_rows(names: dict[str, str]) -> tuple[pyarrow.Table, list[str]]:
    """Return a row for each readable file, and a line about each of the others."""
    rows, problems = [], []
    durations = read_each(read_duration, list(names), "reading the headers of the files")
    for (path, name), duration in zip(names.items(), durations):
        if isinstance(duration, str):
            problems.append(duration)
        else:
            rows.append((name, name, path, 0.0, duration, None, None, None, False, None))
    return build_table(rows, UNSORTED_COLUMNS), problems


def _shard_rows(names: dict[str, str]) -> tuple[pyarrow.Table, list[str]]:
    """Return a row for each readable member of the shards, and a line about each loss."""
    rows, problems = [], []
    indexes = read_each(lambda path: read_shard(absolute(path)), list(names), "reading the headers of the shards")
    for (path, name), index in zip(names.items(), indexes):
        if isinstance(index, str):
            problems.append(index)
            continue
        problems += [*index.damage, *(member.problem for member in index.members if member.problem)]
        rows += [
            (
                f"{name}/{member.name}",
                name,
                path,
                0.0,
                member.seconds,
                member.offset,
                member.size,
                None,
                member.is_length_given,
                None,
            )
            for member in index.members
            if member.seconds is not None
        ]
    return build_table(rows, UNSORTED_COLUMNS), problems


def _parquet_rows(names: dict[str, str]) -> tuple[pyarrow.Table, list[str]]:
    """Return a row for each readable row of Parquet files with audio in them, and a line about each of the others."""
    rows, problems = [], []
    for path, name in names.items():
        address = absolute(path)
        try:
            seconds, is_given, faults = read_parquet_lengths(address)
            starts = np.array(group_starts(open_parquet(address)))
        except AudioError as problem:
            problems.append(str(problem))
            continue
        problems += faults
        group_N = np.searchsorted(starts, np.arange(len(seconds)), side="right") - 1
        rows += [
            (f"{name}/{row:06d}", name, path, 0.0, length, None, None, row, is_given[row], int(group_N[row]))
            for row, length in enumerate(seconds)
            if length is not None
        ]
    return build_table(rows, UNSORTED_COLUMNS), problems


def _manifest_rows(path: str) -> tuple[pyarrow.Table, list[str]]:
    """Return the readable rows of a manifest; headers are read only if it does not give the length."""
    import pyarrow

    table, problems = manifest.read_manifest(path)
    seconds_N = table["seconds"].to_numpy().copy()
    unknown_N = np.isnan(seconds_N)
    if unknown_N.any():
        paths = table["path"].filter(pyarrow.array(unknown_N)).to_pylist()
        unique = list(dict.fromkeys(paths))
        durations = dict(zip(unique, read_each(read_duration, unique, "reading the headers of the files")))
        problems += [problem for problem in durations.values() if isinstance(problem, str)]
        file_seconds = [duration if isinstance(duration, float) else np.nan for duration in map(durations.get, paths)]
        seconds_N[unknown_N] = np.array(file_seconds) - table["start"].to_numpy()[unknown_N]
    none = pyarrow.nulls(len(seconds_N), pyarrow.int64())
    columns = {"id": table["id"], "sort_key": table["id"], "path": table["path"], "start": table["start"]}
    columns |= {"seconds": seconds_N, "offset": none, "size": none, "row": none, "is_length_given": ~unknown_N}
    columns |= {"group": none}
    rows = pyarrow.table(columns, schema=_schema(UNSORTED_COLUMNS))
    return rows.filter(pyarrow.array(~np.isnan(seconds_N))), problems
