"""What sound files contain, by SHA-256, remembered so that a library is read once and not at every start.

A file that has the same size, inode and times as when it was read is taken to be the same. A file written so lately
that a second write could leave the same times behind is not remembered (git's rule for its index). The memory is a
SQLite file below the home; when it cannot be used, files are simply read.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from carrara.core.errors import AudioError
from carrara.core.hashing import sha256_of_file
from carrara.core.paths import home

RACY_SECONDS = 2.0


class FileHashCache:
    """SHA-256 of files by path; may be asked from several threads."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or home()) / "index" / "contents.sqlite"
        self._lock = threading.Lock()
        self._memory = self._opened()

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes.

        Raises:
            AudioError: it cannot be read.
        """
        path = Path(path).absolute()
        try:
            before = _stamp(path)
            if found := self._find(str(path), before):
                return found
            digest = sha256_of_file(path)
            after = _stamp(path)
        except OSError as problem:
            reasons = {FileNotFoundError: "no such file", IsADirectoryError: "a folder, not a sound file"}
            raise AudioError(f"{path}: {reasons.get(type(problem), problem.strerror or problem)}") from None
        newest = max(os.stat(path).st_mtime, os.stat(path).st_ctime)
        if before == after and time.time() - newest > RACY_SECONDS:
            self._remember(str(path), after, digest)
        return digest

    def close(self) -> None:
        """Close the memory."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _opened(self) -> sqlite3.Connection | None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            memory = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False, isolation_level=None)
            memory.execute("create table if not exists contents (path text primary key, stamp text, digest text)")
        except (OSError, sqlite3.Error):
            return None
        return memory

    def _find(self, path: str, stamp: str) -> str | None:
        with self._lock:
            if self._memory is None:
                return None
            try:
                query = "select digest from contents where path = ? and stamp = ?"
                row = self._memory.execute(query, (path, stamp)).fetchone()
            except sqlite3.Error:
                return None
        return row[0] if row else None

    def _remember(self, path: str, stamp: str, digest: str) -> None:
        with self._lock:
            if self._memory is None:
                return
            try:
                self._memory.execute("insert or replace into contents values (?, ?, ?)", (path, stamp, digest))
            except sqlite3.Error:
                self._memory = None


def _stamp(path: Path) -> str:
    state = os.stat(path)
    return f"{state.st_size}:{state.st_ino}:{state.st_mtime_ns}:{state.st_ctime_ns}"
