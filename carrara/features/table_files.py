"""Embeddings as a file of any ending: Parquet as it is, an index and other files from Parquet parts beside them."""

from __future__ import annotations

import csv
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from carrara.core.errors import UsageError
from carrara.core.io import atomic_write, draft_folder
from carrara.encoders._base import Encoder
from carrara.features.embed_config import EmbedConfig
from carrara.features.embedding_table import SMALLEST, EmbeddingTable
from carrara.features.parquet import EmbedReport, write_embeddings
from carrara.features.ray_pool import RayCluster
from carrara.features.store import write_errors

if TYPE_CHECKING:
    import pyarrow

ARROW = (".arrow", ".feather")
ANEW = (".csv", ".npy", ".faiss", ".lance", *ARROW)  # written anew, from parts beside them
COLUMNS = ("path", "start", "duration", "layer")


def write_table(
    encoder: Encoder,
    files: Sequence[Path | str],
    output: Path,
    config: EmbedConfig,
    device: str = "cpu",
    batch_size: int | None = None,
    overwrite: bool = False,
    threads: int = 2,
    cluster: RayCluster | None = None,
) -> EmbedReport:
    """Write the embeddings of recordings in the format that the ending names; `-` is CSV on standard output.

    A CSV file has the columns path, start, duration, layer and e0 to eD-1. An array is float32 `[rows, D]`, and
    `OUT.rows.csv` beside it says what each row is. `.arrow` and `.feather` are Arrow's file format with the columns of
    the Parquet file, `.lance` is a Lance dataset with them. `.faiss` is FAISS's exact index by inner product over the
    rows divided by their lengths, so that it returns cosines; `OUT.faiss.rows.csv` says what each of its numbers is.
    These are made of Parquet parts, which a stopped call leaves and the next one continues. They are written anew, so
    without `overwrite` no former row may be lost. `OUT.index` is an index as of
    `carrara.features.neighbour_index`, which keeps its table in a folder inside and is brought up to date.

    Args:
        encoder, files, config, device, batch_size, overwrite, threads, cluster: As of
            `carrara.features.parquet.write_embeddings`.
        output: The file, a folder for Parquet parts, or `-`.

    Raises:
        UsageError: As of `write_embeddings`; or the output exists and holds other recordings, or is none of these
            tables; or FAISS or Lance is not installed.
        StoreError: As of `write_embeddings`.
    """
    suffix = output.suffix.lower()
    where: dict[str, Any] = {"threads": threads, "cluster": cluster}
    if suffix == ".index":
        return _write_index(encoder, files, output, config, device, batch_size, overwrite, where)
    if str(output) != "-" and (suffix not in ANEW or (output.is_dir() and suffix != ".lance")):
        return write_embeddings(encoder, files, output, config, device, batch_size, overwrite, **where)
    if str(output) == "-":
        with draft_folder() as folder:
            report = write_embeddings(encoder, files, folder / "parts", config, device, batch_size, **where)
            _write_csv(sys.stdout, folder / "parts")
            return report
    if suffix == ".faiss":
        _import_extra("faiss", output)
    elif suffix == ".lance":
        _import_extra("lance", output)
    rows_file = {".npy": output.with_suffix(".rows.csv"), ".faiss": Path(f"{output}.rows.csv")}.get(suffix, output)
    if not overwrite:
        if output.is_file() and output.stat().st_size and not rows_file.is_file():
            raise UsageError(
                f"{output}: exists without {rows_file.name} beside it, so it was not written here; name another file, "
                "or give --overwrite"
            )
        _refuse_loss(rows_file, files)
    parts = Path(f"{output}.parts")
    report = write_embeddings(encoder, files, parts, config, device, batch_size, overwrite=True, **where)
    if report.embedded + report.reused:
        if suffix == ".csv":
            with atomic_write(output) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
                _write_csv(file, parts)
        elif suffix == ".npy":
            _write_array(output, parts, report.rows)
        elif suffix == ".faiss":
            _write_faiss(output, rows_file, parts)
        elif suffix == ".lance":
            _write_lance(output, parts)
        else:
            _write_arrow(output, parts)
    for part in parts.glob("part-*.parquet"):
        part.unlink()
    with suppress(OSError):  # it holds foreign files, or another process uses it
        parts.rmdir()
    return report


def _write_index(
    encoder: Encoder,
    files: Sequence[Path | str],
    output: Path,
    config: EmbedConfig,
    device: str,
    batch_size: int | None,
    overwrite: bool,
    where: dict[str, Any],
) -> EmbedReport:
    """Embed into the table inside an index, and bring the index up to date with it.

    Raises:
        UsageError: usearch is not installed, several layers were chosen, or as of `write_embeddings`.
        StoreError: As of `update_index` and `write_embeddings`.
    """
    from carrara.features.neighbour_index import INDEX_TABLE, check_index_folder, update_index

    if config.layer == "all":
        raise UsageError(f"-o {output}: an index holds one layer; choose it with --layer, such as --layer mean")
    check_index_folder(output)
    report = write_embeddings(encoder, files, output / INDEX_TABLE, config, device, batch_size, overwrite, **where)
    if report.rows:
        update_index(EmbeddingTable(output / INDEX_TABLE), output, threads=where["threads"])
    return report


