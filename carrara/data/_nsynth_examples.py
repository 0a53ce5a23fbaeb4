"""NSynth's `examples.json`, note by note: one large JSON object read with a block of it in memory.

The training file is about 200 MB and 289,205 notes; parsed whole it takes several times that as Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from carrara.core.errors import DataError

BLOCK_CHARACTERS = 1 << 20
BLANKS = " \t\r\n"


def examples(path: Path, block: int = BLOCK_CHARACTERS) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each member of the JSON object in a file, in the file's order.

    Args:
        path: the file.
        block: characters that are read at once.

    Raises:
        DataError: the file is not there, not text, not a JSON object, or cut short; the message names the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _members(_Cursor(path, file, block))
    except FileNotFoundError:
        raise DataError(f"{path}: not there; `carrara download nsynth` gives it") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read: {problem}; `carrara download nsynth` gives it whole") from None


def _members(cursor: _Cursor) -> Iterator[tuple[str, Any]]:
    cursor.take("{")
    more = cursor.peek() != "}"
    while more:
        key = cursor.value()
        if not isinstance(key, str):
            raise cursor.wrong(f"{key!r} where a note's name should be")
        cursor.take(":")
        yield key, cursor.value()
        more = cursor.peek() == ","
        if more:
            cursor.take(",")
    cursor.take("}")
    cursor.take("")


class _Cursor:
    """A place in a JSON text of which a part is in memory."""

    def __init__(self, path: Path, file: TextIO, block: int) -> None:
        self.path, self.file, self.block = path, file, block
        self.text, self.at, self.line = "", 0, 1
        self.decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Return the next character that is no blank; empty at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in BLANKS:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self, sign: str) -> None:
        """Step over a sign that must come next; an empty one is the end of the file."""
        found = self.peek()
        if found != sign:
            there, wanted = (repr(one) if one else "the end of the file" for one in (found, sign))
            raise self.wrong(f"{there} where {wanted} should be")
        self.at += len(sign)

    def value(self) -> Any:
        """Return the JSON value that comes next; one that breaks off here goes on in the next block."""
        self.peek()
        while True:
            try:
                found, self.at = self.decode(self.text, self.at)
                return found
            except json.JSONDecodeError as problem:
                length = problem.pos - self.at
                if not self.more():
                    self.at += length
                    raise self.wrong(problem.msg) from None

    def more(self) -> bool:
        """Drop what was read, and read on as much as is in memory unread, or a block; false at the end of the file."""
        self.line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :], 0
        added = self.file.read(max(self.block, len(self.text)))
        self.text += added
        return bool(added)

    def wrong(self, told: str) -> DataError:
        line = self.line + self.text.count("\n", 0, self.at)
        return DataError(f"{self.path}, line {line}: {told}; `carrara download nsynth` gives it whole")
