"""Files that appear whole or not at all, drafts that killed processes left, and locks between processes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from carrara.core.errors import StoreError
from carrara.core.progress import progress

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed, which protects it as a lock does
    fcntl = None  # type: ignore[assignment]

# Name of every draft, file or folder; nothing else has it. A name of its own, so that no reader takes it for a record.
DRAFT_PREFIX = ".carrara-draft-"
_swept: set[Path] = set()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a draft in a folder beside `path`; rename it to `path` on success, remove it on failure.

    Where `path` is a link, the file that it names is written. What is neither a file nor a folder (a device, a pipe,
    `/dev/stdout`) is never replaced: the draft is copied into it. Drafts that killed processes left in the folder are
    removed.

    Raises:
        StoreError: the path is a folder, its folder cannot be created or written, or the disk is full; an older file
            stays unharmed.
    """
    path = Path(path)
    try:
        target = _resolve_target(path)
        parent = Path(tempfile.gettempdir()) if target is None else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        if parent not in _swept:
            sweep_drafts(parent)
            _swept.add(parent)
        # A folder is held, not the draft in it, because libraries may replace the file that they are to write.
        folder = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=parent))
    except (OSError, RuntimeError) as problem:  # pathlib raises a RuntimeError where links form a loop
        raise StoreError(f"{path}: cannot write here ({_explain(problem)})") from None
    tmp = folder / f".draft{path.suffix if len(path.suffix) < 20 else ''}"  # readers skip names with a dot
    handle = hold_folder(folder)
    try:
        tmp.touch()
        yield tmp
        with open(tmp, "r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
        if target is None:
            with open(tmp, "rb") as source, open(path, "wb") as device:
                shutil.copyfileobj(source, device)
            return
        umask = os.umask(0)
        os.umask(umask)
        tmp.chmod(0o666 & ~umask)
        tmp.replace(target)
    except OSError as problem:
        raise StoreError(f"{path}: cannot write here ({problem.strerror or problem})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _explain(problem: OSError | RuntimeError) -> str:
    """Return why a folder cannot be created; the system calls it an existing file."""
    if isinstance(problem, FileExistsError | NotADirectoryError):
        return "it would be a folder, but is a file or device"
    return getattr(problem, "strerror", None) or str(problem)


def _resolve_target(path: Path) -> Path | None:
    """Return the file that a path names or would create; None where it is neither a file nor a folder.

    Raises:
        OSError: it is a folder, or links form a loop.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # The name of an open file without a name, as behind /dev/stdout, does not exist.
    return target if stat.S_ISREG(mode) and target.exists() else None


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in UTF-8.

    Raises:
        StoreError: it cannot be written.
    """
    with atomic_write(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


@contextmanager
def draft_folder() -> Iterator[Path]:
    """Yield an empty folder for temporary files; it is removed afterwards, or by the next call after a kill."""
    root = Path(tempfile.gettempdir())
    sweep_drafts(root)
    folder = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=root))
    handle = hold_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def sweep_drafts(folder: Path, recursive: bool = False) -> int:
    """Remove the drafts that killed processes left in a folder, and return the bytes freed.

    A draft that a living process holds is locked and stays; so does every draft where the file system has no locks.

    Args:
        folder: that is swept; it need not exist.
        recursive: whether to sweep the folders in it as well.
    """
    freed = 0
    for draft in list(Path(folder).glob(f"{'**/' if recursive else ''}{DRAFT_PREFIX}*")):
        with suppress(OSError):
            size = sum(file.lstat().st_size for file in (draft, *draft.rglob("*")) if not file.is_dir())
            if remove_unheld(draft):
                freed += size
    return freed


def hold_folder(folder: Path) -> int | None:
    """Create a folder unless it exists, and keep other processes from removing it with `remove_unheld`.

    Returns:
        A handle that holds the folder until it is closed; None where the system or its file system cannot lock folders.

    Raises:
        StoreError: the folder cannot be created.
    """
    while True:
        handle = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return None
            handle = os.open(folder, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return handle
        except FileNotFoundError:  # another process removed it since
            pass
        except OSError as problem:
            raise StoreError(f"{folder}: cannot write here ({_explain(problem)})") from None
        if handle is not None:
            os.close(handle)


def remove_unheld(path: Path) -> bool:
    """Remove a file or folder unless a process holds it; return whether it was removed.

    Raises:
        OSError: it cannot be removed.
    """
    handle = None
    if fcntl is not None:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(handle), os.stat(path)):
                    return False
        except OSError:
            return False
        if not path.is_dir():
            path.unlink()
            return True
        # Renamed first, so that a process that opens the folder meanwhile finds none and creates a new one.
        removed = path.with_name(f"{DRAFT_PREFIX}{path.name.removeprefix(DRAFT_PREFIX)}-{os.getpid()}")
        path.rename(removed)
        shutil.rmtree(removed)
        return True
    finally:
        if handle is not None:
            os.close(handle)


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
        except OSError as problem:  # also no such folder: where none can be made, or the current one is gone
            raise StoreError(f"{path.parent}: cannot write here ({_explain(problem)})") from None
        try:
            with progress(f"waiting for another process that holds {path}", None) if waiting else nullcontext():
                lock.acquire(timeout=-1 if waiting else 0.1)
        except Timeout:
            if not wait:
                raise StoreError(f"{path.parent}: another process is writing here; wait until it is done") from None
            waiting = True
        except FileNotFoundError:  # another process removed the folder after mkdir
            continue
        except OSError as problem:
            raise StoreError(f"{path.parent}: cannot write here ({_explain(problem)})") from None
    try:
        yield
    finally:
        # Unlinked before the release: a process that waits sees that its open file has lost its name and opens a new
        # one. Windows refuses to unlink an open file; there filelock removes it.
        with suppress(OSError):
            path.unlink()
        lock.release()