def _refuse_loss(table: Path, files: Sequence[Path | str]) -> None:
    """Refuse to replace a table of rows that has other recordings than `files`, or that is none."""
    if table.is_dir():
        if not any(table.iterdir()):
            return
    elif not table.is_file() or not table.stat().st_size:
        return
    former = _read_paths(table)
    if former is None:
        raise UsageError(f"{table}: exists and is no table of embeddings; name another file, or give --overwrite")
    named = {os.path.abspath(path) for path in files}
    if lost := sorted(path for path in former if os.path.abspath(path) not in named):
        raise UsageError(
            f"{table}: holds {lost[0]}, which is not named, and is written anew; name all recordings, drop it with "
            "--overwrite, or write .parquet, which keeps former rows"
        )


def _read_paths(table: Path) -> set[str] | None:
    """Return the paths of the recordings in a CSV or Arrow file or a Lance dataset; None if it is no such table."""
    import pyarrow

    if table.suffix.lower() == ".lance":
        lance = _import_extra("lance", table)
        try:
            dataset = lance.dataset(str(table))
        except (OSError, ValueError):
            return None
        if tuple(dataset.schema.names)[: len(COLUMNS)] != COLUMNS:
            return None
        return set(dataset.to_table(columns=["path"])["path"].to_pylist())
    if table.suffix.lower() in ARROW:
        try:
            with pyarrow.memory_map(str(table)) as file, pyarrow.ipc.open_file(file) as reader:
                if tuple(reader.schema.names)[: len(COLUMNS)] != COLUMNS:
                    return None
                batches = map(reader.get_batch, range(reader.num_record_batches))
                return {path for batch in batches for path in batch["path"].unique().to_pylist()}
        except pyarrow.ArrowException:
            return None
    with table.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        rows = csv.reader(file)
        if tuple(next(rows, []))[: len(COLUMNS)] == COLUMNS:
            return {row[0] for row in rows if row}
    return None


def _write_arrow(output: Path, parts: Path) -> None:
    import pyarrow

    writer = None
    with atomic_write(output) as tmp, pyarrow.OSFile(str(tmp), "wb") as sink, ExitStack() as stack:
        for table in _iter_tables(parts):
            writer = writer or stack.enter_context(pyarrow.ipc.new_file(sink, table.schema))
            writer.write_table(table)


def _write_lance(output: Path, parts: Path) -> None:
    """Write a version of a dataset; readers see the former one until it is complete."""
    import pyarrow

    tables = _iter_tables(parts)
    first = next(tables)
    batches = (batch for table in chain([first], tables) for batch in table.to_batches())
    reader = pyarrow.RecordBatchReader.from_batches(first.schema, batches)
    with write_errors(output):
        _import_extra("lance", output).write_dataset(reader, str(output), mode="overwrite")


def _write_faiss(output: Path, rows_file: Path, parts: Path) -> None:
    faiss = _import_extra("faiss", output)
    index = None
    with (
        atomic_write(output) as tmp,
        atomic_write(rows_file) as tmp_rows,
        tmp_rows.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for table in _iter_tables(parts):
            rows_RD = _embeddings_of(table)
            lengths_R = np.maximum(np.linalg.norm(rows_RD, axis=1, keepdims=True), SMALLEST)
            index = index or faiss.IndexFlatIP(rows_RD.shape[1])
            index.add((rows_RD / lengths_R).astype(np.float32))
            writer.writerows(zip(*(table[name].to_pylist() for name in COLUMNS)))
        faiss.write_index(index, str(tmp))


def _import_extra(module: str, output: Path) -> Any:
    """Return the package that writes an output; its extra has the package's name.

    Raises:
        UsageError: It is not installed.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each dataset that is new
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"-o {output}: needs pip install 'carrara[{module}]'") from None


def _iter_tables(parts: Path) -> Iterator[pyarrow.Table]:
    from pyarrow import parquet

    for part in sorted(parts.glob("part-*.parquet")):
        with parquet.ParquetFile(part) as reader:
            for number in range(reader.num_row_groups):
                yield reader.read_row_group(number)


def _embeddings_of(table: pyarrow.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)


def _write_csv(file: IO[str], parts: Path) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for number, table in enumerate(_iter_tables(parts)):
        rows_RD = _embeddings_of(table)
        if number == 0:
            writer.writerow([*COLUMNS, *(f"e{index}" for index in range(rows_RD.shape[1]))])
        for names, row_D in zip(zip(*(table[name].to_pylist() for name in COLUMNS)), rows_RD):
            writer.writerow([*names, *map(str, row_D)])


def _write_array(output: Path, parts: Path, rows: int) -> None:
    written = 0
    with (
        atomic_write(output) as tmp,
        atomic_write(output.with_suffix(".rows.csv")) as tmp_rows,
        tmp_rows.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        array = None
        for table in _iter_tables(parts):
            rows_RD = _embeddings_of(table)
            if array is None:
                shape = (rows, rows_RD.shape[1])
                array = np.lib.format.open_memmap(tmp, mode="w+", dtype=np.float32, shape=shape)
            array[written : written + len(rows_RD)] = rows_RD
            written += len(rows_RD)
            writer.writerows(zip(*(table[name].to_pylist() for name in COLUMNS)))
        if array is not None:
            array.flush()
