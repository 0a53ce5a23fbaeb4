"""Files from the network: resumed where they broke off, checked by SHA-256, unpacked nowhere but below their folder.

A file grows as `.<name>.part` beside its place and takes its name when it is whole. What the server said of its version
(ETag or Last-Modified) stands in `.<name>.part.version`: a file that has changed since, or a server that cannot go on
in the middle, begins anew. A connection that drops is tried again a few times.
"""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from carrara.core.errors import DataError, StoreError
from carrara.core.files import whole
from carrara.core.progress import progress, track
from carrara.core.unpack import unpack

BLOCK = 2**18
PAUSES = (1.0, 3.0, 10.0, 30.0)
TIMEOUT_SECONDS = 60
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Remote:
    """A file that a program may download.

    Attributes:
        url: where it is, pinned to a version where its host allows that.
        path: where it belongs, below a dataset's root.
        sha256: of its content; none where the source pins nothing.
        unpack: folder below the root into which the archive is unpacked; none: it is no archive.
    """

    url: str
    path: str
    sha256: str | None = None
    unpack: str | None = None


def download(remote: Remote, root: Path) -> Path:
    """Return where a remote file stands below `root`, downloading and unpacking what is not there yet.

    An archive is removed once it is unpacked; `.<name>.unpacked` remembers that.

    Raises:
        DataError: it cannot be had, or is not the file that was pinned; the message says whether to ask again.
        StoreError: it cannot be written.
    """
    target = Path(root) / remote.path
    mark = target.with_name(f".{target.name}.unpacked")
    if remote.unpack is not None and mark.exists():
        return Path(root) / remote.unpack
    if not _standing(target, remote.sha256):
        _fetch(remote, target)
    if remote.unpack is None:
        return target
    unpack(target, Path(root) / remote.unpack)
    with whole(mark) as draft:
        draft.write_text(remote.url + "\n", encoding="utf-8")
    target.unlink()
    return Path(root) / remote.unpack


def joined(parts: list[Path], target: Path) -> Path:
    """Return a file made of parts in their order (`mp3.zip.001`, …); it is whole or not there.

    Raises:
        DataError: a part is missing.
        StoreError: it cannot be written.
    """
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: this part is missing; all of {', '.join(part.name for part in parts)} belong")
    with whole(target) as draft, draft.open("wb") as file:
        for part in track(parts, f"joining {target.name}"):
            with part.open("rb") as piece:
                while block := piece.read(BLOCK):
                    file.write(block)
    return target


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, with progress where it is long."""
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(f"checking {path.name}", path.stat().st_size) as advance:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _standing(target: Path, sha256: str | None) -> bool:
    return target.is_file() and (sha256 is None or sha256_of(target) == sha256)


def _fetch(remote: Remote, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for pause in (*PAUSES, None):
            try:
                _grow(remote.url, part)
                break
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as problem:
                final = isinstance(problem, urllib.error.HTTPError) and problem.code < 500 and problem.code != 429
                if final or pause is None:
                    raise DataError(_failure(remote.url, part, problem)) from None
                time.sleep(pause)
        _accept(remote, part)
        part.replace(target)
        _version(part).unlink(missing_ok=True)
    except OSError as problem:
        raise StoreError(f"{target}: cannot be written ({problem.strerror or problem})") from None


def _failure(url: str, part: Path, problem: Exception) -> str:
    reason = getattr(problem, "reason", None) or problem
    have = part.stat().st_size if part.exists() else 0
    again = f"; the same command goes on from {have / MEGABYTE:.1f} MB" if have else "; is this machine online?"
    return f"{url}: cannot be downloaded ({reason}){again}"


def _grow(url: str, part: Path) -> None:
    """Append to the part what is still lacking.

    Raises:
        URLError, HTTPException, TimeoutError, ConnectionError: the connection could not be made, or broke off.
    """
    have = part.stat().st_size if part.exists() else 0
    known = _version(part).read_text(encoding="utf-8") if _version(part).exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "carrara"})
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as problem:
        if problem.code == 416 and have:  # nothing is lacking, or the part is longer than the file
            part.unlink()
            return _grow(url, part)
        raise
    with answer:
        goes_on = getattr(answer, "status", None) == 206
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        _version(part).write_text("" if version.startswith("W/") else version, encoding="utf-8")
        length = answer.headers.get("Content-Length")
        begin = have if goes_on else 0
        total = None if length is None else begin + int(length)
        with part.open("ab" if goes_on else "wb") as file, progress(f"downloading {part.name[1:-5]}", total) as advance:
            advance(begin)
            _copy(answer.read, file, advance)
        if total is not None and part.stat().st_size < total:
            raise ConnectionError(f"broke off after {part.stat().st_size / MEGABYTE:.1f} of {total / MEGABYTE:.1f} MB")
    return None


def _copy(read: Callable[[int], bytes], file: Any, advance: Callable[..., None]) -> None:
    while block := read(BLOCK):
        file.write(block)
        advance(len(block))


def _version(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _accept(remote: Remote, part: Path) -> None:
    """Refuse a file that is not what was asked for, and remove it.

    Raises:
        DataError: a pointer or a page in the file's place, or another content than the pinned one.
    """
    with part.open("rb") as file:
        head = file.read(200).lstrip().lower()
    problem = ""
    if head.startswith(LFS):
        problem = "is a Git LFS pointer, not the file itself; download it from where the pointer leads"
    elif head.startswith(PAGES) and not remote.path.endswith((".html", ".htm")):
        problem = "is a web page, not the file; its host wants a person to look at it"
    elif remote.sha256 is not None and (found := sha256_of(part)) != remote.sha256:
        problem = f"has SHA-256 {found}, should have {remote.sha256}; it was removed, ask again or tell us it moved"
    if problem:
        part.unlink()
        _version(part).unlink(missing_ok=True)
        raise DataError(f"{remote.url}: {problem}")
