"""A corpus as a Parquet or CSV table with one row per item, an audio file or a segment of one.

Columns: `path` (absolute, relative to the manifest's folder, or an fsspec address); optionally `start` and `duration`
of a segment in seconds, `seconds` or `samples` with `sample_rate` (the length of the whole file), and `id`. Other
columns are ignored. If `duration`, `seconds` or `samples` is given, the file's header is not read: a million rows take
seconds, and a file that turns out shorter is counted as unreadable in training.

Letters: N rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.core.errors import DataError
from carrara.core.storage import absolute, open_filesystem, suffix
from carrara.data._tables import split_tags

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = frozenset({".parquet", ".csv"})
NUMBERS = ("start", "duration", "seconds", "samples", "sample_rate")
# A segment may end slightly after its file, because written lengths are rounded.
TOLERANCE_SECONDS = 0.1


def read_manifest(address: str) -> tuple[pyarrow.Table, list[str]]:
    """Return the valid rows of a manifest and a line about each invalid one; no audio file is opened.

    Args:
        address: path or fsspec address of a Parquet or CSV file.

    Returns:
        A table with the columns `id`, `path` (absolute), `start` and `seconds` (NaN if the length is not given), and
        the lines.

    Raises:
        DataError: the file is missing, is no table, has no column `path`, or a column has the wrong type.
        UsageError: fsspec cannot open it.
    """
    import pyarrow
    from pyarrow import compute

    table = _convert_columns(_read_table(address), address)
    column = {name: table[name].to_numpy() for name in NUMBERS}
    start_N = np.where(np.isnan(column["start"]), 0.0, column["start"])
    with np.errstate(divide="ignore", invalid="ignore"):
        counted_N = column["samples"] / column["sample_rate"]
    file_seconds_N = np.where(np.isnan(column["seconds"]), counted_N, column["seconds"])
    seconds_N = np.where(np.isnan(column["duration"]), file_seconds_N - start_N, column["duration"])
    with np.errstate(invalid="ignore"):
        valid_N = np.isfinite(start_N) & (start_N >= 0) & ~np.isinf(file_seconds_N)
        valid_N &= np.isnan(seconds_N) | (np.isfinite(seconds_N) & (seconds_N > 0))
        valid_N &= ~(start_N + seconds_N > file_seconds_N + TOLERANCE_SECONDS)
    problems = []
    for row in np.flatnonzero(~valid_N):
        of = "" if np.isnan(file_seconds_N[row]) else f" of {file_seconds_N[row]:g} s"
        problems.append(
            f"{address}: row {row + 1}, {table['path'][int(row)]}: {seconds_N[row]:g} s from {start_N[row]:g} s on{of} "
            "is no segment of a file"
        )
    text = pyarrow.large_string()
    path, start = table["path"], pyarrow.array(start_N)
    names = item_ids(table)
    folder = pyarrow.scalar(absolute(address).rpartition("/")[0] + "/", text)
    is_absolute = compute.or_(compute.starts_with(path, "/"), compute.match_substring(path, "://"))
    path = compute.if_else(is_absolute, path, compute.binary_join_element_wise(folder, path, pyarrow.scalar("", text)))
    seconds = pyarrow.array(np.fmin(seconds_N, file_seconds_N - start_N))
    rows = pyarrow.table({"id": names, "path": path, "start": start, "seconds": seconds})
    return (rows.filter(pyarrow.array(valid_N)) if problems else rows), problems


def read_manifest_tags(address: str, field: str) -> dict[str, tuple[list[str], str]]:
    """Return the tags of each item, and its split ("" where there is no column `split`), by the item's id.

    Args:
        address: path or fsspec address of a Parquet or CSV file.
        field: column of strings or lists of strings; a column `FIELD[]` of a CSV file holds lists, separated by `;`.

    Raises:
        DataError: there is no such column, or it holds something else.
    """
    import pyarrow
    from pyarrow import csv, parquet

    files, path = open_filesystem(address)
    with files.open(path, "rb") as file:
        table = parquet.read_table(file) if suffix(address) == ".parquet" else csv.read_csv(file)
    name = next((each for each in (field, f"{field}[]") if each in table.column_names), None)
    if name is None:
        raise DataError(
            f"{address}: has no column {field} or {field}[], only {', '.join(table.column_names)}; choose one with "
            "--set labels.field=NAME"
        )
    ids = item_ids(_convert_columns(table, address)).to_pylist()
    splits = table["split"].to_pylist() if "split" in table.column_names else [""] * len(ids)
    values = table[name].to_pylist()
    tags: dict[str, tuple[list[str], str]] = {}
    for item, value, split in zip(ids, values, splits):
        parts = split_tags(value) if name.endswith("[]") and isinstance(value, str) else value
        parts = [parts] if isinstance(parts, str) else parts or []
        if not isinstance(parts, list) or not all(isinstance(tag, str) for tag in parts):
            kind = table[name].type if isinstance(table, pyarrow.Table) else ""
            raise DataError(
                f"{address}: column {name} is {kind}, not strings or lists of them; choose another with --set "
                "labels.field=NAME"
            )
        tags[item] = ([tag.strip() for tag in parts if tag.strip()], str(split or ""))
    return tags


def item_ids(table: pyarrow.Table) -> pyarrow.ChunkedArray:
    """Return the ids of a manifest's rows: the column `id`, else the path, with the start of a segment."""
    import pyarrow
    from pyarrow import compute

    text, path = pyarrow.large_string(), table["path"]
    start = compute.if_else(compute.is_nan(table["start"]), 0.0, table["start"])
    segment = compute.binary_join_element_wise(path, start.cast(text), pyarrow.scalar("@", text))
    return compute.coalesce(table["id"], compute.if_else(compute.greater(start, 0.0), segment, path))


