"""OpenSubsonic's extension sonicSimilarity [opensubsonic]: getSonicSimilarTracks and findSonicPath over a library.

The id of a song is its path in the library, or what a file of ids says. Similarity is (1 + cosine) / 2, so that 1 is
the same recording and 0 the most different, as the extension wants it. Names and passwords are not checked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

import numpy as np
from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse, Response

from carrara.core import __version__
from carrara.core.errors import CarraraError, DataError, UsageError
from carrara.core.printable import one_line
from carrara.features.embedding_table import EmbeddedRows
from carrara.features.search import Neighbour, find_nearest, find_path, recording_query
from carrara.features.song_fields import SongFields, read_tags

API_VERSION = "1.16.1"
XML_NAMESPACE = "http://subsonic.org/restapi"
GENERIC, MISSING_PARAMETER, NOT_FOUND = 0, 10, 70
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A subsonic-response, also of an error.",
        "content": {"application/xml": {}, "application/json": {}},
    }
}
Format = Annotated[Literal["xml", "json"], Query(alias="f", description="Of the answer; xml is Subsonic's default.")]


class SonicSimilarity:
    """A library's songs by id.

    Args:
        library: The table or index.
        ids: Id of each path, as `read_song_ids` returns it. None means that a path is its id.
        lock: Held while the library is read.
    """

    def __init__(self, library: EmbeddedRows, ids: Mapping[str, str] | None, lock: threading.Lock) -> None:
        self.library, self.lock = library, lock
        known = {os.path.abspath(path): name for path, name in (ids or {}).items()}
        paths = library.path_R.unique().to_pylist()
        self._id_of = {path: known.get(os.path.abspath(path)) if ids is not None else path for path in paths}
        self._path_of = {name: path for path, name in self._id_of.items() if name is not None}

    def similar(self, song_id: str, count: int) -> list[dict[str, Any]]:
        """Return the `count` songs most similar to one, the most similar first.

        Raises:
            KeyError: There is no such song.
        """
        with self.lock:
            query = recording_query(self.library, self._path_of[song_id])
            neighbours = find_nearest([query], self.library, count, SongFields([]))
        return self._matches(neighbours)

    def path(self, start_id: str, end_id: str, count: int) -> list[dict[str, Any]]:
        """Return a walk of at most `count` songs from one to another, with both.

        Raises:
            KeyError: There is no such song.
            UsageError: The songs have the same embedding, or the walk has fewer than two songs.
        """
        with self.lock:
            ends = [recording_query(self.library, self._path_of[name]) for name in (start_id, end_id)]
            steps = find_path(ends, self.library, count, SongFields([]))
            queries = [recording_query(self.library, step.path) for step in steps]
        # The extension wants similarities to the start, not to the points of the walk.
        cosines = [float(np.clip(ends[0].unit_D @ query.unit_D, -1, 1)) for query in queries]
        return self._matches(
            [Neighbour(cosine, step.row, step.path, step.start, step.duration) for cosine, step in zip(cosines, steps)]
        )

    def _matches(self, neighbours: Sequence[Neighbour]) -> list[dict[str, Any]]:
        matches = []
        for item in neighbours:
            if (name := self._id_of[item.path]) is not None:
                similarity = round(min(max((1 + item.similarity) / 2, 0.0), 1.0), 6)
                matches.append({"entry": {"id": name, **describe_song(item.path)}, "similarity": similarity})
        return matches


@lru_cache(10_000)
def describe_song(path: str) -> dict[str, Any]:
    """Return what OpenSubsonic's `Child` says of a recording: its title, artist and album from the file's tags."""
    tags = read_tags(path) if os.path.isfile(path) else {}
    fields = {"isDir": False, "title": tags.get("title") or Path(path).stem, "type": "music", "path": path}
    return fields | {name: tags[name] for name in ("artist", "album", "genre") if tags.get(name)}


def read_song_ids(file: Path) -> dict[str, str]:
    """Return a music server's id of each path, from a CSV file with the columns path and id.

    Raises:
        DataError: It cannot be read.
        UsageError: It lacks a column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as problem:
        raise DataError(f"--song-ids {file}: cannot be read as CSV ({problem})") from None
    if not {"path", "id"} <= set(frame):
        raise UsageError(f"--song-ids {file}: needs the columns path and id; it has {', '.join(map(str, frame))}")
    return dict(zip(frame["path"], frame["id"]))


