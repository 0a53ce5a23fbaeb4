"""Files of a corpus by local path or fsspec address (s3://…, gs://…, https://…, memory://…).

Decoders seek best in local files, and a remote store answers one request faster than a hundred seeks. So a remote file
or a member of a tar shard is copied to a temporary file while it is decoded: a crop moves the compressed bytes of the
whole file and decodes only its own. fsspec's caches chain as usual: `filecache::s3://bucket/shards`.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from carrara.audio.decode import iter_audio, probe_audio
from carrara.audio.files import check_file
from carrara.core.errors import AudioError, DataError, StoreError, UsageError
from carrara.core.progress import progress

READERS, CHUNK = 8, 4096  # threads, items that are submitted to them at once

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FOLDED = re.compile(r"^((?:[\w+.-]+::)*(?!file:)[a-z][\w+.-]+):/(?!/)")

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def normalize(path: str | Path) -> str:
    """Return a local path as it is, and an fsspec address with its `://`, which `Path` shortens to `:/`.

    A file or folder of that name, however odd, is local.
    """
    return str(path) if os.path.exists(path) else _FOLDED.sub(r"\1://", str(path))


def is_remote(address: str) -> bool:
    """Return whether an address is one of fsspec's and not a local path."""
    return "://" in address


def absolute(address: str) -> str:
    """Return an address that does not depend on the working folder."""
    return address if is_remote(address) else str(Path(address).absolute())


def suffix(address: str) -> str:
    """Return the suffix of an address in lower case, with its dot."""
    return os.path.splitext(address)[1].lower()


def expand_braces(address: str) -> list[str]:
    """Return the addresses that `{000000..000123}` stands for, in order; without braces the address itself.

    An existing file or folder is never expanded.

    Raises:
        UsageError: a range runs backwards.
    """
    match = _BRACES.search(address)
    if not match or os.path.exists(address):
        return [address]
    first, last = match.groups()
    if int(last) < int(first):
        raise UsageError(f"{address}: {match.group()} runs backwards; write the smaller number first")
    digits = len(first) if first.startswith("0") else 0
    numbers = [f"{number:0{digits}d}" for number in range(int(first), int(last) + 1)]
    before, after = address[: match.start()], address[match.end() :]
    return [expanded for number in numbers for expanded in expand_braces(before + number + after)]


def open_filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it.

    Raises:
        UsageError: fsspec does not know the protocol, or needs another package for it.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as problem:
        raise UsageError(f"{address}: fsspec cannot open it: {problem}") from None


def list_files(address: str) -> dict[str, str] | None:
    """Return {name below the folder: address} of every file in a folder, sorted; None if it is no folder.

    Raises:
        DataError: a remote folder cannot be listed.
        UsageError: fsspec cannot open it.
    """
    if not is_remote(address):
        root = Path(address)
        if not root.is_dir():
            return None
        return {path.relative_to(root).as_posix(): str(path) for path in sorted(root.rglob("*")) if path.is_file()}
    files, folder = open_filesystem(address)
    try:
        if not files.isdir(folder):
            return None
        names = [path[len(folder) :].lstrip("/") for path in sorted(files.find(folder))]
    except OSError as problem:
        raise DataError(f"{address}: cannot be listed: {_reason(problem)}") from None
    return {name: f"{address.rstrip('/')}/{name}" for name in names}


@contextmanager
def local_copy(address: str, offset: int | None = None, size: int | None = None, name: str = "") -> Iterator[Path]:
    """Yield a local file with the bytes of an address, or with `size` bytes of it from `offset` on.

    Args:
        address: a local path or an fsspec address.
        offset, size: bytes of a member of a tar; None means the whole file, which is not copied if it is local.
        name: its name in messages; empty means its address.

    Raises:
        AudioError: it cannot be read; an AudioError of the caller's block gets the name in place of the copy's path.
        StoreError: there is no room for the copy.
    """
    if offset is None and not is_remote(address):
        yield Path(address)
        return
    name = name or address
    with tempfile.NamedTemporaryFile(prefix="carrara-", suffix=suffix(name)) as copy:
        try:
            files, path = open_filesystem(address)
            if offset is None or size is None:
                files.get_file(path, copy.name)
            else:
                content = files.cat_file(path, start=offset, end=offset + size)
                if len(content) < size:
                    raise OSError(f"{address} ends inside of it, at byte {offset + len(content)}")
                copy.write(content)
                copy.flush()
        except OSError as problem:
            if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StoreError(f"{copy.name}: no room for a copy of {name}; name a larger folder in TMPDIR") from None
            raise AudioError(f"{name}: cannot be read: {_reason(problem)}") from None
        try:
            yield Path(copy.name)
        except AudioError as problem:
            raise AudioError(str(problem).replace(copy.name, name)) from None


def read_duration(address: str, offset: int | None = None, size: int | None = None, name: str = "") -> float:
    """Return the duration of an audio file in seconds; it is decoded only if its header does not give it.

    Args:
        address, offset, size, name: as in `local_copy`.

    Raises:
        AudioError: it cannot be read, is no audio file, or is truncated.
    """
    if not is_remote(address):
        check_file(address)
    with local_copy(address, offset, size, name) as path:
        header = probe_audio(path)
        if header.duration_seconds is not None:
            return header.duration_seconds
        return sum(len(block_T) for block_T in iter_audio(path, header.sample_rate)) / header.sample_rate


def read_each(function: Callable[[Argument], Result], items: Sequence[Argument], title: str) -> list[Result | str]:
    """Return the function's result for each item, in order, or the message where it raises an AudioError.

    The items are shared by threads.
    """

    def read(item: Argument) -> Result | str:
        try:
            return function(item)
        except AudioError as problem:
            return str(problem)

    results: list[Result | str] = []
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool, progress(title, len(items)) as advance:
        try:
            for begin in range(0, len(items), CHUNK):
                for result in pool.map(read, items[begin : begin + CHUNK]):
                    results.append(result)
                    advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def _reason(problem: OSError) -> str:
    if isinstance(problem, FileNotFoundError):
        return "no such file"
    return (problem.strerror or str(problem) or type(problem).__name__).splitlines()[0]
