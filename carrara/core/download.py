"""Download files from plain URLs and from the Hugging Face hub.

pooch transfers plain files. It neither resumes nor recognises a page in the place of a file, so that is done here: a
file grows as `.<name>.part` and is renamed when it is complete and its SHA-256 is right. `.<name>.part.version` holds
the server's strong ETag or Last-Modified (RFC 9110 §13.1.5, §14); a file that has changed since, or a server that
cannot resume, starts over. A file with a known hash resumes without a version too, since the hash finds any mistake. A
lost connection is retried after growing pauses, which start over whenever the part has grown; without a network there
is one retry. A second process that wants the same file waits for the first.

A redirect is followed only to a public address, or within one server, and never from https to http. Symbolic links in
the place of a part are refused.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from carrara.core.archives import unpack
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.hashing import sha256_of_file
from carrara.core.io import atomic_write, file_lock, write_text
from carrara.core.progress import has_bars, progress, track

if TYPE_CHECKING:
    from requests import Response

CHUNK_BYTES = 2**13  # what a lost connection may cost
PAUSES_SECONDS = (1.0, 3.0, 10.0, 30.0)
TIMEOUT_SECONDS = 60
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
RANGE_NOT_SATISFIABLE = 416
TEMPORARY_STATUSES = (408, 425, 429)
CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
WEB_PAGE = (b"<!doctype html", b"<html")
MEGABYTE = 10**6
# Of IPv6, whose last 32 bits are an address of IPv4: of NAT64 (two), of SIIT, and compatible ones.
TRANSLATED = [
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")
]


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        url: Its address, pinned to a version where the host allows that.
        path: Where it is stored below a dataset's root.
        sha256: SHA-256 of its content, or at least the first 16 digits; None where it is not known.
        unpack: Folder below the root into which an archive is unpacked; None for a file that is no archive.
    """

    url: str
    path: str
    sha256: str | None = None
    unpack: str | None = None


class _ConnectionLost(Exception):
    """The connection failed or broke off; a retry may succeed."""


class _Offline(_ConnectionLost):
    """The host's name is not known, or no route leads to it: there is no network, or none of that name."""


class _Refused(Exception):
    """The host refuses to send the file, so that a retry is of no use."""


def download(remote: Remote, root: Path) -> Path:
    """Return the path of a remote file below `root`, after downloading and unpacking what is missing.

    An existing file is kept if its hash is right or unknown. An archive is removed once it is unpacked;
    `.<name>.unpacked` stores its address and hash, so that another version is downloaded again.

    Raises:
        DataError: the download failed, or the file is not the pinned one; the message says whether to retry.
        StoreError: it cannot be written.
    """
    path = Path(root) / remote.path
    target = path if remote.unpack is None else Path(root) / remote.unpack
    if _is_current(remote, path, target):
        return target
    try:
        with file_lock(path.with_name(f".{path.name}.lock")):
            if not _is_current(remote, path, target):
                if remote.unpack is None or not _matches_hash(remote, path):
                    part = path.with_name(f".{path.name}.part")
                    for own in (part, _version_path(part)):
                        if own.is_symlink():
                            raise StoreError(f"{own}: is a symbolic link, which is not followed; remove it")
                    try:
                        _retry(remote.url, part, remote.sha256)
                    except _Refused as problem:
                        raise DataError(
                            f"{remote.url}: the host refuses it ({problem}); if it has moved, store it as {path} and "
                            "report the new address"
                        ) from None
                    _check_content(remote, part)
                    part.replace(path)
                    _version_path(part).unlink(missing_ok=True)
                if remote.unpack is not None:
                    unpack(path, target)
                    write_text(_origin_path(path), _origin(remote))
                    path.unlink()
    except OSError as problem:
        raise StoreError(f"{path}: cannot be written ({problem.strerror or problem})") from None
    return target


