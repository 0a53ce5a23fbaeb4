"""List the audio files that a user names by files and folders."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from carrara.audio._header import refuse_pipe
from carrara.audio.decode import SUFFIXES
from carrara.core.errors import AudioError, DataError, did_you_mean

MANIFEST_SUFFIXES = (".csv", ".parquet")


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
    """Return the named files, those in the manifests, and the audio files inside the named folders, each once.

    A manifest is a Parquet or CSV file with a column `path`; its files are not looked at here.

    A path that does not exist and holds `*`, `?` or `[` is a pattern; `**` matches any number of folders. Another that
    does not exist is kept, so that it can be reported while the rest go on.

    Raises:
        DataError: a folder without audio files, a pattern without matches, a manifest without paths, or no path at all.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists() and glob.has_magic(str(path)):
            matches = [Path(match) for match in sorted(glob.glob(os.path.expanduser(path), recursive=True))]
            matches = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
            if not matches:
                raise DataError(f"{path}: no audio file matches")
            files.update(dict.fromkeys(matches))
            continue
        if path.suffix in MANIFEST_SUFFIXES and path.is_file():
            files.update(dict.fromkeys(read_manifest_paths(path)))
            continue
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


def read_manifest_paths(manifest: Path) -> list[Path]:
    """Return the paths in the column `path` of a Parquet or CSV file, each once; relative ones to its folder.

    Raises:
        DataError: it cannot be read, has no column `path`, or a row has no path.
    """
    import pyarrow
    from pyarrow import csv, parquet

    text = {"path": pyarrow.string()}
    try:
        if manifest.suffix == ".parquet":
            table = parquet.ParquetFile(manifest)
            names = table.schema_arrow.names
        else:
            table = csv.read_csv(manifest, convert_options=csv.ConvertOptions(column_types=text))
            names = table.column_names
        if "path" not in names:
            raise DataError(f"{manifest}: has no column path, only {', '.join(names)}; each row of it names a file")
        column = table.read(["path"])["path"] if manifest.suffix == ".parquet" else table["path"]
        paths = column.cast(pyarrow.string()).to_pylist()
    except (OSError, pyarrow.ArrowException) as problem:
        reason = str(problem).partition("\n")[0][:200]
        raise DataError(f"{manifest}: cannot be read as a Parquet or CSV table with a column path ({reason})") from None
    if not all(paths):
        row = next(index for index, path in enumerate(paths) if not path)
        raise DataError(f"{manifest}: row {row + 1} has no path; fill it in or drop it")
    return [manifest.parent / path for path in dict.fromkeys(paths)]


def select_shard(files: Iterable[Path], num_shards: int, shard_index: int) -> list[Path]:
    """Return the files of one shard; a file's shard follows from its path, so that new files move no other."""
    return [
        path
        for path in files
        if int.from_bytes(sha256(os.fsencode(path)).digest()[:8], "big") % num_shards == shard_index
    ]


def check_paths(paths: Iterable[str | Path]) -> None:
    """Check at no cost that some of the paths exist.

    Raises:
        DataError: none of them exists; the message names the first and similar names beside it.
    """
    named = [Path(path) for path in paths]
    if not named:
        raise DataError("no audio files were named")
    if any(path.exists() or glob.has_magic(str(path)) for path in named):
        return
    first = named[0]
    beside = [path.name for path in first.parent.iterdir()] if first.parent.is_dir() else []
    raise DataError(f"{first}: there is no such file or folder.{did_you_mean(first.name, beside)}")
