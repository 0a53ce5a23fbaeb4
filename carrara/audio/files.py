"""List the audio files that a user names by files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from carrara.audio._header import refuse_pipe
from carrara.audio.decode import SUFFIXES
from carrara.core.errors import AudioError, DataError


def check_file(path: str | Path) -> None:
    """Check that a path is a file, or none yet, whose name tables, records and databases can hold.

    Raises:
        AudioError: a pipe or a device, which may never end; or a name that is not UTF-8.
    """
    name = os.fsencode(path)
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        shown = name.decode("utf-8", "backslashreplace")
        raise AudioError(f"{shown}: its name is not UTF-8; rename the file or its folder") from None
    with suppress(OSError):
        refuse_pipe(Path(path))


def list_audio_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the named files and the audio files inside the named folders, each once.

    Raises:
        DataError: a folder without audio files, or no path at all.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            files[path] = None
            continue
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        if not inside:
            raise DataError(f"{path}: no audio files in it (wav, flac, mp3, ogg, m4a and the like)")
        files.update(dict.fromkeys(inside))
    if not files:
        raise DataError("no audio files were named")
    return list(files)
