"""Anyone's recordings to a table of embeddings: files and folders in, one row a recording, a window or a frame out.

Files are streamed: a recording of hours is decoded, cut into windows, encoded and given away piece by piece, so memory
stays flat. A window is the encoder's own (30 s where it has none); a row of a recording is the mean of its windows by
their length. Nothing is kept here but the table; `carrara.features.parquet` writes it to a file that resumes.

Letters: R rows, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from carrara.audio.decode import blocks
from carrara.audio.find import sound_files
from carrara.audio.window import Parts, cut, stitched
from carrara.core.errors import AudioError, UsageError
from carrara.core.settings import Settings, parse_settings
from carrara.encoders._base import Encoder
from carrara.features.encode import CNN, EncodePlan, Rows, Window, encode_windows
from carrara.features.extract import PREFETCH_DEPTH, as_windows
from carrara.features.pool import Pool
from carrara.features.prefetch import prefetch
from carrara.features.windows import WindowGrid, WindowSpec, window_grid

if TYPE_CHECKING:
    import pyarrow

Per = Literal["clip", "window", "frame"]
DEFAULT_WINDOW_SECONDS = 30.0
BLOCK_SECONDS = 10.0
THREADS = 2  # that decode ahead of the encoder


class EmbedConfig(Settings):
    """What a row of the table is.

    Attributes:
        per: a row is a recording, a window or a frame.
        layer: "0" to "L"; "last"; "mean", the mean of 0 to L; "cnn"; or "all", a row for each of 0 to L.
        window_seconds: length of a window; none: the encoder's own, or 30 s.
        hop_seconds: from one window to the next; none: a window, or for frames a little less.
    """

    per: Per = "clip"
    layer: str = "mean"
    window_seconds: float | None = None
    hop_seconds: float | None = None


@dataclass(frozen=True)
class EmbedChunk:
    """Some rows of one recording; none at its end, with the reason if it could not be heard whole."""

    path: Path
    table: pyarrow.Table | None
    problem: str | None = None


def embed(
    paths: str | Path | Iterable[str | Path],
    encoder: Encoder | str | Path,
    per: Per = "clip",
    layer: str | int = "mean",
    window: float | None = None,
    hop: float | None = None,
) -> pyarrow.Table:
    """Return a table with the columns path, start, duration (s), layer and embedding (float32, of fixed size).

    A file that cannot be heard is left out with a warning that names the reason.

    Args:
        paths: sound files and folders of them.
        encoder: an encoder, or the name, folder or hub id of one; it runs where its weights are.
        per: a row is a recording ("clip"), a "window" or a "frame".
        layer: 0 to L, "last", "mean" (of 0 to L), "cnn", or "all" (a row for each).
        window: length of a window in seconds; none: the encoder's own, or 30 s.
        hop: seconds from one window to the next; none: a window, or for frames a little less.

    Raises:
        UsageError: no such encoder, layer or window, or frames of an encoder that answers once a clip.
        DataError: no sound file among the paths.
        AudioError: no file could be heard.
    """
    import pyarrow

    if not isinstance(encoder, Encoder):
        from carrara.encoders._hub.load import load

        encoder = load(encoder)
    how = parse_settings(
        EmbedConfig, {"per": per, "layer": str(layer), "window_seconds": window, "hop_seconds": hop}, "embed"
    )
    device = str(next((tensor.device for tensor in encoder.parameters()), "cpu"))
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    tables: list[pyarrow.Table] = []
    problem = None
    held: list[pyarrow.Table] = []
    with closing(embed_files(encoder, sound_files(several), how, device)) as arriving_pieces:
        for piece in arriving_pieces:
            if piece.table is not None:
                held.append(piece.table)
            elif piece.problem is None:
                tables, held = tables + held, []
            else:
                problem, held = piece.problem, []
                warnings.warn(problem, stacklevel=2)
    if problem and not tables:
        raise AudioError(problem)
    return pyarrow.concat_tables([embedding_schema(encoder, how).empty_table(), *tables])


def layer_names(encoder: Encoder, layer: str) -> list[str]:
    """Return the values that the column "layer" takes.

    Raises:
        UsageError: the encoder has no such layer.
    """
    last = encoder.card.num_layers
    if layer == "all":
        return [str(row) for row in range(last + 1)]
    if layer == "last":
        return [str(last)]
    if layer == "mean" or (layer == CNN and encoder.card.cnn_dim):
        return [layer]
    if layer.isdecimal() and int(layer) <= last:
        return [str(int(layer))]
    extra = ", cnn" if encoder.card.cnn_dim else ""
    raise UsageError(f"--layer {layer}: {encoder.card.name} has the layers 0 to {last}, last, mean, all{extra}")


def embedding_schema(encoder: Encoder, how: EmbedConfig) -> pyarrow.Schema:
    """Return the schema of the table.

    Raises:
        UsageError: the encoder has no such layer, or no frames where a row would be one.
    """
    import pyarrow

    if how.per == "frame":
        _frame_rate(encoder)
    width = encoder.card.cnn_dim if layer_names(encoder, how.layer) == [CNN] else encoder.card.dim
    return pyarrow.schema(
        {
            "path": pyarrow.string(),
            "start": pyarrow.float64(),
            "duration": pyarrow.float64(),
            "layer": pyarrow.string(),
            "embedding": pyarrow.list_(pyarrow.float32(), width),
        }
    )


def embed_files(
    encoder: Encoder,
    files: Sequence[Path],
    how: EmbedConfig,
    device: str = "cpu",
    batch: int | None = None,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Generator[EmbedChunk, None, None]:
    """Yield the table piece by piece, file after file in order; each file ends with a piece without rows.

    Args:
        encoder: who hears; it is put on the device, in evaluation mode.
        files: what is heard.
        how: what a row is.
        device: where the encoder runs.
        batch: windows of a batch at most; none: as many as the device takes well.
        advance: told the seconds of sound of each window that is done.

    Raises:
        UsageError: the encoder has no such layer or no frames, or the windows do not suit.
    """
    layers = layer_names(encoder, how.layer)
    pool: Pool = "frames" if how.per == "frame" else "mean"
    window = how.window_seconds or encoder.card.window_seconds or DEFAULT_WINDOW_SECONDS
    view = parse_settings(
        WindowSpec, {"pool": pool, "window_seconds": window, "hop_seconds": how.hop_seconds}, "--window and --hop"
    )
    encoder = encoder.to(device).eval()
    rate, windows, lengths = encoder.card.sample_rate, window_grid(encoder, view), [0] * len(files)
    sources = [partial(_streamed, path, rate, windows, lengths, place) for place, path in enumerate(files)]
    names = embedding_schema(encoder, how)
    with closing(prefetch(sources, THREADS, PREFETCH_DEPTH)) as items:
        heard = encode_windows(encoder, as_windows(items), EncodePlan(device, pool, layers == [CNN], batch))
        for place, group in groupby(heard, key=lambda pair: pair[0].source_index):
            problems: list[str] = []
            sounding = _sounding(group, encoder, files[place], problems, advance)
            for span in SPANS[how.per](sounding, encoder):
                if not problems:
                    seconds = lengths[place] / rate
                    yield EmbedChunk(files[place], _table(files[place], span, how.layer, layers, names, seconds))
            yield EmbedChunk(files[place], None, problems[0] if problems else None)


@dataclass(frozen=True)
class Span:
    """Neighbouring rows: where each begins and how long it is, in seconds, and every layer's `[R, D]`."""

    start_R: np.ndarray
    duration_R: np.ndarray
    rows: Parts


