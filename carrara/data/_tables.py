"""Readers of the datasets' text files and tables; their errors name the file, the line and the cure."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.core.errors import DataError


@dataclass(frozen=True)
class Row:
    """One line of a table: its values by column, and where it is."""

    path: Path
    line: int
    values: Mapping[str, str]

    def error(self, column: str, expected: str) -> DataError:
        """Return the error of a wrong value in a column."""
        return DataError(f"{self.path}, line {self.line}: {column} is {self.values[column]!r}, should be {expected}")


def read_text(path: Path, cure: str) -> str:
    """Return a text file in UTF-8, without its byte order mark.

    Args:
        path: The file.
        cure: What to do if it cannot be read, for the message.

    Raises:
        DataError: it is missing, not UTF-8, or holds a NUL character.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {cure}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {problem}; {cure}") from None
    if (index := text.find("\0")) >= 0:
        line = text.count("\n", 0, index) + 1
        raise DataError(f"{path}, line {line}: holds a NUL character, as text in UTF-16 or a damaged file does; {cure}")
    return text


def split_lines(text: str) -> list[str]:
    """Return the lines of a text; `str.splitlines` would also split at U+2028, U+0085 and others inside a value."""
    return re.split(r"\r\n|\r|\n", text)


def read_lines(
    path: Path, cure: str, delimiter: str = "\t", has_quotes: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield each non-empty line of a table as its number and its values.

    Args:
        path: The file.
        cure: What to do if it cannot be read, for the message.
        delimiter: Separator of the values.
        has_quotes: Whether values may be quoted.

    Raises:
        DataError: it is missing, not UTF-8 or not a table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
            for values in reader:
                if any(values):
                    yield reader.line_num, values
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {cure}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path}: cannot be read as a table: {problem}; {cure}") from None


def read_table(
    path: Path, columns: tuple[str, ...], cure: str, delimiter: str = "\t", has_quotes: bool = False
) -> Iterator[Row]:
    """Yield the rows of a table whose first line names its columns; blanks around values are dropped.

    Args:
        path: The file.
        columns: Columns that it must have.
        cure: What to do if it is not as distributed, for the message.
        delimiter: Separator of the values.
        has_quotes: Whether values may be quoted.

    Raises:
        DataError: it is missing, not UTF-8, lacks a column, or a line has too few or too many values.
    """
    lines = read_lines(path, cure, delimiter, has_quotes)
    header = [name.strip() for name in next(lines, (1, []))[1]]
    if absent := [column for column in columns if column not in header]:
        raise DataError(f"{path}, line 1: lacks the column {absent[0]!r}; {cure}")
    for line, values in lines:
        stripped = [value.strip() for value in values]
        if not any(stripped):
            continue
        if len(values) != len(header):
            raise DataError(f"{path}, line {line}: {len(values)} values for {len(header)} columns; {cure}")
        yield Row(path, line, dict(zip(header, stripped)))


def split_tags(cell: str) -> list[str]:
    """Return the tags of a cell, separated by semicolons; one that holds a semicolon stands in double quotes."""
    tags = []
    for item in re.finditer(r'\s*"((?:[^"]|"")*)"\s*(?=;|$)|[^;]+', cell):
        quoted = item[1] is not None and ";" in item[1]
        tags.append((item[1].replace('""', '"') if quoted else item[0]).strip())
    return [tag for tag in tags if tag]


def parse_seconds(value: Any, location: str) -> float:
    """Return a time in seconds, not negative.

    Args:
        value: What stands for it in a file.
        location: File and line, for the message.

    Raises:
        DataError: it is no such time.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{location}: {str(value)[:60]!r} is not a time in seconds, such as 1.5")
    return seconds


def read_beats(path: Path, cure: str) -> dict[str, list[float]]:
    """Return the ascending `beats` of a file with a time and a position in the bar a line, and `downbeats`, the 1s.

    Raises:
        DataError: it is missing, or a line is not like that; further values in a line are left out.
    """
    beats, downbeats = [], []
    for number, line in enumerate(split_lines(read_text(path, cure)), start=1):
        values = line.split()
        if not values:
            continue
        beats.append(parse_seconds(values[0], f"{path}, line {number}"))
        if not values[1:] or not values[1].isdecimal():
            raise DataError(f"{path}, line {number}: {line[:40]!r} should be a time and a beat in the bar")
        if values[1] == "1":
            downbeats.append(beats[-1])
    return {"beats": sorted(beats), "downbeats": sorted(downbeats)}
