"""A corpus as a table: Parquet or CSV, a row an item, which is a sound file or a stretch of one.

Columns: `path` (absolute, from the manifest's folder, or an address of fsspec); and, each where it is wanted, `start`
and `duration` of a stretch in seconds, `seconds` or `samples` with `sample_rate` (the length of the whole file), and
`id`. Other columns are not looked at. Where `duration`, `seconds` or `samples` stands, the file's head is not read: the
row is believed, and a file that turns out shorter is counted when it turns up. A million rows take seconds.

Letters: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.core.errors import DataError
from carrara.pretrain.corpus.storage import absolute, filesystem, is_remote, suffix

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = frozenset({".parquet", ".csv"})
NUMBERS = ("start", "duration", "seconds", "samples", "sample_rate")
# A stretch may end a little after its file, as written lengths are rounded.
SLACK_SECONDS = 0.1


@dataclass(frozen=True)
class Rows:
    """The rows of a manifest that can be meant.

    Attributes:
        id: pyarrow strings.
        path: pyarrow strings; absolute paths and addresses.
        start_N: where the stretch begins, in seconds.
        length_N: its length in seconds; NaN: to the end of a file of which the manifest does not say the length.
        problems: a line for each row that cannot be meant.
    """

    id: pyarrow.Array
    path: pyarrow.Array
    start_N: np.ndarray
    length_N: np.ndarray
    problems: tuple[str, ...]


def rows(place: str) -> Rows:
    """Return the rows of a manifest; no sound file is looked at.

    Args:
        place: path or address of a Parquet or CSV file.

    Raises:
        DataError: no such file, not a table, no column `path`, or a column of the wrong type.
        UsageError: fsspec cannot open it.
    """
    import pyarrow
    from pyarrow import compute

    table = _typed(_read(place), place)
    number = {name: table[name].to_numpy() for name in NUMBERS}
    start_N = np.where(np.isnan(number["start"]), 0.0, number["start"])
    with np.errstate(divide="ignore", invalid="ignore"):
        counted_N = number["samples"] / number["sample_rate"]
    whole_N = np.where(np.isnan(number["seconds"]), counted_N, number["seconds"])
    length_N = np.where(np.isnan(number["duration"]), whole_N - start_N, number["duration"])
    bad_N, problems = _problems(table, start_N, length_N, whole_N, place)
    length_N = np.fmin(length_N, whole_N - start_N)
    path, text = table["path"], pyarrow.large_string()
    folder, nothing = pyarrow.scalar(absolute(place).rpartition("/")[0] + "/", text), pyarrow.scalar("", text)
    full = compute.or_(compute.starts_with(path, "/"), compute.match_substring(path, "://"))
    path = compute.if_else(full, path, compute.binary_join_element_wise(folder, path, nothing))
    names = _names(table, start_N)
    if problems:
        kept = pyarrow.array(~bad_N)
        names, path, start_N, length_N = names.filter(kept), path.filter(kept), start_N[~bad_N], length_N[~bad_N]
    return Rows(names.combine_chunks(), path.combine_chunks(), start_N, length_N, problems)


def _read(place: str) -> pyarrow.Table:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        with _opened(place) as file:
            if suffix(place) == ".parquet":
                wanted = ["path", "id", *NUMBERS]
                there = parquet.ParquetFile(file).schema_arrow.names
                return parquet.ParquetFile(file).read([name for name in there if name in wanted] or there[:1])
            types = {"path": pyarrow.large_string(), "id": pyarrow.large_string()}
            types |= dict.fromkeys(NUMBERS, pyarrow.float64())
            return csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=types))
    except FileNotFoundError:
        raise DataError(f"{place}: there is no such manifest; --corpus takes a Parquet or CSV file") from None
    except (OSError, pyarrow.ArrowException) as problem:
        reason = str(problem).splitlines()[0]
        raise DataError(
            f"{place}: cannot be read as a manifest: {reason}; it is a Parquet or CSV table with a column path"
        ) from None


def _opened(place: str) -> Any:
    if not is_remote(place):
        return open(place, "rb")
    files, inside = filesystem(place)
    return files.open(inside, "rb")


def _typed(table: pyarrow.Table, place: str) -> pyarrow.Table:
    """Return the known columns, numbers as float64 with NaN where there is none."""
    import pyarrow
    from pyarrow import compute

    names = table.column_names
    if "path" not in names:
        raise DataError(f"{place}: has no column path, only {', '.join(names)}; a manifest names a sound file a row")
    if "samples" in names and not {"sample_rate", "seconds"} & set(names):
        raise DataError(f"{place}: has a column samples but none sample_rate, which it counts in; add it, or seconds")
    columns: dict[str, Any] = {}
    for name in ("path", "id", *NUMBERS):
        wanted = pyarrow.large_string() if name in {"path", "id"} else pyarrow.float64()
        column = table[name] if name in names else pyarrow.nulls(len(table), wanted)
        try:
            cast = column.cast(wanted)
        except pyarrow.ArrowException as problem:
            raise DataError(f"{place}: column {name} is {column.type}, not {wanted}: {problem}") from None
        columns[name] = compute.fill_null(cast, float("nan")) if name in NUMBERS else cast
    missing = compute.fill_null(compute.equal(columns["path"], ""), True)
    if compute.any(missing).as_py():
        raise DataError(f"{place}: row {compute.index(missing, True).as_py() + 1} has no path; fill it in or drop it")
    return pyarrow.table(columns)


def _problems(
    table: pyarrow.Table, start_N: np.ndarray, length_N: np.ndarray, whole_N: np.ndarray, place: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return which rows are a stretch that no file can have, and a line for each."""
    with np.errstate(invalid="ignore"):
        inside_N = np.isfinite(start_N) & (start_N >= 0) & ~np.isinf(whole_N)
        good_N = np.isnan(length_N) | (np.isfinite(length_N) & (length_N > 0))
        late_N = start_N + length_N > whole_N + SLACK_SECONDS
    bad_N = ~(inside_N & good_N) | late_N
    lines = []
    for row in np.flatnonzero(bad_N):
        stretch = f"{length_N[row]:g} s from {start_N[row]:g} s on"
        of = "" if np.isnan(whole_N[row]) else f" of {whole_N[row]:g} s"
        lines.append(f"{place}: row {row + 1}, {table['path'][int(row)]}: {stretch}{of} is no stretch of a file")
    return bad_N, tuple(lines)


def _names(table: pyarrow.Table, start_N: np.ndarray) -> pyarrow.ChunkedArray:
    """Return the column id, and where it is empty the path as written, with the start of a stretch."""
    import pyarrow
    from pyarrow import compute

    text = pyarrow.large_string()
    begins = pyarrow.array(start_N).cast(text)
    stretch = compute.binary_join_element_wise(table["path"], begins, pyarrow.scalar("@", text))
    return compute.coalesce(table["id"], compute.if_else(pyarrow.array(start_N > 0), stretch, table["path"]))
