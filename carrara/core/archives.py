"""Archives unpacked below a folder and nowhere else: every name is looked at before anything is written.

Members appear whole: each grows as `.<archive>.unpacking` and is then renamed into its place; one that stands there
with its size is passed over, so an unpacking that was stopped goes on. The disk is flushed once, at the end: flushing
file by file takes 2 ms where writing takes 0.1 ms (20 kB, ext4), and one archive of NSynth has 289,205 members.
"""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from carrara.core.errors import DataError, StoreError
from carrara.core.progress import progress, track

BLOCK = 2**18
TAR_BLOCK = 512
KIND, LINK, PLAIN = 0o170000, 0o120000, (0, 0o100000)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive (also .gz, .bz2, .xz) below a folder.

    Raises:
        DataError: it is no archive, cut short, or has a member that would leave the folder or is no plain file.
        StoreError: something cannot be written.
    """
    archive, folder = Path(archive), Path(folder)
    with _read(archive):
        # A tar is asked for first: one that ends in a zip passes for that zip.
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _write(archive, list(track(_of_tar(archive, tar), f"looking through {archive.name}")), folder)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(archive, list(_of_zip(archive, opened)), folder)
        else:
            raise zipfile.BadZipFile("neither a zip nor a tar archive, or cut short")


@contextmanager
def _read(archive: Path) -> Iterator[None]:
    """Turn all that the readers of archives raise into one line.

    Raises:
        DataError: instead of any of it. RuntimeError is what an encrypted member or an unknown compression raises.
    """
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"{archive}: cannot be unpacked ({reason}); remove it and have it downloaded again") from None


def _of_zip(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        name = info.filename.replace("\\", "/")
        _inside(archive, name)
        kind = (info.external_attr >> 16) & KIND
        if name.endswith("/"):
            continue
        if kind not in PLAIN:
            raise _strange(archive, name, "link" if kind == LINK else "device")
        yield _Member(name, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def _of_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        _inside(archive, info.name)
        if info.isfile():
            yield _Member(info.name, info.size, lambda info=info: opened.extractfile(info))  # type: ignore[misc]
        elif not info.isdir():
            raise _strange(archive, info.name, "link" if info.issym() or info.islnk() else "device")
    _to_the_end(opened)


def _to_the_end(opened: tarfile.TarFile) -> None:
    """Read what follows the last member: `tarfile` takes a damaged header, or none, for the end.

    Raises:
        TarError, EOFError, LZMAError, OSError: the archive is damaged or cut short.
    """
    file = opened.fileobj
    if isinstance(file, io.BufferedReader):
        file.seek(opened.offset)
        if file.read(TAR_BLOCK) != bytes(TAR_BLOCK):
            raise tarfile.ReadError("the block of zeros that ends a tar is not where it should be")
    elif file is not None:
        while file.read(BLOCK):  # a compressed archive has its checksum at its end
            pass


def _strange(archive: Path, name: str, kind: str) -> DataError:
    return DataError(f"{archive}: {name!r} is a {kind}; only plain files are unpacked, and nothing was")


def _inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":" or "\0" in name:
        raise DataError(f"{archive}: {name!r} would be written outside of its folder; nothing was unpacked")


def _write(archive: Path, members: list[_Member], folder: Path) -> None:
    top = folder.resolve()
    for parent in {PurePosixPath(member.name).parent for member in members}:
        if not (folder / parent).resolve().is_relative_to(top):
            raise DataError(f"{archive}: {str(parent)!r} follows a link out of {folder}; nothing was unpacked")
    draft = folder / f".{archive.name}.unpacking"
    try:
        with progress(f"unpacking {archive.name}", sum(member.size for member in members)) as advance:
            for member in members:
                target = folder / member.name
                if not _stands(target, member.size):
                    _place(archive, member, draft, target)
                advance(member.size)
    finally:
        with _written(folder):
            draft.unlink(missing_ok=True)
    os.sync()


def _stands(target: Path, size: int) -> bool:
    with _written(target):
        return target.is_file() and target.stat().st_size == size


def _place(archive: Path, member: _Member, draft: Path, target: Path) -> None:
    with _written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.writelines(_blocks(archive, member))
        draft.replace(target)


def _blocks(archive: Path, member: _Member) -> Iterator[bytes]:
    with _read(archive):
        source = member.open()
        assert source is not None
        with source:
            while block := source.read(BLOCK):
                yield block


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"{path}: cannot write here ({problem.strerror or problem})") from None
