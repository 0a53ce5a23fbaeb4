"""Where a corpus stands: a path of this machine, or an address of fsspec (s3://…, gs://…, https://…, memory://…).

Whatever is not a local file of its own, a remote file or a member of a tar, is copied to a temporary file for as long
as it is heard: decoders seek best in real files, and a remote store answers one request faster than a hundred seeks.
So a crop of such a file moves the file's compressed bytes, and decodes only its own. Caches of fsspec chain as always:
`filecache::s3://bucket/shards`.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carrara.core.errors import AudioError, DataError, StoreError, UsageError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FOLDED = re.compile(r"^((?:[\w+.-]+::)*(?!file:)[a-z][\w+.-]+):/(?!/)")


def address(path: str | Path) -> str:
    """Return an address as fsspec writes it, and a local path as it is; `Path` makes `s3:/bucket` of `s3://bucket`."""
    return _FOLDED.sub(r"\1://", str(path))


def is_remote(place: str) -> bool:
    """Return whether an address is fsspec's, and not a path of this machine."""
    return "://" in place


def absolute(place: str) -> str:
    """Return an address that means the same from any working folder."""
    return place if is_remote(place) else str(Path(place).absolute())


def suffix(place: str) -> str:
    """Return the suffix of an address in lower case, with its dot."""
    return os.path.splitext(place)[1].lower()


def expanded(place: str) -> list[str]:
    """Return the addresses that `{000000..000123}` stands for, in order; one without braces stands for itself.

    Raises:
        UsageError: a range that runs backwards.
    """
    found = _BRACES.search(place)
    if not found:
        return [place]
    first, last = found.groups()
    if int(last) < int(first):
        raise UsageError(f"{place}: {found.group()} runs backwards; write the smaller number first")
    width = len(first) if first.startswith("0") else 0
    numbers = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return [one for number in numbers for one in expanded(place[: found.start()] + number + place[found.end() :])]


def filesystem(place: str) -> tuple[Any, str]:
    """Return the file system of an address, and its path in there.

    Raises:
        UsageError: fsspec does not know the protocol, or wants another package for it.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as problem:
        raise UsageError(f"{place}: fsspec cannot open it: {problem}") from None


def below(place: str) -> dict[str, str] | None:
    """Return the address of every file in a folder by its name below it, in order of names; none: not a folder.

    Raises:
        DataError: a remote folder cannot be listed.
        UsageError: fsspec cannot open it.
    """
    if not is_remote(place):
        root = Path(place)
        if not root.is_dir():
            return None
        return {each.relative_to(root).as_posix(): str(each) for each in sorted(root.rglob("*")) if each.is_file()}
    files, inside = filesystem(place)
    try:
        names = (
            [each[len(inside) :].lstrip("/") for each in sorted(files.find(inside))] if files.isdir(inside) else None
        )
    except OSError as problem:
        raise DataError(f"{place}: cannot be listed: {_reason(problem)}") from None
    return None if names is None else {name: f"{place.rstrip('/')}/{name}" for name in names}


@contextmanager
def as_file(place: str, offset: int | None = None, size: int | None = None, name: str = "") -> Iterator[Path]:
    """Give a file of this machine with the bytes of an address, or of `size` bytes from `offset` on in it.

    Args:
        place: path or address.
        offset, size: of a member of a tar; none: the whole file.
        name: what messages call it; none: its address.

    Raises:
        AudioError: it cannot be read; those raised by whoever uses the file name the address instead of the copy.
        StoreError: there is no room for the copy.
    """
    if offset is None and not is_remote(place):
        yield Path(place)
        return
    name = name or place
    with tempfile.NamedTemporaryFile(prefix="carrara-", suffix=suffix(name)) as copy:
        try:
            if offset is None or size is None:
                files, inside = filesystem(place)
                files.get_file(inside, copy.name)
            else:
                copy.write(_stretch(place, offset, size))
                copy.flush()
        except OSError as problem:
            if problem.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StoreError(f"{copy.name}: no room for a copy of {name}; name a larger folder in TMPDIR") from None
            raise AudioError(f"{name}: cannot be read: {_reason(problem)}") from None
        try:
            yield Path(copy.name)
        except AudioError as problem:
            raise AudioError(str(problem).replace(copy.name, name)) from None


def _stretch(place: str, offset: int, size: int) -> bytes:
    if is_remote(place):
        files, inside = filesystem(place)
        content = files.cat_file(inside, start=offset, end=offset + size)
    else:
        with open(place, "rb") as file:
            file.seek(offset)
            content = file.read(size)
    if len(content) < size:
        raise OSError(f"{place} ends inside of it, at byte {offset + len(content)}")
    return content


def _reason(problem: OSError) -> str:
    if isinstance(problem, FileNotFoundError):
        return "no such file"
    return (problem.strerror or str(problem) or type(problem).__name__).splitlines()[0]
