"""SHA-256 of audio files, remembered so that a library is read once and not at every start.

A file with the size, inode and times of its last reading is taken to be unchanged. A file written so lately that a
second write could leave the same times is not remembered (git's rule for its index). A remote file is taken to be
unchanged while its store states the same ETag, checksum or time; where it states none, it is downloaded again. The
cache is an SQLite file in Carrara's home; where it cannot be used, files are simply read.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from carrara.audio.files import check_file
from carrara.core.errors import AudioError
from carrara.core.hashing import sha256_of_file
from carrara.core.paths import home as carrara_home
from carrara.core.progress import track
from carrara.core.ranged import SUFFIXES, ranged_file
from carrara.core.storage import is_remote, local_copy, remote_version, suffix

RACY_SECONDS = 2.0
VERSION = "version:"
AnyPath = TypeVar("AnyPath", Path, Path | str)


def hash_files(
    paths: Iterable[AnyPath], home: Path | None = None, threads: int = 2, in_ranges: bool = False, title: str = ""
) -> dict[AnyPath, str | AudioError]:
    """Return the SHA-256 of each file, or the error of one that cannot be read.

    Args:
        paths: The files.
        home: Carrara's home. None means `$CARRARA_HOME`.
        threads: How many files are read at once.
        in_ranges: As of `FileHashCache.open`.
        title: Of the progress; none is shown without.
    """
    cache = FileHashCache(home)

    def digest(path: Path | str) -> str | AudioError:
        try:
            return cache.sha256(path, in_ranges)
        except AudioError as problem:
            return problem

    paths = list(dict.fromkeys(paths))
    try:
        with ThreadPoolExecutor(threads) as workers:
            digests = workers.map(digest, paths)
            return dict(zip(paths, track(digests, title, len(paths)) if title else digests))
    finally:
        cache.close()


class FileHashCache:
    """SHA-256 of files by path; safe to use from several threads.

    Args:
        folder: Carrara's home. None means `$CARRARA_HOME`.
        racy_seconds: A file changed less than this long ago is not remembered.
    """

    def __init__(self, folder: Path | None = None, racy_seconds: float = RACY_SECONDS) -> None:
        self._racy_seconds = racy_seconds
        self._lock = threading.Lock()
        path = (folder or carrara_home()) / "index" / "contents.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error):
            self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._execute("create table if not exists contents (path text primary key, stamp text, digest text)")

    @contextmanager
    def open(self, path: Path | str, in_ranges: bool = False) -> Iterator[tuple[Path, str]]:
        """Yield a file, or a local copy of a remote one, and the SHA-256 of its bytes.

        Args:
            path: The file.
            in_ranges: Whether excerpts are enough. Of a remote file only their bytes are moved then, where its store
                can send them, and "version:" with a hash of what the store states of its version is yielded.

        Raises:
            AudioError: As of `sha256`.
        """
        if not is_remote(str(path)):
            yield Path(path), self.sha256(path)
            return
        address = str(path)
        version = remote_version(address)  # of before: what changes meanwhile is then another version
        if in_ranges:
            with ranged_file(address, version) as file:
                if file is not None:
                    digest = _version_digest(version)
                    self._execute("insert or replace into contents values (?, ?, ?)", address, version, digest)
                    yield file, digest
                    return
        with local_copy(address) as copy:
            digest = sha256_of_file(copy)
            if version:
                self._execute("insert or replace into contents values (?, ?, ?)", address, version, digest)
            yield copy, digest

    def sha256(self, path: Path | str, in_ranges: bool = False) -> str:
        """Return the SHA-256 of a file's bytes; a remote file is downloaded if its store states another version.

        With `in_ranges` it is not, as of `open`.

        Raises:
            AudioError: It cannot be read, is a pipe or device, or its name is not UTF-8.
        """
        if is_remote(str(path)):
            version = remote_version(str(path))
            cached = self._execute("select digest from contents where path = ? and stamp = ?", str(path), version)
            if cached and (in_ranges or not cached[0][0].startswith(VERSION)):
                return cached[0][0]
            if in_ranges and version and suffix(str(path)) in SUFFIXES:
                return _version_digest(version)
            with self.open(path) as (_, digest):
                return digest
        path = Path(path).absolute()
        check_file(path)
        try:
            before = _stamp(path)
            cached = self._execute("select digest from contents where path = ? and stamp = ?", str(path), before)
            if cached:
                return cached[0][0]
            digest = sha256_of_file(path)
            after, status = _stamp(path), os.stat(path)
        except OSError as problem:
            reasons = {FileNotFoundError: "no such file", IsADirectoryError: "a folder, not an audio file"}
            raise AudioError(f"{path}: {reasons.get(type(problem), problem.strerror or problem)}") from None
        if before == after and time.time() - max(status.st_mtime, status.st_ctime) > self._racy_seconds:
            self._execute("insert or replace into contents values (?, ?, ?)", str(path), after, digest)
        return digest

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _execute(self, query: str, *values: str) -> list[tuple[str]]:
        """Return the rows of a query; none where the database cannot be used, so that the file is read."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error:
                return []


def _version_digest(version: str) -> str:
    return VERSION + sha256(version.encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = os.stat(path)
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"
