"""What a file holds, by name: SHA-256 of its bytes, remembered while its size and time of change stay the same."""

from __future__ import annotations

import json
from pathlib import Path

from carrara.core.files import write_text
from carrara.core.identity import file_identity


class Contents:
    """A remembered SHA-256 by path, in one small file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list] = {}
        self.fresh = False
        try:
            self.known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def of(self, file: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            OSError: the file cannot be read.
        """
        stat = file.stat()
        seen = [stat.st_size, stat.st_mtime_ns]
        name = str(file.resolve())
        if self.known.get(name, [])[:2] != seen:
            self.known[name] = [*seen, file_identity(file)]
            self.fresh = True
        return self.known[name][2]

    def save(self) -> None:
        """Write what was learnt; a reader that meets a half-made file learns it again."""
        if self.fresh:
            write_text(self.path, json.dumps(self.known))
            self.fresh = False
