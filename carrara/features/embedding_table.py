"""Reads tables that `carrara embed` wrote, in blocks, so that memory does not grow with the table.

Letters: R rows of the table, N some of them, D dim.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.strict_json import parse_json, parse_json_object

if TYPE_CHECKING:
    import pyarrow

SMALLEST = 1e-12  # lengths and deviations below it count as it, so that silence is similar to nothing


class EmbeddedRows(ABC):
    """Rows of recordings with an embedding each, in a table or an index.

    Attributes:
        path: The table or index.
        settings: How the embeddings were made, as `carrara.features.parquet` states it.
        layer: The layer whose rows these are.
        path_R: Path of the recording of each row, a pyarrow array.
        start_R, duration_R: Where a row begins and how long it is, in seconds.
        scaling: Mean and standard deviation `[D]` by which rows are standardised before they are compared; None
            compares them as they are.
    """

    path: Path
    settings: dict[str, Any]
    layer: str
    path_R: pyarrow.Array
    start_R: np.ndarray
    duration_R: np.ndarray
    scaling: tuple[np.ndarray, np.ndarray] | None = None

    @abstractmethod
    def vectors(self, rows_N: np.ndarray) -> np.ndarray:
        """Return the embeddings of rows, float32 `[N, D]`."""

    @abstractmethod
    def nearest(self, query_D: np.ndarray) -> Iterator[tuple[int, float]]:
        """Yield rows with their cosine similarity to a unit vector, the most similar first."""

    @abstractmethod
    def sha256(self, row: int) -> str:
        """Return the SHA-256 that the recording of a row had when it was embedded."""

    def present_rows(self) -> np.ndarray:
        """Return the rows that can be found, `[N]`."""
        return np.arange(len(self.start_R))

    def unit_vectors(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return vectors standardised, where `scaling` says so, and divided by their lengths; float32 `[N, D]`."""
        if self.scaling is not None:
            mean_D, std_D = self.scaling
            vectors_ND = (vectors_ND - mean_D) / np.maximum(std_D, SMALLEST)
        lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return (vectors_ND / np.maximum(lengths_N, SMALLEST)).astype(np.float32)

    def rows_of(self, path: str) -> np.ndarray:
        """Return the rows of the recording that a path names, in whichever way; none if it is not here."""
        from pyarrow import compute

        full = os.path.abspath(path)
        try:
            full.encode()
        except UnicodeEncodeError:  # a name that is not UTF-8 is in no table
            return np.zeros(0, int)
        named_R = compute.ends_with(self.path_R, os.path.basename(full))
        rows_N = np.flatnonzero(named_R.to_numpy(zero_copy_only=False))
        paths = self.path_R.take(rows_N).to_pylist()
        named_N = np.array([os.path.abspath(name) == full for name in paths], bool)
        return np.intersect1d(rows_N[named_N], self.present_rows()) if named_N.any() else rows_N[:0]