def _read_table(address: str) -> pyarrow.Table:
    import pyarrow
    from pyarrow import csv, parquet

    files, path = open_filesystem(address)
    known = {"path": pyarrow.large_string(), "id": pyarrow.large_string()}
    known |= dict.fromkeys(NUMBERS, pyarrow.float64())
    try:
        with files.open(path, "rb") as file:
            if suffix(address) == ".parquet":
                table = parquet.ParquetFile(file)
                names = table.schema_arrow.names
                # A table without a path is refused, which needs only its columns' names.
                columns = [name for name in names if name in known]
                return table.read(columns) if "path" in names else table.schema_arrow.empty_table()
            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=known))
            table.validate(full=True)
            names = table.column_names
            return table.select([name for name in names if name in known]) if "path" in names else table
    except FileNotFoundError:
        raise DataError(f"{address}: there is no such manifest; --corpus takes a Parquet or CSV file") from None
    except (OSError, ValueError, pyarrow.ArrowException) as problem:
        reason = str(problem).partition("\n")[0][:200]
        raise DataError(
            f"{address}: cannot be read as a manifest: {reason}; it is a Parquet or CSV table with a column path"
        ) from None


def _convert_columns(table: pyarrow.Table, address: str) -> pyarrow.Table:
    """Return the known columns, text as large strings, numbers as float64 with NaN for missing ones."""
    import pyarrow
    from pyarrow import compute

    names = table.column_names
    if "path" not in names:
        raise DataError(f"{address}: has no column path, only {', '.join(names)}; each row of a manifest names a file")
    if "samples" in names and not {"sample_rate", "seconds"} & set(names):
        raise DataError(f"{address}: has a column samples but none sample_rate to count them in; add it, or seconds")
    columns: dict[str, Any] = {}
    for name in ("path", "id", *NUMBERS):
        kind = pyarrow.large_string() if name in {"path", "id"} else pyarrow.float64()
        column = table[name] if name in names else pyarrow.nulls(len(table), kind)
        try:
            converted = column.cast(kind)
        except pyarrow.ArrowException as problem:
            raise DataError(f"{address}: column {name} is {column.type}, not {kind}: {problem}") from None
        columns[name] = compute.fill_null(converted, float("nan")) if name in NUMBERS else converted
    missing = compute.fill_null(compute.equal(columns["path"], ""), True)
    if compute.any(missing).as_py():
        raise DataError(f"{address}: row {compute.index(missing, True).as_py() + 1} has no path; fill it in or drop it")
    return pyarrow.table(columns)
