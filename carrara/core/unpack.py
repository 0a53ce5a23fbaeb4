"""Archives unpacked below a folder and nowhere else: every name is looked at before anything is written.

Members appear whole: each is written beside its place and renamed, one that stands there with its size is passed over,
so an unpacking that was stopped goes on.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from carrara.core.errors import DataError
from carrara.core.files import whole
from carrara.core.progress import track


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
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(archive, list(_of_zip(archive, opened)), folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                _write(archive, list(_of_tar(archive, opened_tar)), folder)
        else:
            raise DataError(f"{archive}: neither a zip nor a tar archive, or cut short; download it again")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as problem:
        raise DataError(f"{archive}: damaged or cut short ({problem}); download it again") from None


def _of_zip(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        _inside(archive, info.filename)
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise DataError(f"{archive}: {info.filename!r} is a link; archives with links are not unpacked")
        if not info.is_dir():
            yield _Member(info.filename, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def _of_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        _inside(archive, info.name)
        if info.isfile():
            yield _Member(info.name, info.size, lambda info=info: opened.extractfile(info))  # type: ignore[misc]
        elif not info.isdir():
            raise DataError(f"{archive}: {info.name!r} is a link or a device; only plain files are unpacked")


def _inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]) or "\0" in name:
        raise DataError(f"{archive}: {name!r} would be written outside of its folder; nothing was unpacked")


def _write(archive: Path, members: list[_Member], folder: Path) -> None:
    for member in track(members, f"unpacking {archive.name}"):
        target = Path(folder) / member.name
        if not target.resolve().is_relative_to(Path(folder).resolve()):
            raise DataError(
                f"{archive}: {member.name!r} would follow a link out of {folder}; nothing more was unpacked"
            )
        if target.is_file() and target.stat().st_size == member.size:
            continue
        source = member.open()
        if source is not None:
            with whole(target) as draft, draft.open("wb") as file, source:
                shutil.copyfileobj(source, file)
