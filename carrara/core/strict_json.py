"""The one reader of JSON: files, lines and bytes that others wrote, with limits on size, depth and numbers.

Python's own reader takes NaN and infinities, integers of any length and nesting up to the recursion limit; what reads
such values later then fails far from the file. Here each is a `ValueError` whose message is one line without the file's
name, which the caller adds with the cure.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28
MAX_DEPTH = 100
MAX_DIGITS = 300  # so that every integer is a finite float
CONTAINERS = (dict, list)


def parse_json(text: str | bytes, allow_nan: bool = False) -> Any:
    """Return the value that a JSON text holds; a byte order mark is skipped.

    Args:
        text: The text, or its bytes in UTF-8.
        allow_nan: Whether NaN and infinities are values; where they are not, 1e999 is none either.

    Raises:
        ValueError: It is not JSON or not UTF-8, exceeds a limit, or holds a number that is not finite.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text) / 1e6:.0f} MB of JSON, more than {MAX_BYTES / 1e6:.0f} MB")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise ValueError(f"not UTF-8 at byte {problem.start}") from None
    try:
        value = (_decode_any if allow_nan else _decode_finite)(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON: {problem.msg} at line {problem.lineno}, column {problem.colno}") from None
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def parse_json_object(text: str | bytes, allow_nan: bool = False) -> dict[str, Any]:
    """Return the object that a JSON text holds; arguments as of `parse_json`.

    Raises:
        ValueError: As `parse_json`, or it holds another value.
    """
    value = parse_json(text, allow_nan)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_json(path: Path, allow_nan: bool = False) -> Any:
    """Return the value in a JSON file; arguments as of `parse_json`.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: As `parse_json`, or it is no regular file.
    """
    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("not a regular file")
    if size > MAX_BYTES:
        raise ValueError(f"{size / 1e6:.0f} MB of JSON, more than {MAX_BYTES / 1e6:.0f} MB")
    return parse_json(path.read_bytes(), allow_nan)


def read_json_object(path: Path, allow_nan: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; arguments as of `parse_json`.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: As `read_json`, or it holds another value.
    """
    value = read_json(path, allow_nan)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits, more than {MAX_DIGITS}")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


_decode_any = json.JSONDecoder(parse_int=_parse_int).decode
_decode_finite = json.JSONDecoder(
    parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
).decode


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [child for child in level if isinstance(child, CONTAINERS)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        level = [child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)]
