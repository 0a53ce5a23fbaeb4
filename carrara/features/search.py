"""Finds recordings by similarity: the nearest to some, or a walk from one to another.

Similarity is the cosine between embeddings. A query is a recording, a span of one (`song.mp3@1:00-1:30`) or a row of
the table (`row:17`); several queries are one, the mean of their unit vectors. What the table does not hold is embedded
with the encoder that made it; another encoder, or other weights of it, are refused. A text is a query, too, where the
table has the layer "joint" of an encoder with a text tower: its vector is that of `encode_text`.

Letters: Q queries, D dim, S steps of a walk between its ends.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carrara.core.errors import AudioError, StoreError, UsageError
from carrara.core.paths import user_path, user_paths
from carrara.core.printable import one_line
from carrara.core.storage import is_remote
from carrara.features.embedding_table import EmbeddedRows, EmbeddingTable
from carrara.features.song_fields import SongFields

if TYPE_CHECKING:
    import pyarrow

    from carrara.features.embed_config import EmbedConfig

EXACT_ROWS = 100_000  # up to here a scan of the whole table takes a fraction of a second
SPAN = re.compile(r"(?P<path>.+)@(?P<start>[\d:.]+)-(?P<end>[\d:.]+)")
ROW = re.compile(r"row:(\d+)")


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        unit_D: Its unit vector.
        path: Of its recording, as the table names it; empty for a text.
        row: Of the table, if it is one.
        duration: In seconds, if known.
    """

    unit_D: np.ndarray
    path: str
    row: int | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Neighbour:
    """A recording or passage of a result: its similarity to the query, row, path, start and length (s)."""

    similarity: float
    row: int | None
    path: str
    start: float
    duration: float


def find(
    queries: str | Path | Iterable[str | Path],
    library: str | Path | pyarrow.Table,
    count: int = 10,
    exclude_same: str | Sequence[str] = (),
    passages: bool = False,
    path: bool = False,
    layer: str | None = None,
    standardise: bool = False,
    encoder: str | Path | None = None,
    metadata: str | Path | None = None,
    text: str | None = None,
) -> pyarrow.Table:
    """Return the nearest recordings as a table: similarity, row, path, start, duration.

    Args:
        queries: Recordings, spans of them (`song.mp3@1:00-1:30`) or rows (`row:17`); may be empty with a text.
        library: A table of `carrara embed` or of the function `embed`, or an index of `carrara index`.
        count: How many.
        exclude_same: Fields, such as "artist" or "folder", that a result may not share with a query.
        passages: Whether each row of the table counts; otherwise only the nearest of each recording.
        path: Walk from the first of two queries to the second, in `count` recordings with both of them.
        layer: Which one, where the table has several.
        standardise: Scale each dimension to mean 0 and standard deviation 1 over the table first.
        encoder: Name or folder of the encoder that made the table, where its name in the table is not enough.
        metadata: CSV or Parquet file with a column `path` and the fields; by default the tags of the audio files.
        text: What to look for in words, alone or beside the queries; for a library of the layer "joint".

    Raises:
        UsageError: A query, field or layer does not exist, the encoder is another one, or the library has no vectors
            that a text can be compared with.
        AudioError: A query cannot be decoded.
        StoreError: The library is not a table or index.
    """
    import pyarrow

    if isinstance(library, pyarrow.Table):
        from pyarrow import parquet

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "table.parquet"
            parquet.write_table(library, file)
            options = (count, exclude_same, passages, path, layer, standardise, encoder, metadata, text)
            try:
                return find(queries, file, *options)
            except (StoreError, UsageError) as problem:
                raise type(problem)(str(problem).replace(str(file), "the table")) from None
    if not isinstance(count, Integral) or count < 1:
        raise UsageError(f"count={count!r}: give how many recordings to find, at least 1")
    cure = "; an array or table of samples is written to a file first"
    texts = [str(item) for item in user_paths(queries, "queries", cure)]
    if not isinstance(library, str | Path):
        raise UsageError(
            f"library: give the file of a table, or the pyarrow.Table of carrara.embed, not a {type(library).__name__}"
        )
    rows = open_library(user_path(library, "library"), layer, standardise)
    resolved = resolve_queries(texts, rows, encoder)
    if text is not None:
        if path:
            raise UsageError("--text: a walk leads from one recording to another; leave out --path, or --text")
        resolved.append(Query(encode_text_query(text, rows, encoder), ""))
    fields = SongFields([exclude_same] if isinstance(exclude_same, str) else exclude_same, metadata)
    walk = find_path if path else partial(find_nearest, passages=passages)
    neighbours = walk(resolved, rows, count, fields)
    columns = {name: [getattr(item, name) for item in neighbours] for name in Neighbour.__dataclass_fields__}
    types = (pyarrow.float32(), pyarrow.int64(), pyarrow.string(), pyarrow.float64(), pyarrow.float64())
    return pyarrow.table(columns, schema=pyarrow.schema(list(zip(columns, types))))