def fetch_file(url: str, target: Path) -> None:
    """Download a file of the user's own from a plain URL; nothing is kept of it where it fails.

    Raises:
        DataError: the download failed, or a web page or Git LFS pointer came in the place of the file.
        OSError: the file cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        _retry(url, part, None, quiet=True)
        _check_content(Remote(url, urlsplit(url).path), part)
        part.replace(target)
    except _Refused as problem:
        raise DataError(f"{url}: the host refuses it ({problem})") from None
    finally:
        for leftover in (part, _version_path(part)):
            leftover.unlink(missing_ok=True)


def fetch_range(url: str, begin: int, end: int, version: str) -> tuple[bytes, int] | None:
    """Return some bytes of a file at a plain URL and its size; None if the host sends no parts of this version.

    Raises:
        DataError: the host refuses it or cannot be reached.
    """
    import requests

    def check(response: Response, **_: Any) -> None:
        if response.is_redirect:
            _check_redirect(response)

    headers = {"Accept-Encoding": "identity", "User-Agent": "carrara", "If-Range": version}
    headers["Range"] = f"bytes={begin}-{end - 1}"
    for pause in (*PAUSES_SECONDS, None):
        try:
            with requests.get(
                url, headers=headers, timeout=TIMEOUT_SECONDS, stream=True, hooks={"response": check}
            ) as response:
                status = response.status_code
                if status == requests.codes.partial_content:
                    first, total = _content_range(response.headers)
                    return (response.content, total) if first == begin and total is not None else None
                if response.ok or status == RANGE_NOT_SATISFIABLE:
                    return None
                problem = f"{url}: the host refuses it ({status} {response.reason})"
                if status < 500 and status not in TEMPORARY_STATUSES:
                    raise DataError(problem)
        except _Refused as refusal:
            raise DataError(f"{url}: the host refuses it ({refusal})") from None
        except requests.RequestException as error:
            problem = f"{url}: cannot be read: {str(error).partition(chr(10))[0]}"
        if pause is not None:
            time.sleep(pause)
    raise DataError(problem)


def read_version(url: str) -> str:
    """Return the strong ETag or Last-Modified of a file at a plain URL, empty if its host states neither.

    Raises:
        DataError: the host refuses it or cannot be reached.
    """
    import requests

    def check(response: Response, **_: Any) -> None:
        if response.is_redirect:
            _check_redirect(response)

    headers = {"Accept-Encoding": "identity", "User-Agent": "carrara"}
    try:
        response = requests.head(
            url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=True, hooks={"response": check}
        )
    except (requests.RequestException, _Refused) as problem:
        raise DataError(f"{url}: cannot be read: {str(problem).partition(chr(10))[0]}") from None
    return _version_of(response.headers) if response.ok else ""


def download_from_hub(repository: str, patterns: Sequence[str]) -> Path:
    """Return the folder in the Hugging Face cache with a repository's files of these patterns, fetched if missing.

    Raises:
        UsageError: the repository cannot be fetched; the message says why.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise UsageError(
            f"{repository}: is no folder here and cannot be fetched from the Hugging Face hub ({reason})"
        ) from None


