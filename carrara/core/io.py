"""Files that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from carrara.core.errors import StoreError
from carrara.core.progress import progress


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success, remove it on failure.

    Raises:
        StoreError: the folder cannot be created or written, or the disk is full; an older file stays unharmed.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as problem:
        raise StoreError(f"{path}: cannot write here ({problem.strerror or problem})") from None
    tmp = Path(name)
    try:
        yield tmp
        with open(tmp, "r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        tmp.chmod(0o666 & ~umask)
        tmp.replace(path)
    except OSError as problem:
        raise StoreError(f"{path}: cannot write here ({problem.strerror or problem})") from None
    finally:
        tmp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in UTF-8.

    Raises:
        StoreError: it cannot be written.
    """
    with atomic_write(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock between processes and threads; the lock file is removed when it is released.

    Args:
        path: The lock file; its folder is created.
        wait: Whether to wait for another holder instead of failing.

    Raises:
        StoreError: another process holds the lock and `wait` is false, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock, waiting = FileLock(path), False
    while not lock.is_locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with progress(f"waiting for another process that holds {path}", None) if waiting else nullcontext():
                lock.acquire(timeout=-1 if waiting else 0.1)
        except Timeout:
            if not wait:
                raise StoreError(f"{path.parent}: another process is writing here; wait until it is done") from None
            waiting = True
        except FileNotFoundError:  # another process removed the folder after mkdir
            continue
        except OSError as problem:
            raise StoreError(f"{path.parent}: cannot write here ({problem.strerror or problem})") from None
    try:
        yield
    finally:
        # Unlinked before the release: a process that waits sees that its open file has lost its name and opens a new
        # one. Windows refuses to unlink an open file; there filelock removes it.
        with suppress(OSError):
            path.unlink()
        lock.release()
