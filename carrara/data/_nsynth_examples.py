"""Read NSynth's `examples.json`, a large JSON object, note by note.

The training file has about 200 MB and 289,205 notes; parsed at once it takes several times that as Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from carrara.core.errors import DataError

BLOCK_CHARACTERS = 1 << 20
BLANKS = " \t\r\n"
CURE = "run `carrara download nsynth`"


def read_examples(path: Path, block: int = BLOCK_CHARACTERS) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each member of the JSON object in a file, in the file's order.

    Args:
        path: The file.
        block: Characters to read at once.

    Raises:
        DataError: the file is missing, truncated, not text or not a JSON object; the message has the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            reader = _Reader(path, file, block)
            reader.expect("{")
            has_more = reader.peek() != "}"
            while has_more:
                key = reader.read_value()
                if not isinstance(key, str):
                    raise reader.error(f"{key!r} where a note's name should be")
                reader.expect(":")
                yield key, reader.read_value()
                has_more = reader.peek() == ","
                if has_more:
                    reader.expect(",")
            reader.expect("}")
            reader.expect("")
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {CURE}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read: {problem}; {CURE}") from None


class _Reader:
    """A position in a JSON text of which a part is in memory."""

    def __init__(self, path: Path, file: TextIO, block: int) -> None:
        self.path, self.file, self.block = path, file, block
        self.text, self.position, self.line = "", 0, 1
        self.decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Return the next character that is not blank; empty at the end of the file."""
        while True:
            while self.position < len(self.text):
                if self.text[self.position] not in BLANKS:
                    return self.text[self.position]
                self.position += 1
            if not self._read_more():
                return ""

    def expect(self, character: str) -> None:
        """Step over the next character, which must be this one; empty means the end of the file."""
        actual = self.peek()
        if actual != character:
            actual, expected = (repr(text) if text else "the end of the file" for text in (actual, character))
            raise self.error(f"{actual} where {expected} should be")
        self.position += len(character)

    def read_value(self) -> Any:
        """Return the next JSON value, reading on while it is incomplete in memory."""
        self.peek()
        while True:
            try:
                value, self.position = self.decode(self.text, self.position)
                return value
            except json.JSONDecodeError as problem:
                length = problem.pos - self.position
                if not self._read_more():
                    self.position += length
                    raise self.error(problem.msg) from None

    def error(self, message: str) -> DataError:
        """Return an error with the current line."""
        line = self.line + self.text.count("\n", 0, self.position)
        return DataError(f"{self.path}, line {line}: {message}; {CURE}")

    def _read_more(self) -> bool:
        """Drop what was parsed and double the text in memory, by one block at least; False at the end of the file."""
        self.line += self.text.count("\n", 0, self.position)
        self.text, self.position = self.text[self.position :], 0
        added = self.file.read(max(self.block, len(self.text)))
        self.text += added
        return bool(added)