def is_in_hub_cache(repository: str, filename: str) -> bool:
    """Return whether the Hugging Face cache holds a file of a repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, filename), str)


def concatenate_files(parts: Sequence[Path], target: Path) -> Path:
    """Concatenate the parts of a split file (`mp3.zip.001`, …) into `target` and return it.

    Raises:
        DataError: a part is missing.
        StoreError: the file cannot be written.
    """
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: this part is missing; download all of {', '.join(part.name for part in parts)}")
    with atomic_write(target) as tmp, tmp.open("wb") as file:
        for part in track(parts, f"joining {target.name}"):
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
    return target


def _is_current(remote: Remote, path: Path, target: Path) -> bool:
    """Return whether the file, or the folder unpacked from it, exists in this version."""
    if remote.unpack is None:
        return _matches_hash(remote, path)
    origin = _origin_path(path)
    return target.is_dir() and origin.is_file() and origin.read_text("utf-8", errors="replace") == _origin(remote)


def _matches_hash(remote: Remote, path: Path) -> bool:
    return path.is_file() and (remote.sha256 is None or sha256_of_file(path).startswith(remote.sha256))


def _origin_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.unpacked")


def _origin(remote: Remote) -> str:
    return f"{remote.url}\n{remote.sha256 or 'not pinned'}\n"


def _retry(url: str, part: Path, sha256: str | None, quiet: bool = False) -> None:
    """Append to the partial file until it is complete.

    Raises:
        _Refused: the host refuses to send the file.
        DataError: one try and one after each pause brought nothing new, or two tries reached no network.
        OSError: the file cannot be written.
    """
    failures, start = 0, _size(part)
    largest = start
    while True:
        try:
            return _append_range(url, part, sha256, quiet)
        except _Refused:
            if not _size(part):
                part.unlink(missing_ok=True)
            raise
        except _ConnectionLost as problem:
            size = _size(part)
            failures, largest = (0 if size > largest else failures + 1), max(largest, size)
            tries = 1 if isinstance(problem, _Offline) and largest == start else len(PAUSES_SECONDS)
            if failures > tries:
                cure = "check the network connection and run the same command again"
                if size and (sha256 or _read_version(part)):
                    cure = f"run the same command again, it resumes at {size / MEGABYTE:.1f} MB"
                raise DataError(f"{url}: {problem}; {cure}") from None
            pause = PAUSES_SECONDS[max(failures - 1, 0)]
            with nullcontext() if quiet else progress(f"{url}: {problem}; next try in {pause:g} s", None):
                time.sleep(pause)


def _append_range(url: str, part: Path, sha256: str | None, quiet: bool) -> None:
    """Request the missing bytes once and append them.

    Raises:
        _ConnectionLost: The connection failed or broke off, or the response does not continue the partial file.
        _Refused: The host refuses to send the file.
        OSError: the file cannot be written.
    """
    import pooch
    import requests

    size, known_version = _size(part), _read_version(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "carrara"}
    if size and (known_version or sha256):
        headers["Range"] = f"bytes={size}-"
        if known_version:
            headers["If-Range"] = known_version

    with open(part, "ab", opener=_open_no_link) as file:

        def continue_or_restart(response: Response, **_: Any) -> None:
            if response.is_redirect:
                _check_redirect(response)
            if response.is_redirect or not response.ok:
                return
            version = _version_of(response.headers)
            if response.status_code == requests.codes.partial_content:
                if _content_range(response.headers)[0] == size and (
                    not known_version or version in ("", known_version)
                ):
                    return
                file.truncate(0)
                raise _ConnectionLost("the file at the host has changed")
            if size:
                file.truncate(0)
            # Written only now, when no byte of another version is left.
            _version_path(part).write_text(version, encoding="latin-1")

        is_shown = has_bars() and not quiet
        if is_shown:
            print(f"downloading {part.name[1:-5]}", file=sys.stderr)
        transfer = pooch.HTTPDownloader(
            progressbar=is_shown,
            chunk_size=CHUNK_BYTES,
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            hooks={"response": continue_or_restart},
        )
        try:
            transfer(url, file, None)
        except requests.HTTPError as problem:
            response = problem.response
            assert response is not None
            status = response.status_code
            if status == RANGE_NOT_SATISFIABLE and "Range" in headers:
                if _content_range(response.headers)[1] == size:
                    return
                file.truncate(0)
                raise _ConnectionLost("the file at the host has changed") from None
            is_temporary = status >= 500 or status in TEMPORARY_STATUSES
            raise (_ConnectionLost if is_temporary else _Refused)(f"{status} {response.reason}") from None
        except requests.exceptions.ChunkedEncodingError:
            raise _ConnectionLost(f"broke off after {_size(part) / MEGABYTE:.1f} MB") from None
        except requests.RequestException as problem:
            cause: BaseException = problem
            while cause.__context__ is not None:  # requests wraps urllib3, which wraps the system's own short reason
                cause = cause.__context__
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            is_offline = isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in NO_ROUTE
            raise (_Offline if is_offline else _ConnectionLost)(reason) from None
        file.flush()
        os.fsync(file.fileno())


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _check_redirect(response: Response) -> None:
    """Refuse a redirect from https to anything else, or from one server to an address that is not public.

    Raises:
        _Refused: It is not followed.
    """
    target = response.headers["Location"]
    try:
        target = urljoin(response.url, target)
        before, after = urlsplit(response.url), urlsplit(target)
        if (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port):
            return
    except ValueError:  # brackets without an end, or a port that is no number
        raise _Refused(f"it redirects to {target}, which is no address") from None
    if after.scheme != "https" and (before.scheme == "https" or after.scheme != "http"):
        raise _Refused(f"it redirects to {target}, which is not https")
    host = unquote(after.hostname or "")
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        try:
            addresses = [ipaddress.ip_address(str(address[0])) for *_, address in socket.getaddrinfo(host, None)]
        except (OSError, UnicodeError):
            return  # only a proxy may know this name; without one the request fails by itself
    if not all(_is_public(address) for address in addresses):
        raise _Refused(f"it redirects to {target}, which is not a public address")


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is of the internet; one of IPv6 that stands for one of IPv4 is judged as that."""
    if isinstance(address, ipaddress.IPv6Address):
        is_translated = any(address in network for network in TRANSLATED)
        last = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if is_translated else None
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or last
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


def _version_of(headers: Mapping[str, str]) -> str:
    """Return what the server states of the file's version; a weak ETag does not promise the same bytes."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the first byte of a partial response and the size of the whole file; None where it is not stated."""
    match = CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    begin, total = match.groups() if match else (None, None)
    return int(begin) if begin else None, int(total) if total and total != "*" else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_path(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _read_version(part: Path) -> str:
    path = _version_path(part)
    return path.read_text(encoding="latin-1") if path.exists() else ""


def _check_content(remote: Remote, part: Path) -> None:
    """Remove and refuse a partial file that is not the remote one.

    Raises:
        DataError: a Git LFS pointer, a web page, or content with another hash.
    """
    with part.open("rb") as file:
        head = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    problem = ""
    if head.startswith(LFS_POINTER):
        problem = "is a Git LFS pointer, not the file itself; download the file that it points to"
    elif head.startswith(WEB_PAGE) and not remote.path.lower().endswith((".html", ".htm")):
        problem = "is a web page, not the file; open the address in a browser to see what its host requires"
    elif remote.sha256 is not None and not (sha256 := sha256_of_file(part)).startswith(remote.sha256):
        problem = f"has SHA-256 {sha256}, not {remote.sha256}; it was removed, try again or report that it changed"
    if problem:
        part.unlink()
        _version_path(part).unlink(missing_ok=True)
        raise DataError(f"{remote.url}: {problem}")
