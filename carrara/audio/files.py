"""List the audio files that a user names by files, folders, patterns and manifests, here or in a remote store.

A local file is a `Path`; a remote one is its fsspec address as a string, since a `Path` would shorten its `://`.
"""

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
from carrara.core.storage import glob_files, is_remote, list_files, local_copy, normalize, suffix

MANIFEST_SUFFIXES = (".csv", ".parquet")


def check_file(path: str | Path) -> None:
    """Check that a path is a file, or none yet, whose name tables, records and databases can hold.

    Remote addresses are not looked at.

    Raises:
        AudioError: a pipe or a device, which may never end; or a name that is not UTF-8.
    """
    name = os.fsencode(path)
    if is_remote(str(path)):
        return
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        shown = name.decode("utf-8", "backslashreplace")
        raise AudioError(f"{shown}: its name is not UTF-8; rename the file or its folder") from None
    with suppress(OSError):
        refuse_pipe(Path(path))


def list_audio_files(paths: Iterable[str | Path]) -> list[Path | str]:
    """Return the named files, those in the manifests, and the audio files inside the named folders, each once.

    A manifest is a Parquet or CSV file with a column `path`; its files are not looked at here. Each path may be an
    fsspec address, such as `s3://bucket/music`, and so may those in a manifest.

    A path that does not exist and holds `*`, `?` or `[` is a pattern; `**` matches any number of folders. Another that
    does not exist is kept, so that it can be reported while the rest go on.

    Raises:
        DataError: a folder without audio files, a pattern without matches, a manifest without paths, or no path at all;
            or a remote folder or manifest that cannot be read.
        UsageError: fsspec does not know an address, or needs a package for it.
    """
    files: dict[Path | str, None] = {}
    for name in paths:
        address = normalize(name)
        if is_remote(address):
            files.update(dict.fromkeys(_list_remote(address)))
            continue
        path = Path(os.path.expanduser(name))
        # os.path's answers are False for a name that is too long; such a file fails alone, not the whole run.
        if not os.path.exists(path) and glob.has_magic(str(path)):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            matches = [match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file()]
            if not matches:
                raise DataError(f"{path}: no audio file matches")
            files.update(dict.fromkeys(matches))
            continue
        if path.suffix in MANIFEST_SUFFIXES and os.path.isfile(path):
            files.update(dict.fromkeys(read_manifest_paths(path, str(path))))
            continue
        if not os.path.isdir(path):
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


def _list_remote(address: str) -> list[Path | str]:
    """Return the audio files that one address names: a file, a manifest, a pattern or a folder."""
    if suffix(address) in MANIFEST_SUFFIXES:
        try:
            with local_copy(address) as copy:
                return read_manifest_paths(copy, address)
        except AudioError as problem:
            raise DataError(str(problem)) from None
    if address.startswith(("http://", "https://")):
        if suffix(address) in SUFFIXES:
            return [address]
        raise DataError(f"{address}: folders cannot be listed over HTTP; name audio files, or a manifest of them")
    if suffix(address) in SUFFIXES and not glob.has_magic(address):
        return [address]
    names = glob_files(address) if glob.has_magic(address) else list_files(address)
    if names is None:
        raise DataError(f"{address}: there is no such folder, and its ending is none of audio files")
    inside = {name: name for name in names} if isinstance(names, list) else names
    inside = {
        name: own
        for name, own in inside.items()
        if suffix(own) in SUFFIXES and not any(part.startswith(".") for part in name.split("/"))
    }
    if not inside:
        raise DataError(f"{address}: no audio files in it (wav, flac, mp3, ogg, m4a and the like)")
    return list(inside.values())


def read_manifest_paths(manifest: Path, address: str) -> list[Path | str]:
    """Return the paths in the column `path` of a Parquet or CSV file, each once; relative ones to its folder.

    Args:
        manifest: the file, or a local copy of it.
        address: where it belongs, locally or remotely.

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
            raise DataError(f"{address}: has no column path, only {', '.join(names)}; each row of it names a file")
        column = table.read(["path"])["path"] if manifest.suffix == ".parquet" else table["path"]
        paths = column.cast(pyarrow.string()).to_pylist()
    except (OSError, pyarrow.ArrowException) as problem:
        reason = str(problem).partition("\n")[0][:200]
        raise DataError(f"{address}: cannot be read as a Parquet or CSV table with a column path ({reason})") from None
    if not all(paths):
        row = next(index for index, path in enumerate(paths) if not path)
        raise DataError(f"{address}: row {row + 1} has no path; fill it in or drop it")
    folder = address.rpartition("/")[0] if is_remote(address) else Path(address).parent
    return [
        path if is_remote(path) else f"{folder}/{path}" if isinstance(folder, str) else folder / path
        for path in dict.fromkeys(paths)
    ]


def select_shard(files: Iterable[Path | str], num_shards: int, shard_index: int) -> list[Path | str]:
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
    named = [Path(os.path.expanduser(path)) for path in paths]
    if not named:
        raise DataError("no audio files were named")
    if any(os.path.exists(path) or glob.has_magic(str(path)) or is_remote(normalize(path)) for path in named):
        return
    first = named[0]
    beside = [path.name for path in first.parent.iterdir()] if os.path.isdir(first.parent) else []
    raise DataError(f"{first}: there is no such file or folder.{did_you_mean(first.name, beside)}")
