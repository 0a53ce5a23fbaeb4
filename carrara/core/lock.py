"""Locks between processes: a file beside what is at stake, which is gone when nobody holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from carrara.core.progress import progress


@contextmanager
def locked(lock: Path, shared: bool = False) -> Iterator[Callable[[], bool]]:
    """Hold a lock file, after waiting for those who hold it otherwise; whoever holds it last removes it.

    Gives a function that tells whether nobody else holds it and then keeps the others out. Where it answers no, a
    shared hold is given up, so it is for the end of what is done.

    Args:
        lock: the file; its folder is made.
        shared: whether others may hold it at the same time, if they share it too.

    Raises:
        OSError: it cannot be made here, or the file system knows no locks.
    """
    with _held(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) as file:

        def alone() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            yield alone
        finally:
            if alone():
                lock.unlink(missing_ok=True)


def _held(lock: Path, kind: int) -> IO[str]:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(lock, "a")  # noqa: SIM115
        except FileNotFoundError:  # the folder was removed between the two lines
            continue
        try:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                with progress(f"waiting for another program that holds {lock}", None):
                    fcntl.flock(file, kind)
            # Whoever held it may have removed it meanwhile: then ours is a file that nobody else will find.
            if _is(file, lock):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is(file: IO[str], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False