def open_library(path: str | Path, layer: str | None = None, standardise: bool = False) -> EmbeddedRows:
    """Return a table or an index.

    Raises:
        StoreError: It is neither.
        UsageError: There is no such layer, or an index is to be standardised that was made without.
    """
    from carrara.features.neighbour_index import INDEX_FILE, NeighbourIndex

    if not (Path(path) / INDEX_FILE).is_file():
        table = EmbeddingTable(path, layer, standardise)
        if len(table.start_R) > EXACT_ROWS:
            warnings.warn(f"{path}: {len(table.start_R):,} rows; `carrara index {path}` finds faster", stacklevel=2)
        return table
    index = NeighbourIndex(path)
    if layer is not None and layer != index.layer:
        raise UsageError(f"--layer {layer}: {path} is an index of layer {index.layer}; index that layer")
    if standardise and index.scaling is None:
        raise UsageError(f"--standardise: {path} was made without; make it with `carrara index --standardise`")
    return index


def resolve_queries(texts: Sequence[str], library: EmbeddedRows, encoder: str | Path | None = None) -> list[Query]:
    """Return the vectors of queries; only what the library does not hold is decoded and embedded.

    Args:
        texts: Recordings, spans of them or rows, as the module describes them.
        library: Whose encoder and scaling are used.
        encoder: Name or folder of its encoder. None means the name that the library states.

    Raises:
        UsageError: There is no such row, a span is empty, or the encoder is another one.
        AudioError: A recording cannot be decoded.
    """
    network: Any = None
    queries = []
    for text in texts:
        span = None if os.path.exists(text) else SPAN.fullmatch(text)
        if match := ROW.fullmatch(text):
            row = int(match[1])
            if row not in library.present_rows():
                raise UsageError(f"{text}: {library.path} has no such row (0 to {len(library.start_R) - 1})")
            rows_N = np.array([row])
        else:
            rows_N = np.zeros(0, int) if span else library.rows_of(text)
            if len(rows_N) and os.path.exists(text):
                from carrara.core.hashing import sha256_of_file

                if library.sha256(int(rows_N[0])) not in ("", sha256_of_file(Path(text))):
                    rows_N = rows_N[:0]  # another recording has that name now
        if len(rows_N):
            queries.append(_rows_query(library, rows_N))
            continue
        if span is None and not os.path.exists(text):
            raise UsageError(f"{text}: no such file, and no recording of {library.path}")
        network = network or load_library_encoder(library, encoder)
        path, vector_D = _embed_query(text, span, network, library)
        queries.append(unit_query(library, vector_D, path))
    return queries


def encode_text_query(text: str, library: EmbeddedRows, encoder: str | Path | None = None) -> np.ndarray:
    """Return the unit vector of a text in a library's space, `[D]`.

    Args:
        text: What to look for.
        library: A table or index of the layer "joint".
        encoder: Name or folder of its encoder. None means the name that the library states.

    Raises:
        UsageError: The library has another layer or is standardised, or its text tower cannot be used.
    """
    from carrara.encoders import REGISTRY, get_card
    from carrara.features.encode import JOINT

    name = library.settings["encoder"]
    if library.layer != JOINT:
        card = get_card(name) if name in REGISTRY.entries else None
        capable = name if card is not None and card.joint_dim else "muq-mulan"
        raise UsageError(
            f"--text: {library.path} holds the layer {library.layer} of {name}, which texts cannot be compared with; "
            f"embed the recordings with `-e {capable} --layer {JOINT}`"
        )
    if library.scaling is not None:
        raise UsageError("--standardise: a text is compared with the embeddings as they are; leave it out")
    return load_library_encoder(library, encoder).encode_text([text])[0].float().cpu().numpy()


def unit_query(library: EmbeddedRows, vector_D: np.ndarray, path: str = "") -> Query:
    """Return an embedding as a query, scaled as the library's are."""
    return Query(library.unit_vectors(np.asarray(vector_D, np.float32)[None])[0], path)


def recording_query(library: EmbeddedRows, path: str) -> Query:
    """Return the query of a recording that the library holds.

    Raises:
        UsageError: It does not hold it.
    """
    rows_N = library.rows_of(path)
    if not len(rows_N):
        raise UsageError(f"{path}: no recording of {library.path}")
    return _rows_query(library, rows_N)