Sounding = Iterator[tuple[Window, Rows]]


def _sounding(
    group: Sounding, encoder: Encoder, path: Path, problems: list[str], advance: Callable[[float], None]
) -> Sounding:
    """Yield a file's windows with their rows up to the first problem, which is noted."""
    for window, rows in group:
        if window.problem:
            problems.append(window.problem)
        elif window.samples_T is not None and not problems:
            if not all(np.isfinite(matrix_RD).all() for matrix_RD in rows.values()):
                problems.append(f"{path}: the features that {encoder.card.name} gives of it are not finite")
                continue
            advance(len(window.samples_T) / encoder.card.sample_rate)
            yield window, rows


def _clip(sounding: Sounding, encoder: Encoder) -> Iterator[Span]:
    total = 0
    sums: dict[str, np.ndarray] = {}
    for window, rows in sounding:
        weight = len(window.samples_T) if window.samples_T is not None else 0
        total += weight
        for name, matrix_RD in rows.items():
            sums[name] = sums.get(name, np.zeros(1)) + weight * matrix_RD.astype(np.float64)
    if total:
        yield Span(np.zeros(1), np.full(1, np.nan), {name: sum_RD / total for name, sum_RD in sums.items()})


def _window(sounding: Sounding, encoder: Encoder) -> Iterator[Span]:
    rate = encoder.card.sample_rate
    for window, rows in sounding:
        if window.samples_T is not None:
            yield Span(np.full(1, window.start / rate), np.full(1, len(window.samples_T) / rate), rows)


def _frame(sounding: Sounding, encoder: Encoder) -> Iterator[Span]:
    frame_rate, rate = _frame_rate(encoder), encoder.card.sample_rate
    for first, rows in stitched((round(window.start * frame_rate / rate), rows) for window, rows in sounding):
        count = len(next(iter(rows.values())))
        if count:
            yield Span((first + np.arange(count)) / frame_rate, np.full(count, 1 / frame_rate), rows)


def _frame_rate(encoder: Encoder) -> float:
    if encoder.card.frame_rate is None:
        name = encoder.card.name
        raise UsageError(
            f"--per frame: {name} answers once a clip; take --per window, or for a MAEST --set tokens=frames"
        )
    return encoder.card.frame_rate


SPANS: dict[Per, Callable[[Sounding, Encoder], Iterator[Span]]] = {"clip": _clip, "window": _window, "frame": _frame}


def _table(
    path: Path, span: Span, choice: str, layers: list[str], names: pyarrow.Schema, seconds: float
) -> pyarrow.Table:
    """Return a span as rows of the table, a row's layers one after another; a whole recording lasts `seconds`."""
    import pyarrow

    numbered = [matrix_RD for name, matrix_RD in span.rows.items() if name != CNN]
    chosen = [np.mean(numbered, axis=0)] if choice == "mean" else [span.rows[layer] for layer in layers]
    values_RLD = np.stack(chosen, axis=1).astype(np.float32)
    rows, count, width = values_RLD.shape
    duration_R = np.where(np.isnan(span.duration_R), seconds, span.duration_R)
    columns = [
        pyarrow.repeat(str(path), rows * count),
        np.repeat(span.start_R, count),
        np.repeat(duration_R, count),
        layers * rows,
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values_RLD.reshape(-1)), width),
    ]
    return pyarrow.table(columns, schema=names)


def _streamed(path: Path, rate: int, windows: WindowGrid, lengths: list[int], place: int) -> Iterator[tuple[int, np.ndarray]]:
    def counted() -> Iterator[np.ndarray]:
        for block_T in blocks(path, rate, BLOCK_SECONDS):
            lengths[place] += len(block_T)
            yield block_T

    yield from cut(counted(), windows.window, windows.hop, windows.min_tail)
