"""Fields of songs, such as artist and album: from a metadata file, the tags of audio files, or their folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from carrara.core.errors import DataError, UsageError, did_you_mean

FOLDER = "folder"


class SongFields:
    """The values of some fields of songs, read when they are needed.

    Args:
        names: Fields, such as `artist`; `folder` is the folder of the file.
        metadata: CSV or Parquet file with a column `path` and the fields. None means the tags of the audio files.

    Raises:
        UsageError: The metadata file has no column of that name.
        DataError: It cannot be read.
    """

    def __init__(self, names: Sequence[str], metadata: str | Path | None = None) -> None:
        self.names = list(names)
        self._known: dict[str, dict[str, str]] = {}
        self._has_file = metadata is not None and self.names not in ([], [FOLDER])
        if self._has_file and metadata is not None:
            self._known = _read_metadata_file(Path(metadata), [name for name in names if name != FOLDER])

    def values(self, paths: Iterable[str]) -> list[set[str]]:
        """Return, for each field, the values that recordings have, in lower case."""
        values: list[set[str]] = [set() for _ in self.names]
        for path in paths if self.names else ():
            for own, value in zip(values, self._fields(path)):
                if value:
                    own.add(value)
        return values

    def shares(self, path: str, values: Sequence[set[str]]) -> bool:
        """Return whether a recording has one of the values in its field."""
        if not any(values):
            return False
        return any(value in own for value, own in zip(self._fields(path), values))

    def _fields(self, path: str) -> list[str]:
        key = os.path.abspath(path)
        if key not in self._known and not self._has_file:
            self._known[key] = read_tags(path)
        own = {FOLDER: os.path.dirname(key), **self._known.get(key, {})}
        return [own.get(name, "").strip().lower() for name in self.names]


def read_tags(path: str) -> dict[str, str]:
    """Return the tags of an audio file with names in lower case, such as artist, album and title; none of no file."""
    import av

    try:
        with av.open(path, metadata_errors="replace") as container:
            tags = dict(container.metadata)
            for stream in container.streams.audio:  # Ogg has them here
                tags = {**stream.metadata, **tags}
    except (OSError, ValueError, av.error.FFmpegError):
        return {}
    return {name.lower(): value for name, value in tags.items()}


def _read_metadata_file(file: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    import pandas

    try:
        frame = pandas.read_parquet(file) if file.suffix == ".parquet" else pandas.read_csv(file, dtype=str)
    except (OSError, ValueError) as problem:
        raise DataError(f"{file}: cannot be read as CSV or Parquet ({problem})") from None
    for name in ("path", *names):
        if name not in frame:
            hint = did_you_mean(name, map(str, frame.columns))
            raise UsageError(f"{file}: has no column {name!r}.{hint} Its columns: {', '.join(map(str, frame.columns))}")
    paths = [os.path.abspath(path) for path in frame["path"]]
    rows = frame[list(names)].fillna("").astype(str).to_dict("records")
    return dict(zip(paths, rows))