def _rows_query(library: EmbeddedRows, rows_N: np.ndarray) -> Query:
    """Return the query of a recording's rows: their mean, weighted by their length."""
    weights_N = library.duration_R[rows_N]
    vector_D = np.average(library.vectors(rows_N), axis=0, weights=weights_N if weights_N.any() else None)
    end = float((library.start_R[rows_N] + library.duration_R[rows_N]).max())
    row = int(rows_N[0]) if len(rows_N) == 1 else None
    return Query(library.unit_vectors(vector_D[None])[0], library.path_R[int(rows_N[0])].as_py(), row, end)


def find_nearest(
    queries: Sequence[Query], library: EmbeddedRows, count: int, fields: SongFields, passages: bool = False
) -> list[Neighbour]:
    """Return the rows nearest to the mean of queries, without their own recordings.

    Args:
        queries: At least one.
        library: Table or index.
        count: How many.
        fields: What a result may not share with a query.
        passages: Whether each row counts; otherwise only the nearest of each recording.
    """
    unit_D = np.mean([query.unit_D for query in queries], axis=0)
    unit_D = (unit_D / max(float(np.linalg.norm(unit_D)), 1e-12)).astype(np.float32)
    used = {os.path.abspath(query.path) for query in queries if query.path}
    excluded = fields.values(query.path for query in queries if query.path)
    results: list[Neighbour] = []
    for row, similarity in library.nearest(unit_D) if count > 0 else ():
        path = library.path_R[row].as_py()
        if os.path.abspath(path) in used or fields.shares(path, excluded):
            continue
        if not passages:
            used.add(os.path.abspath(path))
        results.append(_neighbour(library, row, similarity))
        if len(results) == count:
            break
    return results


def find_path(queries: Sequence[Query], library: EmbeddedRows, count: int, fields: SongFields) -> list[Neighbour]:
    """Return a walk from one recording to another: the recordings nearest to points on the arc between them.

    Args:
        queries: First and last.
        library: Table or index.
        count: Recordings of the walk, with both ends.
        fields: What neighbours on the walk may not share.

    Raises:
        UsageError: There are not two queries, or fewer than two recordings are wanted.
    """
    if len(queries) != 2 or count < 2:
        raise UsageError("--path: give two recordings, and at least --count 2")
    first, last = queries
    points_SD = points_on_arc(first.unit_D, last.unit_D, count)
    if points_SD is None:
        raise UsageError(f"--path: {first.path} and {last.path} have the same or opposite embeddings")
    used = {os.path.abspath(query.path) for query in queries}
    steps = [Neighbour(1.0, first.row, first.path, 0.0, first.duration or 0.0)]
    for unit_D in points_SD:
        excluded = fields.values([steps[-1].path])
        for row, similarity in library.nearest(unit_D):
            path = library.path_R[row].as_py()
            if os.path.abspath(path) not in used and not fields.shares(path, excluded):
                used.add(os.path.abspath(path))
                steps.append(_neighbour(library, row, similarity))
                break
    return [*steps, Neighbour(1.0, last.row, last.path, 0.0, last.duration or 0.0)]


def points_on_arc(first_D: np.ndarray, last_D: np.ndarray, count: int) -> np.ndarray | None:
    """Return unit vectors at equal angles on the arc between two, without its ends, float32 `[count - 2, D]`.

    None where there is no such arc: the two are the same or opposite.
    """
    first_D, last_D = first_D.astype(np.float64), last_D.astype(np.float64)
    # Exact near 0 and 180 degrees, where the arc cosine of a rounded product is not.
    angle = 2 * float(np.arctan2(np.linalg.norm(first_D - last_D), np.linalg.norm(first_D + last_D)))
    if np.sin(angle) < 1e-6:
        return None
    share_S1 = np.arange(1, count - 1)[:, None] / (count - 1)
    points_SD = np.sin((1 - share_S1) * angle) * first_D + np.sin(share_S1 * angle) * last_D
    return (points_SD / np.linalg.norm(points_SD, axis=1, keepdims=True)).astype(np.float32)


def write_playlist(neighbours: Sequence[Neighbour]) -> str:
    """Return an M3U playlist; passages carry start and stop times, as VLC reads them."""
    lines = ["#EXTM3U"]
    for item in neighbours:
        lines.append(f"#EXTINF:{round(item.duration) or -1},{one_line(Path(item.path).stem)}")
        if item.start:
            lines.append(f"#EXTVLCOPT:start-time={item.start:g}")
            lines.append(f"#EXTVLCOPT:stop-time={item.start + item.duration:g}")
        if is_remote(item.path):
            lines.append(one_line(item.path))
        else:
            path = os.path.abspath(item.path)
            lines.append(path if path == one_line(path) else Path(path).as_uri())  # a name may hold line ends
    return "\n".join(lines) + "\n"