class EmbeddingTable(EmbeddedRows):
    """A Parquet file or a folder of parts that `carrara embed` wrote, open for reading."""

    def __init__(self, path: str | Path, layer: str | None = None, standardise: bool = False) -> None:
        """Read everything but the embeddings.

        Args:
            path: The file or folder.
            layer: Whose rows are used, where the table has several.
            standardise: Scale each dimension to mean 0 and standard deviation 1 over the table.

        Raises:
            StoreError: There is no such table, or it was not made by `carrara embed`.
            UsageError: The table has several layers and none was named, or not that one.
        """
        import pyarrow
        from pyarrow import parquet

        self.path = Path(path)
        files = sorted(self.path.rglob("part-*.parquet")) if self.path.is_dir() else [self.path]  # of all shards
        if not files or not self.path.exists():
            raise StoreError(f"{path}: no such table; make it with `carrara embed`")
        if pipe := next((file for file in files if not file.is_file()), None):
            raise StoreError(f"{pipe}: a pipe or device, not a table; write it to a file first")
        try:
            self._readers = [parquet.ParquetFile(file, memory_map=True) for file in files]
            self.settings = read_settings(self._readers[0].schema_arrow.metadata)
            names = ["path", "start", "duration", "layer"]
            table = pyarrow.concat_tables([reader.read(names) for reader in self._readers])
            kinds = {reader.schema_arrow.field("embedding").type for reader in self._readers}
        except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError):
            raise StoreError(f"{path}: not a table that `carrara embed` wrote") from None
        if not all(pyarrow.types.is_fixed_size_list(kind) for kind in kinds) or len(kinds) > 1:
            shown = " and ".join(sorted(map(str, kinds)))
            raise StoreError(f"{path}: its embeddings are {shown}, not lists of one length, as `carrara embed` writes")
        if empty := [name for name in names if table[name].null_count]:
            raise StoreError(f"{path}: rows without {empty[0]}; leave them out")
        for file, reader in zip(files[1:], self._readers[1:]):
            if read_settings(reader.schema_arrow.metadata) != self.settings:
                raise StoreError(f"{file}: made with other settings than {files[0].name}; embed into another folder")
        layers = table["layer"].unique().to_pylist()
        if layer is None and len(layers) > 1:
            raise UsageError(f"{path}: has the layers {', '.join(layers)}; choose one with --layer")
        if not layers:
            raise StoreError(f"{path}: has no rows")
        if layer is not None and layer not in layers:
            raise UsageError(f"--layer {layer}: {path} has {', '.join(layers)}.{did_you_mean(layer, layers)}")
        self.layer = layers[0] if layer is None else layer
        self._chosen_R = np.flatnonzero(np.asarray(table["layer"].to_numpy() == self.layer))
        table = table.take(self._chosen_R) if len(layers) > 1 else table
        self.path_R = table["path"].combine_chunks()
        self.start_R, self.duration_R = table["start"].to_numpy(), table["duration"].to_numpy()
        if standardise:
            self.scaling = self._mean_and_std()

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self._readers[0].schema_arrow.field("embedding").type.list_size)

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of each recording, by path; empty in a table of `carrara.embed`, which does not state it."""
        hashes = dict.fromkeys(self.path_R.unique().to_pylist(), "")
        for reader in self._readers:
            try:
                hashes.update(parse_json((reader.metadata.metadata or {}).get(b"files", b"[]")))
            except (TypeError, ValueError):
                raise StoreError(f"{self.path}: its list of files is damaged; embed them again into another") from None
        return hashes

    def sha256(self, row: int) -> str:
        """Return the SHA-256 that the recording of a row had when it was embedded."""
        return self.hashes[self.path_R[row].as_py()]

    def blocks(self, needed_R: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the embeddings in blocks, float32 `[N, D]`, each with the index of its first row.

        Args:
            needed_R: Whether a row is needed; blocks that need not be read are left out. None means all are.
        """
        begin = 0
        for first, last, reader, number in self._row_groups():
            end = int(np.searchsorted(self._chosen_R, last))
            if end > begin and (needed_R is None or needed_R[begin:end].any()):
                vectors_ND = self._read_vectors(reader, number)
                yield begin, vectors_ND[self._chosen_R[begin:end] - first]
            begin = end

    def vectors(self, rows_N: np.ndarray) -> np.ndarray:
        """Return the embeddings of rows, float32 `[N, D]`."""
        wanted_N = self._chosen_R[rows_N]
        result_ND = np.empty((len(wanted_N), self.dim), np.float32)
        for first, last, reader, number in self._row_groups():
            inside_N = (wanted_N >= first) & (wanted_N < last)
            if inside_N.any():
                result_ND[inside_N] = self._read_vectors(reader, number)[wanted_N[inside_N] - first]
        return result_ND

    def nearest(self, query_D: np.ndarray) -> Iterator[tuple[int, float]]:
        """Yield rows with their cosine similarity to a unit vector, the most similar first."""
        similarity_R = np.concatenate([self.unit_vectors(vectors_ND) @ query_D for _, vectors_ND in self.blocks()])
        for row in np.argsort(-similarity_R, kind="stable"):
            yield int(row), float(similarity_R[row])

    def _row_groups(self) -> Iterator[tuple[int, int, Any, int]]:
        """Yield first and last row (exclusive), file and number of each row group."""
        first = 0
        for reader in self._readers:
            for number in range(reader.num_row_groups):
                last = first + reader.metadata.row_group(number).num_rows
                yield first, last, reader, number
                first = last

    def _read_vectors(self, reader: Any, number: int) -> np.ndarray:
        column = reader.read_row_group(number, ["embedding"])["embedding"].combine_chunks()
        if column.null_count:
            raise StoreError(f"{self.path}: rows without an embedding; leave them out")
        flat = column.flatten().to_numpy(zero_copy_only=False)
        vectors_ND = np.asarray(flat.reshape(len(column), self.dim), np.float32)
        # A sum is fast, and finite only where every value is.
        if not np.isfinite(vectors_ND.sum()):
            raise StoreError(f"{self.path}: embeddings that are not finite; embed the recordings again into another")
        return vectors_ND

    def _mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        count, sum_D, squares_D = 0, np.zeros(self.dim), np.zeros(self.dim)
        for _, vectors_ND in self.blocks():
            count += len(vectors_ND)
            sum_D += vectors_ND.sum(0, dtype=np.float64)
        mean_D = sum_D / count
        for _, vectors_ND in self.blocks():
            squares_D += ((vectors_ND - mean_D) ** 2).sum(0)
        return mean_D.astype(np.float32), np.sqrt(squares_D / count).astype(np.float32)


def read_settings(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return how a table was made, from the metadata of its schema.

    Raises:
        KeyError, TypeError, ValueError: It was not made by `carrara embed`.
    """
    settings = parse_json_object(metadata[b"settings"])
    if not isinstance(settings["weights_sha256"], str) or not isinstance(settings["encoder_settings"], dict):
        raise ValueError("no settings of embeddings")
    return dict(settings)


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those of the encoder one by one, so that a message can name the one that differs."""
    own = {key: value for key, value in settings.items() if key != "encoder_settings"}
    return own | {f"setting {key}": value for key, value in settings["encoder_settings"].items()}