def add_subsonic_calls(app: FastAPI, songs: SonicSimilarity) -> None:
    """Add the extension's calls to an application, each with and without `.view`."""

    def similar_tracks(
        song_id: Annotated[str | None, Query(alias="id")] = None,
        count: Annotated[int, Query(ge=1, le=500)] = 10,
        format: Format = "xml",
    ) -> Response:
        """Return the songs most similar to one, as OpenSubsonic's sonicSimilarity defines it."""
        if song_id is None:
            return subsonic_error(MISSING_PARAMETER, "the parameter id is missing", format)
        try:
            return subsonic_answer({"sonicMatch": songs.similar(song_id, count)}, format)
        except KeyError:
            return subsonic_error(NOT_FOUND, f"no song {song_id}", format)

    def sonic_path(
        start: Annotated[str | None, Query(alias="startSongId")] = None,
        end: Annotated[str | None, Query(alias="endSongId")] = None,
        count: Annotated[int, Query(ge=2, le=500)] = 25,
        format: Format = "xml",
    ) -> Response:
        """Return a walk of songs from one to another, as OpenSubsonic's sonicSimilarity defines it."""
        if start is None or end is None:
            return subsonic_error(MISSING_PARAMETER, "startSongId and endSongId are both needed", format)
        try:
            return subsonic_answer({"sonicMatch": songs.path(start, end, count)}, format)
        except KeyError as problem:
            return subsonic_error(NOT_FOUND, f"no song {problem.args[0]}", format)
        except CarraraError as problem:
            return subsonic_error(GENERIC, one_line(str(problem)), format)

    def extensions(format: Format = "xml") -> Response:
        """Return the OpenSubsonic extensions of this service."""
        return subsonic_answer({"openSubsonicExtensions": [{"name": "sonicSimilarity", "versions": [1]}]}, format)

    def ping(format: Format = "xml") -> Response:
        """Return that the service answers."""
        return subsonic_answer({}, format)

    calls: dict[str, Callable[..., Response]] = {
        "getSonicSimilarTracks": similar_tracks,
        "findSonicPath": sonic_path,
        "getOpenSubsonicExtensions": extensions,
        "ping": ping,
    }
    for name, call in calls.items():
        app.get(f"/rest/{name}", tags=["OpenSubsonic"], response_class=Response, responses=ANSWERS)(call)
        app.get(f"/rest/{name}.view", include_in_schema=False)(call)


def subsonic_answer(content: Mapping[str, Any], format: str, status: str = "ok") -> Response:
    """Return a `subsonic-response` as JSON or XML; errors too have HTTP status 200."""
    head = {"status": status, "version": API_VERSION, "type": "carrara", "serverVersion": __version__}
    body = {**head, "openSubsonic": True, **content}
    if format == "json":
        return JSONResponse({"subsonic-response": body})
    root = _to_xml("subsonic-response", {"xmlns": XML_NAMESPACE, **body})
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(text, media_type="application/xml")


def subsonic_error(code: int, message: str, format: str) -> Response:
    """Return a failed `subsonic-response`."""
    return subsonic_answer({"error": {"code": code, "message": message}}, format, "failed")


def _to_xml(name: str, value: Any) -> ElementTree.Element:
    """Return an element: scalars of a mapping become attributes, mappings and lists elements."""
    element = ElementTree.Element(name)
    if not isinstance(value, Mapping):
        element.text = str(value)
        return element
    for key, each in value.items():
        if isinstance(each, list):
            element.extend(_to_xml(key, item) for item in each)
        elif isinstance(each, Mapping):
            element.append(_to_xml(key, each))
        else:
            element.set(key, str(each).lower() if isinstance(each, bool) else _xml_text(str(each)))
    return element


def _xml_text(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return "".join(char for char in text if char >= " " or char in "\t\n")
