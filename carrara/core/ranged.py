"""Remote files whose bytes are moved block by block, when a decoder reads them: excerpts cost what they hold.

A sparse file stands in for the remote one. Its first and last blocks are there from the start, for headers and tags
that are read from its path; `open_ranged` gives decoders a file object that moves what else they seek. A host that
sends no parts of files, or states no version of them, and formats in which decoders do not seek are left to
`carrara.core.storage.local_copy`. Of an address only one stream of sound is read: whether a FLAC is several joined ones
would be known only from all of its bytes.
"""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from carrara.core.download import fetch_range
from carrara.core.errors import AudioError
from carrara.core.storage import is_url, open_filesystem, remote_version, store_errors, suffix

BLOCK_BYTES = 2**17
# Formats with a counted length in which decoders seek. An MP3 has no index: to open it, libsndfile reads all of it.
SUFFIXES = frozenset({".wav", ".wave", ".aif", ".aiff", ".flac", ".m4a", ".m4b", ".mp4", ".caf", ".au"})

_sources: dict[Path, _Source] = {}
_whole_hosts: set[str] = set()


class _Source:
    """A remote file and the sparse file in its place.

    Attributes:
        address: An fsspec address.
        size: In bytes.
        problem: Why bytes could not be moved; decoders take it for the end of the file.
    """

    def __init__(self, address: str, size: int, fetch: Callable[[int, int], bytes], copy: Path) -> None:
        self.address, self.size, self.problem = address, size, ""
        self._fetch, self._copy, self._lock = fetch, copy, threading.Lock()
        self._present: set[int] = set()
        with open(copy, "wb") as file:
            file.truncate(size)
        self.load(0, 1)
        self.load(max(size - BLOCK_BYTES, 0), size)

    def load(self, start: int, stop: int) -> None:
        """Move the missing blocks of a range of bytes, neighbours in one request."""
        with self._lock:
            first, last = start // BLOCK_BYTES, (min(stop, self.size) - 1) // BLOCK_BYTES
            missing = [block for block in range(first, last + 1) if block not in self._present]
            while missing:
                run = 1
                while run < len(missing) and missing[run] == missing[0] + run:
                    run += 1
                begin, end = missing[0] * BLOCK_BYTES, min((missing[0] + run) * BLOCK_BYTES, self.size)
                content = self._fetch(begin, end)
                if len(content) != end - begin:
                    raise OSError(f"{len(content)} of {end - begin} bytes came")
                with open(self._copy, "r+b") as file:
                    file.seek(begin)
                    file.write(content)
                self._present.update(missing[:run])
                del missing[:run]


class _RangedReader(io.RawIOBase):
    """A file object over a source; its errors are kept in `problem`, as decoders' callbacks would lose them."""

    def __init__(self, source: _Source, copy: Path) -> None:
        self._source = source
        self._file = open(copy, "rb")  # noqa: SIM115 (`close` closes it)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        size = min(len(buffer), max(self._source.size - start, 0))
        if not size or self._source.problem:
            return 0
        try:
            with store_errors(self._source.address, "cannot be read", AudioError):
                self._source.load(start, start + size)
        except AudioError as problem:
            self._source.problem = str(problem)  # `ranged_file` raises it
            return 0
        content = self._file.read(size)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_ranged(path: Path) -> io.RawIOBase | None:
    """Return a file object of what `ranged_file` yielded; None for every other path."""
    source = _sources.get(path)
    return None if source is None else _RangedReader(source, path)


@contextmanager
def ranged_file(address: str, version: str) -> Iterator[Path | None]:
    """Yield the path that stands in for a remote file while excerpts of it are decoded; None where that cannot be.

    Args:
        address: An fsspec address.
        version: What `remote_version` returned for it.

    Raises:
        AudioError: It cannot be read, or is another version by now; an AudioError of the caller's block gets the
            address in place of the path.
    """
    host = urlsplit(address).netloc
    if not version or suffix(address) not in SUFFIXES or (is_url(address) and host in _whole_hosts):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="carrara-") as folder:
        copy = Path(folder) / f"copy{suffix(address)}"
        with store_errors(address, "cannot be read", AudioError):
            source = _open_source(address, version, copy)
        if source is None:
            if is_url(address) and host not in _whole_hosts:
                _whole_hosts.add(host)
                warnings.warn(f"{host}: sends no parts of files, so they are moved whole", stacklevel=2)
            yield None
            return
        _sources[copy] = source
        try:
            yield copy
        except AudioError as problem:
            raise AudioError(source.problem or str(problem).replace(str(copy), address)) from None
        finally:
            del _sources[copy]
        if source.problem:
            raise AudioError(source.problem)
        if not is_url(address):
            open_filesystem(address)[0].invalidate_cache()
            if remote_version(address) != version:
                raise AudioError(f"{address}: was changed while it was read; run the same command again")


def _open_source(address: str, version: str, copy: Path) -> _Source | None:
    if not is_url(address):
        files, path = open_filesystem(address)
        size = files.info(path).get("size")
        if not size:
            return None
        return _Source(address, size, lambda begin, end: files.cat_file(path, start=begin, end=end), copy)
    first = fetch_range(address, 0, BLOCK_BYTES, version)
    if first is None:
        return None
    head, total = first

    def fetch(begin: int, end: int) -> bytes:
        if end <= len(head):
            return head[begin:end]
        part = fetch_range(address, begin, end, version)
        if part is None:
            raise OSError("was changed while it was read; run the same command again")
        return part[0]

    return _Source(address, total, fetch, copy)
