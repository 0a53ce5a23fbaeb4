"""Which sound files a person means who names files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from carrara.audio.decode import SUFFIXES
from carrara.core.errors import DataError


def sound_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files that are named and the sound files in the folders that are named, each once.

    Raises:
        DataError: a folder without sound files, or no path at all.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found[path] = None
            continue
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
        heard = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not heard:
            raise DataError(f"{path}: no sound files in it (wav, flac, mp3, ogg, m4a and the like)")
        found.update(dict.fromkeys(heard))
    if not found:
        raise DataError("no sound files were named")
    return list(found)
