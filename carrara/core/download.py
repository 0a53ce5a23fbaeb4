"""Files from the network: resumed where they broke off, checked by SHA-256, unpacked nowhere but below their folder.

A file grows as `.<name>.part` beside its place and takes its name when it is whole. What the server said of its version
(a strong ETag, else Last-Modified; RFC 9110, sections 13.1.5 and 14) stands in `.<name>.part.version`: a file that has
changed since, or a server that cannot go on in the middle, begins anew. A pinned file goes on without a version too,
because its hash finds every mistake. A connection that drops is tried again after growing pauses; they begin again from
the shortest whenever the part has grown, so a long download over a bad line ends. Of two programs that want one file
the second waits for the first, and then finds it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from carrara.core.archives import unpack
from carrara.core.errors import DataError, StoreError
from carrara.core.io import atomic_write, write_text
from carrara.core.lock import locked
from carrara.core.progress import progress, track

BLOCK = 2**18
PAUSES = (1.0, 3.0, 10.0, 30.0)
TIMEOUT_SECONDS = 60
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416
PASSING = (408, 425, 429)
SPAN = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Remote:
    """A file that a program may download.

    Attributes:
        url: where it is, pinned to a version where its host allows that.
        path: where it belongs, below a dataset's root.
        sha256: of its content, or its first 16 digits or more; none where the source pins nothing.
        unpack: folder below the root into which the archive is unpacked; none: it is no archive.
    """

    url: str
    path: str
    sha256: str | None = None
    unpack: str | None = None


class _Lost(Exception):
    """The connection could not be made, or broke off."""


class _Refused(Exception):
    """The host will not give the file, however often it is asked."""


def download(remote: Remote, root: Path) -> Path:
    """Return where a remote file stands below `root`, downloading and unpacking what is not there yet.

    A file that stands there is kept if its hash is the pinned one, or none is pinned. An archive is removed once it is
    unpacked; `.<name>.unpacked` remembers from where it came and its hash, so that another version is downloaded.

    Raises:
        DataError: it cannot be had, or is not the file that was pinned; the message says whether to ask again.
        StoreError: it cannot be written.
    """
    target = Path(root) / remote.path
    place = target if remote.unpack is None else Path(root) / remote.unpack
    if _stands(remote, target, place):
        return place
    try:
        with locked(target.with_name(f".{target.name}.lock")):
            if not _stands(remote, target, place):
                _have(remote, target)
                if remote.unpack is not None:
                    unpack(target, place)
                    write_text(_mark(target), _origin(remote))
                    target.unlink()
    except OSError as problem:
        raise StoreError(f"{target}: cannot be written ({problem.strerror or problem})") from None
    return place


def joined(parts: list[Path], target: Path) -> Path:
    """Return a file made of parts in their order (`mp3.zip.001`, …); it is whole or not there.

    Raises:
        DataError: a part is missing.
        StoreError: it cannot be written.
    """
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: this part is missing; all of {', '.join(part.name for part in parts)} belong")
    with atomic_write(target) as draft, draft.open("wb") as file:
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


def _stands(remote: Remote, target: Path, place: Path) -> bool:
    """Return whether the file, or the folder that was unpacked from it, is there as it should be."""
    if remote.unpack is None:
        return _kept(remote, target)
    mark = _mark(target)
    known = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
    return place.is_dir() and known == _origin(remote)


def _kept(remote: Remote, target: Path) -> bool:
    return target.is_file() and (remote.sha256 is None or sha256_of(target).startswith(remote.sha256))


def _mark(target: Path) -> Path:
    return target.with_name(f".{target.name}.unpacked")


def _origin(remote: Remote) -> str:
    return f"{remote.url}\n{remote.sha256 or 'not pinned'}\n"


def _have(remote: Remote, target: Path) -> None:
    """See that the file stands at `target`: kept, gone on with or begun."""
    if remote.unpack is not None and _kept(remote, target):
        return
    part = target.with_name(f".{target.name}.part")
    _persist(remote, part)
    _accept(remote, part)
    part.replace(target)
    _version(part).unlink(missing_ok=True)


def _persist(remote: Remote, part: Path) -> None:
    """Grow the part until it is whole.

    Raises:
        DataError: the host refuses, or as many tries in a row as there are pauses, and one, brought nothing new.
    """
    idle, most = 0, _size(part)
    while True:
        try:
            return _grow(remote, part)
        except _Refused as problem:
            raise DataError(
                f"{remote.url}: its host does not give it ({problem}); if it has moved, put it at "
                f"{part.with_name(part.name[1:-5])} by hand, and tell us"
            ) from None
        except _Lost as problem:
            idle, most = (0 if _size(part) > most else idle + 1), max(most, _size(part))
            if idle > len(PAUSES):
                raise DataError(_ended(remote, part, problem)) from None
            pause = PAUSES[max(idle - 1, 0)]
            with progress(f"{remote.url}: {problem}; again in {pause:g} s", None):
                time.sleep(pause)


def _ended(remote: Remote, part: Path, problem: _Lost) -> str:
    if _size(part) and (remote.sha256 or _known(part)):
        return f"{remote.url}: {problem}; run the same command again, it goes on from {_size(part) / MEGABYTE:.1f} MB"
    return f"{remote.url}: {problem}; see that this machine is online and run the same command again"


def _grow(remote: Remote, part: Path) -> None:
    """Append to the part what is still lacking.

    Raises:
        _Lost: the connection could not be made, broke off, or what came does not continue the part.
        _Refused: the host does not give the file.
        OSError: the part cannot be written.
    """
    have, known = _size(part), _known(part)
    request = urllib.request.Request(remote.url, headers={"User-Agent": "carrara"})
    if have and (known or remote.sha256):
        request.add_header("Range", f"bytes={have}-")
    if have and known:
        request.add_header("If-Range", known)
    with _answer(request) as answer:
        status, version = getattr(answer, "status", None), _stated(answer.headers)
        begin, end = _span(answer.headers)
        if status == RANGE_NOT_SATISFIABLE and end == have:
            return
        goes_on = status == PARTIAL and begin == have and (not known or version in ("", known))
        if status in (PARTIAL, RANGE_NOT_SATISFIABLE) and not goes_on:
            part.unlink(missing_ok=True)
            raise _Lost("the file there is not the one that was begun")
        length = answer.headers.get("Content-Length", "")
        total = int(length) + (have if goes_on else 0) if length.isdigit() else None
        with part.open("ab" if goes_on else "wb") as file:
            if not goes_on:  # only now, when nothing is left of another version that it could be taken for
                _version(part).write_text(version, encoding="latin-1")
            _append(answer, file, part.name[1:-5], total)
    if total is not None and _size(part) != total:
        raise _Lost(f"broke off after {_size(part) / MEGABYTE:.1f} of {total / MEGABYTE:.1f} MB")


def _answer(request: urllib.request.Request) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as problem:
        if problem.code == RANGE_NOT_SATISFIABLE and request.has_header("Range"):
            return problem
        with problem:
            passing = problem.code >= 500 or problem.code in PASSING
            raise (_Lost if passing else _Refused)(f"{problem.code} {problem.reason}") from None
    except (OSError, HTTPException) as problem:
        raise (_Refused if request.type == "file" else _Lost)(_reason(problem)) from None


def _append(answer: Any, file: Any, name: str, total: int | None) -> None:
    with progress(f"downloading {name}", total) as advance:
        advance(file.tell())
        while block := _received(answer):
            file.write(block)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())


def _received(answer: Any) -> bytes:
    try:
        block: bytes = answer.read(BLOCK)
    except (OSError, HTTPException) as problem:  # OSError: of TLS and of the line; writing has its own
        raise _Lost(_reason(problem)) from None
    return block


def _reason(problem: Exception) -> str:
    reason = getattr(problem, "reason", None) or problem
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _stated(headers: Any) -> str:
    """Return what the server says of the file's version; a weak ETag does not promise the same bytes."""
    tag = headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", ""))


