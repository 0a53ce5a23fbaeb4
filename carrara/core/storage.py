"""Files by local path or fsspec address (s3://…, gs://…, hf://…, https://…, memory://…).

Decoders seek best in local files, and a remote store answers one request faster than a hundred seeks. So a remote file
or a member of a tar shard is copied to a temporary file while it is decoded: a crop moves the compressed bytes of the
whole file and decodes only its own. (Of excerpts far apart, `carrara.core.ranged` moves the blocks that they need.)
fsspec's caches chain as usual: `filecache::s3://bucket/shards`. Whole files of http:// and https:// are downloaded by
`carrara.core.download`, by its rules for redirects.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from carrara.core.download import fetch_file, read_version
from carrara.core.errors import AudioError, CarraraError, DataError, StoreError, UsageError

# What file systems state of a file's content, by their names of it; a size alone does not tell versions apart.
VERSION_KEYS = (
    "ETag", "etag", "md5Hash", "crc32c", "checksum", "generation", "VersionId", "version_id", "blob_id", "lfs", "mtime",
    "LastModified", "last_modified", "updated", "created",
)  # fmt: skip

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FOLDED = re.compile(r"^((?:[\w+.-]+::)*(?!file:)[a-z][\w+.-]+):/(?!/)")


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
    """Return the suffix of an address in lower case, with its dot; a query of a URL is no part of it."""
    return os.path.splitext(urlsplit(address).path if is_url(address) else address)[1].lower()


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
    with store_errors(address, "cannot be listed", DataError):
        if not files.isdir(folder):
            return None
        names = [path[len(folder) :].lstrip("/") for path in sorted(files.find(folder))]
    return {name: f"{address.rstrip('/')}/{name}" for name in names}


def glob_files(pattern: str) -> list[str]:
    """Return the addresses of the remote files that a pattern with `*`, `**`, `?` or `[` matches, sorted.

    Raises:
        DataError: the folder cannot be listed.
        UsageError: fsspec cannot open it.
    """
    files, path = open_filesystem(pattern)
    with store_errors(pattern, "cannot be listed", DataError):
        return [files.unstrip_protocol(match) for match in sorted(files.glob(path))]


def remote_version(address: str) -> str:
    """Return what a store states of a remote file's content (ETag, checksum, time), empty if it states nothing.

    Raises:
        AudioError: it does not answer, or has no such file.
    """
    if is_url(address):
        with store_errors(address, "cannot be read", AudioError):
            return read_version(address)
    files, path = open_filesystem(address)
    with store_errors(address, "cannot be read", AudioError):
        info = files.info(path)
    version = {key: info[key] for key in VERSION_KEYS if info.get(key)}
    return json.dumps(version | {"size": info.get("size")}, sort_keys=True, default=str) if version else ""


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
    # A folder of its own, since some file systems remove what they could not write whole.
    with tempfile.TemporaryDirectory(prefix="carrara-") as folder:
        copy = Path(folder) / f"copy{suffix(name)}"
        with store_errors(name, "cannot be read", AudioError):
            if offset is None or size is None:
                _copy_file(address, copy)
            else:
                files, path = open_filesystem(address)
                content = files.cat_file(path, start=offset, end=offset + size)
                if len(content) < size:
                    raise OSError(f"{address} ends inside of it, at byte {offset + len(content)}")
                copy.write_bytes(content)
        try:
            yield copy
        except AudioError as problem:
            raise AudioError(str(problem).replace(str(copy), name)) from None


def is_url(address: str) -> bool:
    """Return whether an address is one of HTTP's."""
    return address.startswith(("http://", "https://"))


def _copy_file(address: str, target: Path) -> None:
    if is_url(address):
        fetch_file(address, target)
    else:
        files, path = open_filesystem(address)
        files.get_file(path, str(target))


@contextmanager
def store_errors(name: str, problem: str, kind: type[CarraraError]) -> Iterator[None]:
    """Turn the errors of a file system into one line; several stores raise kinds of their own.

    Raises:
        StoreError: there is no room for a copy.
        CarraraError: of the given kind, everything else that the file system raises.
    """
    try:
        yield
    except DataError as error:  # of a download, which names the address
        raise kind(str(error)) from None
    except CarraraError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            folder = tempfile.gettempdir()
            raise StoreError(f"{folder}: no room for a copy of {name}; name a larger folder in TMPDIR") from None
        raise kind(f"{name}: {problem}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "no such bucket" if "bucket" in str(error).lower() else "no such file"
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return text.splitlines()[0]