def parse_time(text: str) -> float:
    """Return `90`, `1:30` or `0:01:30` in seconds.

    Raises:
        UsageError: It is no time.
    """
    parts = text.split(":")
    try:
        if len(parts) > 3:
            raise ValueError
        return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        raise UsageError(f"{text}: not a time; write seconds, m:ss or h:mm:ss") from None


def _neighbour(library: EmbeddedRows, row: int, similarity: float) -> Neighbour:
    start, duration = float(library.start_R[row]), float(library.duration_R[row])
    return Neighbour(similarity, row, library.path_R[row].as_py(), start, duration)


def load_library_encoder(library: EmbeddedRows, spec: str | Path | None = None) -> Any:
    """Return the encoder that made a library.

    Args:
        library: The table or index.
        spec: Name or folder of the encoder. None means the name that the library states.

    Raises:
        UsageError: It cannot be loaded, or has other weights or another version.
    """
    from carrara.encoders._hub.load import load, with_settings

    stored = library.settings
    name = str(spec or stored["encoder"])
    try:
        encoder = load(name)
        own = encoder.settings.model_dump(mode="json")
        changes = {key: value for key, value in stored["encoder_settings"].items() if own.get(key) != value}
        encoder = with_settings(encoder, changes, str(library.path))
    except UsageError as problem:
        cure = "" if spec else "; name its folder with --encoder"
        raise UsageError(f"{library.path}: made with the encoder {name}: {problem}{cure}") from None
    cure = "name the encoder that made it with --encoder, or embed the library again"
    require_same_encoder(encoder, name, library, cure)
    return encoder


def require_same_encoder(encoder: Any, name: str, library: EmbeddedRows, cure: str) -> None:
    """Raise an error unless an encoder is the one that made a library.

    Args:
        encoder: The encoder.
        name: What messages call it.
        library: The table or index.
        cure: What to do otherwise.

    Raises:
        UsageError: It has other weights, another version, or other settings.
    """
    stored = library.settings
    differing = encoder.hash_weights() != stored["weights_sha256"]
    if differing or encoder.card.output_version != stored["output_version"]:
        what = "other weights" if differing else "another version"
        raise UsageError(f"{library.path}: made with {what} of {stored['encoder']} than {name} has here; {cure}")
    if encoder.settings.model_dump(mode="json") != stored["encoder_settings"]:
        raise UsageError(
            f"{library.path}: made with other settings of {stored['encoder']} than {name} has here; {cure}"
        )


def clip_config(library: EmbeddedRows, is_span: bool = False) -> EmbedConfig:
    """Return how a recording is embedded so that it compares with a library's rows; spans are embedded whole."""
    from carrara.features.embed_config import EmbedConfig

    keys = ("window_seconds", "hop_seconds") if is_span else ("window_seconds", "hop_seconds", "sample")
    return EmbedConfig(per="clip", layer=library.layer, **{key: library.settings.get(key) for key in keys})


def _embed_query(text: str, span: re.Match[str] | None, encoder: Any, library: EmbeddedRows) -> tuple[str, np.ndarray]:
    """Return path and vector of a recording or span.

    Raises:
        UsageError: The span is empty.
        AudioError: It cannot be decoded.
    """
    import soundfile

    from carrara.audio.decode import load_audio
    from carrara.core.io import draft_folder
    from carrara.features.embed import embed_files

    config = clip_config(library, span is not None)
    with draft_folder() as folder:
        path, file = text, Path(text)
        if span is not None:
            path, start, end = span["path"], parse_time(span["start"]), parse_time(span["end"])
            if end <= start:
                raise UsageError(f"{text}: the span ends before it begins")
            file = folder / "span.wav"
            rate = encoder.card.sample_rate
            soundfile.write(file, load_audio(path, rate, start, end - start), rate, subtype="FLOAT")
        tables = []
        for chunk in embed_files(encoder, [file], config):
            if chunk.problem:
                raise AudioError(chunk.problem.replace(str(file), text))
            if chunk.table is not None:
                tables.append(chunk.table)
    if not tables:
        raise StoreError(f"{text}: has no embedding")
    return path, np.asarray(tables[0]["embedding"][0].as_py(), np.float32)
