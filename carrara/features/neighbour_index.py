"""An index of a table's rows for fast approximate search: usearch's HNSW graph [malkov2020 §4] over half precision.

A folder `LIB.index/` holds `index.json` (settings, and which generation of files is valid), the graph, the paths and
times of rows, and `vectors.f32`, the embeddings by which the graph's candidates are ranked exactly. All are
memory-mapped, so an open index occupies little memory. Indexing again adds the new recordings of a table and removes
those that it lost; rows keep their number. `index.json` is replaced last, so a killed process leaves the former index.

Letters: R rows, N some of them, D dim.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carrara.core.errors import StoreError, UsageError
from carrara.core.io import atomic_write, file_lock, write_text
from carrara.core.progress import progress
from carrara.core.strict_json import read_json_object
from carrara.features.embedding_table import EmbeddedRows, EmbeddingTable, flatten_settings
from carrara.features.store import write_errors

INDEX_FILE, VECTORS, FORMAT = "index.json", "vectors.f32", 2
INDEX_TABLE = ".table"  # folder inside, with the table of an index that `carrara embed` wrote
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 256
FIRST_CANDIDATES = 128
COMMIT_ROWS = 100_000  # added between two commits, so that an interrupted build continues
ADD_ROWS = 4096  # added at once: then progress is shown, and Ctrl-C is obeyed
CHECKED_BYTES = 2**28  # what is larger is not read when an index is opened, but searched at once
CURE = "make it again with `carrara index --rebuild`"


@dataclass(frozen=True)
class IndexReport:
    """Result of `update_index`: rows of the index, and how many recordings were added and removed."""

    rows: int
    added: int
    removed: int


class NeighbourIndex(EmbeddedRows):
    """An index that `update_index` made, open for searching."""

    def __init__(self, path: str | Path) -> None:
        """Map the files of an index.

        Raises:
            StoreError: There is no index, or it is damaged.
        """
        self.path = Path(path)
        state = _read_state(self.path)
        self.settings, self.layer = state["settings"], state["layer"]
        if state["scaling"] is not None:
            mean_D, std_D = np.asarray(state["scaling"], np.float32)
            self.scaling = (mean_D, std_D)
        rows, dim, generation = state["rows"], state["dim"], state["generation"]
        _verify_files(self.path, state)
        self._table = _map_rows(self.path / f"rows-{generation}.arrow")
        try:
            self._vectors_RD = np.memmap(self.path / VECTORS, np.dtype("<f4"), "r", shape=(rows, dim))
            self._graph = _open_graph(self.path / f"graph-{generation}.usearch", view=True)
            if self._table.num_rows != rows:
                raise ValueError(f"{self._table.num_rows} rows instead of {rows}")
        except (OSError, ValueError) as problem:
            raise StoreError(f"{path}: damaged ({problem}); {CURE}") from None
        self.path_R = self._table["path"].combine_chunks()
        self.start_R, self.duration_R = (self._table[name].to_numpy() for name in ("start", "duration"))

    def __len__(self) -> int:
        """Return how many rows can be found."""
        return len(self._graph)

    def sha256(self, row: int) -> str:
        """Return the SHA-256 that the recording of a row had when it was embedded."""
        return str(self._table["sha256"][row].as_py())

    def vectors(self, rows_N: np.ndarray) -> np.ndarray:
        """Return the embeddings of rows, float32 `[N, D]`."""
        return np.asarray(self._vectors_RD[rows_N])

    def present_rows(self) -> np.ndarray:
        """Return the rows that are not removed, `[N]`."""
        return np.flatnonzero(~self._table["removed"].to_numpy().astype(bool))

    def nearest(self, query_D: np.ndarray) -> Iterator[tuple[int, float]]:
        """Yield rows with their cosine similarity to a unit vector, the most similar first.

        The graph gives four times as many candidates as are yielded before it is searched again, more widely. When they
        come near all rows, or the index is small, all rows are compared: a graph may not lead to each of them.
        """
        yielded: set[int] = set()
        candidates, is_exact = FIRST_CANDIDATES, False
        while not is_exact:
            is_exact = 4 * candidates >= len(self._graph)
            if is_exact:
                keys_N = self.present_rows()
            else:
                self._graph.expansion_search = max(EXPANSION_SEARCH, candidates)
                keys_N = self._graph.search(query_D, candidates, threads=1).keys.astype(np.int64)
            similarity_N = self.unit_vectors(self.vectors(keys_N)) @ query_D
            last = len(keys_N) if is_exact else candidates // 4
            for index in np.argsort(-similarity_N, kind="stable")[:last]:
                if int(keys_N[index]) not in yielded:
                    yielded.add(int(keys_N[index]))
                    yield int(keys_N[index]), float(similarity_N[index])
            candidates *= 4


def update_index(
    table: EmbeddingTable, output: Path, rebuild: bool = False, threads: int = 0, commit_rows: int = COMMIT_ROWS
) -> IndexReport:
    """Make an index of a table, or bring it up to date: add recordings that are new, remove those that are gone.

    Args:
        table: What is indexed, with the scaling that a new index is to have; an existing index keeps its own.
        output: Folder of the index.
        rebuild: Make it anew.
        threads: Of usearch. 0 means all cores.
        commit_rows: Rows added between two commits.

    Raises:
        UsageError: The index was made with another encoder, other weights, or another layer or scaling.
        StoreError: The folder holds other files, cannot be written, or another process writes it.
    """
    output = Path(output)
    check_index_folder(output)
    with file_lock(output / ".lock", wait=False), write_errors(output):
        for name in (INDEX_FILE, VECTORS) if rebuild else ():
            (output / name).unlink(missing_ok=True)
        return _IndexBuilder(table, output, threads).update(commit_rows)


def check_index_folder(output: Path) -> None:
    """Check that an index can be written: usearch is installed, and the folder is new, empty or an index.

    Raises:
        UsageError: usearch is not installed.
        StoreError: The output is a file, or holds other files.
    """
    _import_graph()
    if output.exists() and not output.is_dir():
        raise StoreError(f"{output}: a file; choose another -o")
    if output.is_dir() and not (output / INDEX_FILE).exists():
        foreign = [file.name for file in output.iterdir() if not _is_own(file)]
        if foreign:
            raise StoreError(f"{output}: holds other files, such as {foreign[0]}; choose another -o")


class _IndexBuilder:
    """Adds and removes rows of an index that is loaded into memory."""

    def __init__(self, table: EmbeddingTable, folder: Path, threads: int) -> None:
        import pyarrow

        self.table, self.folder, self.threads = table, folder, threads
        self.schema = pyarrow.schema(
            {
                "path": pyarrow.string(),
                "start": pyarrow.float64(),
                "duration": pyarrow.float64(),
                "sha256": pyarrow.string(),
                "removed": pyarrow.bool_(),
            }
        )
        if (folder / INDEX_FILE).exists():
            self.state = _read_state(folder)
            _check_same(self.state, table, folder)
            _verify_files(folder, self.state)
            generation = self.state["generation"]
            self.rows = _map_rows(folder / f"rows-{generation}.arrow")
            self.graph = _open_graph(folder / f"graph-{generation}.usearch", view=False)
            scaling = self.state["scaling"]
            table.scaling = None if scaling is None else tuple(np.asarray(scaling, np.float32))
        else:
            scaling = None if table.scaling is None else [part_D.tolist() for part_D in table.scaling]
            self.state = {"format": FORMAT, "settings": table.settings, "layer": table.layer, "dim": table.dim}
            self.state |= {"scaling": scaling, "rows": 0, "generation": 0}
            self.rows = self.schema.empty_table()
            self.graph = _import_graph()(
                ndim=table.dim,
                metric="cos",
                dtype="f16",
                connectivity=CONNECTIVITY,
                expansion_add=EXPANSION_ADD,
                expansion_search=EXPANSION_SEARCH,
            )

    def update(self, commit_rows: int) -> IndexReport:
        """Bring the index up to date, and commit after so many rows and at the end."""
        import pyarrow
        from pyarrow import compute

        hashes = self.table.hashes
        paths, values = (pyarrow.array(list(part), pyarrow.string()) for part in (hashes, hashes.values()))
        now = values.take(compute.index_in(self.rows["path"].combine_chunks(), value_set=paths))
        equal = compute.fill_null(compute.equal(self.rows["sha256"].combine_chunks(), now), False)
        is_same_R = equal.to_numpy(zero_copy_only=False)
        removed_R = self.rows["removed"].to_numpy().astype(bool)
        gone_N = np.flatnonzero(~is_same_R & ~removed_R)
        gone = self.rows["path"].take(gone_N).unique()
        if len(gone_N):
            self.graph.remove(gone_N.astype(np.uint64))
            removed_R[gone_N] = True
            self.rows = self.rows.set_column(4, "removed", pyarrow.array(removed_R))
        stored = self.rows["path"].filter(pyarrow.array(~removed_R))
        new_R = ~compute.is_in(self.table.path_R, value_set=stored).to_numpy(zero_copy_only=False)
        added = len(self.table.path_R.filter(pyarrow.array(new_R)).unique())
        if added or len(gone):
            self._add(new_R, commit_rows)
        else:
            self._sweep()
        return IndexReport(len(self.graph), added, len(gone))

    def _add(self, new_R: np.ndarray, commit_rows: int) -> None:
        """Add rows of the table, and commit."""
        paths, pending = self.table.path_R, 0
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / VECTORS, "ab") as file, progress("indexing", int(new_R.sum())) as advance:
            file.truncate(4 * self.state["dim"] * self.rows.num_rows)  # what a killed process appended
            for begin, vectors_ND in self.table.blocks(new_R):
                after = begin + len(vectors_ND)
                chosen_N = np.flatnonzero(new_R[begin:after])
                for first in range(0, len(chosen_N), ADD_ROWS):
                    part_N = chosen_N[first : first + ADD_ROWS]
                    self._append(file, begin + part_N, vectors_ND[part_N])
                    advance(len(part_N))
                pending += len(chosen_N)
                # A commit holds whole recordings, since the next update goes by recordings.
                if pending >= commit_rows and after < len(new_R) and paths[after - 1] != paths[after]:
                    self._commit(file)
                    pending = 0
            self._commit(file)

    def _append(self, file: Any, rows_N: np.ndarray, vectors_ND: np.ndarray) -> None:
        import pyarrow

        keys_N = np.arange(self.rows.num_rows, self.rows.num_rows + len(rows_N), dtype=np.uint64)
        self.graph.add(keys_N, self.table.unit_vectors(vectors_ND), threads=self.threads)
        file.write(np.ascontiguousarray(vectors_ND, "<f4").tobytes())
        paths = self.table.path_R.take(pyarrow.array(rows_N))
        columns = {
            "path": paths,
            "start": self.table.start_R[rows_N],
            "duration": self.table.duration_R[rows_N],
            "sha256": [self.table.hashes[path] for path in paths.to_pylist()],
            "removed": np.zeros(len(rows_N), bool),
        }
        self.rows = pyarrow.concat_tables([self.rows, pyarrow.table(columns, schema=self.schema)])

    def _commit(self, vectors: Any) -> None:
        import pyarrow

        vectors.flush()
        os.fsync(vectors.fileno())
        generation = self.state["generation"] + 1
        with atomic_write(self.folder / f"graph-{generation}.usearch") as tmp:
            self.graph.save(str(tmp))
        with (
            atomic_write(self.folder / f"rows-{generation}.arrow") as tmp,
            pyarrow.OSFile(str(tmp), "wb") as sink,
            pyarrow.ipc.new_file(sink, self.schema) as writer,
        ):
            writer.write_table(self.rows.combine_chunks())
        files = [self.folder / name for name in (f"graph-{generation}.usearch", f"rows-{generation}.arrow")]
        self.state |= {"rows": self.rows.num_rows, "generation": generation}
        self.state["files"] = {file.name: [file.stat().st_size, _checksum(file)] for file in files}
        write_text(self.folder / INDEX_FILE, json.dumps(self.state) + "\n")
        self._sweep()

    def _sweep(self) -> None:
        """Remove files of former generations; a process that maps them keeps them until it ends."""
        generation = self.state["generation"]
        valid = {f"graph-{generation}.usearch", f"rows-{generation}.arrow", INDEX_FILE, VECTORS, ".lock"}
        for file in self.folder.iterdir():
            if _is_own(file) and file.name not in valid:
                with suppress(OSError):  # Windows keeps what another process maps
                    file.unlink()


def _is_own(file: Path) -> bool:
    return file.name.startswith(("graph-", "rows-", ".")) or file.name in (VECTORS, INDEX_FILE)


def _check_same(state: dict[str, Any], table: EmbeddingTable, folder: Path) -> None:
    """Check that an index is of the same kind as a table.

    Raises:
        UsageError: It was made with another setting; the message names it.
    """
    former, now = flatten_settings(state["settings"]), flatten_settings(table.settings)
    former |= {"layer": state["layer"]}
    now |= {"layer": table.layer}
    for key in now:
        if former.get(key) != now[key]:
            raise UsageError(
                f"{folder}: an index of another {key} ({former.get(key)!r}, {table.path} has {now[key]!r}); "
                "choose another -o, or make it again with --rebuild"
            )
    if (state["scaling"] is None) != (table.scaling is None):
        was = "without" if state["scaling"] is None else "with"
        raise UsageError(f"{folder}: was made {was} --standardise; do the same, or make it again with --rebuild")


def _read_state(folder: Path) -> dict[str, Any]:
    """Return the contents of index.json.

    Raises:
        StoreError: It is missing, damaged or of another version.
    """
    path = folder / INDEX_FILE
    try:
        state = read_json_object(path)
        if state["format"] != FORMAT:
            raise StoreError(f"{folder}: an index of another version of Carrara; {CURE}")
        if not all(key in state for key in ("settings", "layer", "dim", "scaling", "rows", "generation", "files")):
            raise ValueError("keys are missing")
        if not all(isinstance(state[key], dict) for key in ("settings", "files")):
            raise ValueError("settings and files are no objects")
        if not all(type(state[key]) is int and state[key] >= 0 for key in ("dim", "rows", "generation")):
            raise ValueError("dim, rows and generation are no numbers")
        scaling, dim = state["scaling"], state["dim"]
        if scaling is not None and np.asarray(scaling, np.float32).shape != (2, dim):
            raise ValueError(f"scaling is no mean and standard deviation of {dim} values")
    except FileNotFoundError:
        raise StoreError(f"{folder}: no index; make one with `carrara index`") from None
    except (OSError, KeyError, TypeError, ValueError) as problem:
        raise StoreError(f"{path}: damaged ({problem}); {CURE}") from None
    return dict(state)


def _verify_files(folder: Path, state: dict[str, Any]) -> None:
    """Check size and checksum of the files that native code maps: it ends the process where they are damaged.

    Raises:
        StoreError: One is missing or damaged.
    """
    for name in (f"graph-{state['generation']}.usearch", f"rows-{state['generation']}.arrow"):
        path, expected = folder / name, state["files"].get(name)
        try:
            is_equal = [path.stat().st_size, _checksum(path)] == expected
        except FileNotFoundError:
            raise StoreError(f"{path}: missing; {CURE}") from None
        if not is_equal:
            raise StoreError(f"{path}: damaged (not what was written); {CURE}")


def _checksum(path: Path) -> int | None:
    """Return the CRC-32 of a file; None for one so large that reading it would delay every search."""
    if path.stat().st_size > CHECKED_BYTES:
        return None
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _map_rows(path: Path) -> Any:
    """Return the table of rows, mapped from its file.

    Raises:
        StoreError: It is missing or damaged.
    """
    import pyarrow

    try:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
    except (OSError, pyarrow.ArrowException) as problem:
        raise StoreError(f"{path}: damaged ({problem}); {CURE}") from None


def _open_graph(path: Path, view: bool) -> Any:
    """Return a graph, mapped from its file with `view`.

    Raises:
        StoreError: It is missing or damaged.
    """
    graph_type, graph, problem = _import_graph(), None, "damaged"
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        source = memoryview(mapped) if view else str(path)
        graph = graph_type.restore(source, view=view, enable_key_lookups=not view)
    except FileNotFoundError:
        problem = "missing"
    except (RuntimeError, ValueError) as reason:
        problem = f"damaged ({reason})"
    if graph is None:
        raise StoreError(f"{path}: {problem}; {CURE}")
    if view:
        graph.mapped = mapped  # it must live as long
        if hasattr(mapped, "madvise"):  # opening reads a word of each node; its pages may go until a search
            mapped.madvise(mmap.MADV_DONTNEED)
    graph.expansion_add, graph.expansion_search = EXPANSION_ADD, EXPANSION_SEARCH
    return graph


def _import_graph() -> Any:
    """Return usearch's class.

    Raises:
        UsageError: It is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError:
        raise UsageError("an index needs usearch: pip install 'carrara[find]'") from None
    return Index