def _span(headers: Any) -> tuple[int | None, int | None]:
    """Return where the answer's bytes begin and how long the whole file is; none where that is not said."""
    found = SPAN.fullmatch(headers.get("Content-Range", "").strip())
    begin, total = found.groups() if found else (None, None)
    return int(begin) if begin else None, int(total) if total and total != "*" else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _known(part: Path) -> str:
    return _version(part).read_text(encoding="latin-1") if _version(part).exists() else ""


def _accept(remote: Remote, part: Path) -> None:
    """Refuse a file that is not what was asked for, and remove it.

    Raises:
        DataError: a pointer or a page in the file's place, or another content than the pinned one.
    """
    with part.open("rb") as file:
        head = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    problem = ""
    if head.startswith(LFS):
        problem = "is a Git LFS pointer, not the file itself; download it from where the pointer leads"
    elif head.startswith(PAGES) and not remote.path.lower().endswith((".html", ".htm")):
        problem = "is a web page, not the file; its host wants a person to look at it"
    elif remote.sha256 is not None and not (found := sha256_of(part)).startswith(remote.sha256):
        problem = f"has SHA-256 {found}, should have {remote.sha256}; it was removed, ask again or tell us it moved"
    if problem:
        part.unlink()
        _version(part).unlink(missing_ok=True)
        raise DataError(f"{remote.url}: {problem}")
