"""Embeds recordings: files and folders in, a table of embeddings out, one row a recording, a window or a frame.

Files are streamed: a recording of hours is decoded, cut into windows, encoded and yielded block by block, so memory
stays flat. A window is the encoder's own (30 s where it has none). The embedding of a recording is the mean of its
windows, weighted by their length. `carrara.features.parquet` writes the table to files and resumes.

Letters: R rows, D dim.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from carrara.audio.decode import VERSIONS, iter_audio, load_audio, read_info
from carrara.audio.files import check_file, list_audio_files
from carrara.audio.windows import split_windows
from carrara.core import __version__
from carrara.core.errors import AudioError, UsageError
from carrara.core.paths import user_paths
from carrara.core.ranged import ranged_file
from carrara.core.settings import parse_settings
from carrara.core.storage import is_remote, local_copy, remote_version
from carrara.encoders._base import Encoder
from carrara.encoders._hub.any_encoder import AnyEncoder, resolve_encoder
from carrara.encoders._text.tower import JointAudio
from carrara.features.embed_config import EmbedConfig
from carrara.features.encode import (
    CNN,
    JOINT,
    EncodePlan,
    Rows,
    Window,
    compute_dtype,
    encode_recordings,
    merge_windows,
)
from carrara.features.windows import WindowGrid, WindowSpec, window_grid
from carrara.nn.device import pick_device

if TYPE_CHECKING:
    import pyarrow

DEFAULT_WINDOW_SECONDS = 30.0
BLOCK_SECONDS = 10.0


@dataclass(frozen=True)
class EmbedChunk:
    """Some rows of a recording, or without a table its end, with the reason if it could not be embedded."""

    path: Path | str
    table: pyarrow.Table | None
    problem: str | None = None


def embed(
    paths: str | Path | Iterable[str | Path],
    encoder: AnyEncoder,
    per: Literal["clip", "window", "frame"] = "clip",
    layer: str | int = "mean",
    window: float | None = None,
    hop: float | None = None,
    sample_rate: int | None = None,
    sample: str | None = None,
    device: str | None = None,
) -> pyarrow.Table:
    """Return a table with the columns path, start, duration (s), layer and embedding (float32, of fixed size).

    Its schema's metadata says how it was made, so `carrara.find` works on it, as a table and in Parquet.

    A file that cannot be decoded is left out with a warning that gives the reason.

    Args:
        paths: Audio files, folders of them and manifests, here or as fsspec addresses (`s3://bucket/music`).
        encoder: An encoder, the name, folder or hub id of one, or a network or function as for `carrara.bench`.
        per: A row is a recording ("clip"), a "window" or a "frame".
        layer: 0 to L, "last", "mean" (of 0 to L), "cnn", "joint" (the space of a text tower), or "all" (a row
            for each).
        window: Length of a window in seconds. None means the encoder's own, or 30 s.
        hop: Seconds from one window to the next. None means a window; for frames a little less, so that windows
            overlap.
        sample_rate: In Hz, that a network or function takes.
        sample: "3x10" encodes only three excerpts of ten seconds, spread evenly over each recording.
        device: Where the encoder runs: auto, cpu, cuda, cuda:1, mps. None means where its weights are, and auto for
            a name, folder or hub id.

    Raises:
        UsageError: No such encoder, layer, window or device, samples instead of files, or frames of an encoder that has
            one vector per window.
        DataError: There is no audio file among the paths.
        AudioError: No file could be decoded.
    """
    import pyarrow

    named = user_paths(paths, "paths", "; an encoder takes samples itself: carrara.load(NAME)(samples)")
    if device is not None or isinstance(encoder, str | Path):
        device = pick_device(device or "auto")
    encoder = resolve_encoder(encoder, device, sample_rate)
    values = {"per": per, "layer": str(layer), "window_seconds": window, "hop_seconds": hop, "sample": sample}
    config = parse_settings(EmbedConfig, values, "embed")
    home = str(next((tensor.device for tensor in encoder.parameters()), device or "cpu"))
    files = list_audio_files(named)
    tables: list[pyarrow.Table] = []
    current: list[pyarrow.Table] = []
    problem = None
    with closing(embed_files(encoder, files, config, home)) as chunks:
        for chunk in chunks:
            if chunk.table is not None:
                current.append(chunk.table)
                continue
            if chunk.problem is None:
                tables += current
            else:
                problem = chunk.problem
                if len(files) > 1:  # of a single file it is the error below
                    warnings.warn(problem, stacklevel=2)
            current = []
    if problem and not tables:
        raise AudioError(problem)
    table = pyarrow.concat_tables([embedding_schema(encoder, config).empty_table(), *tables]).combine_chunks()
    return table.replace_schema_metadata(settings_metadata(embed_settings(encoder, config, home)))


def embed_settings(encoder: Encoder, config: EmbedConfig, device: str) -> dict[str, Any]:
    """Return everything that the numbers depend on."""
    return {
        "encoder": encoder.card.name,
        "weights_sha256": encoder.hash_weights(),
        "output_version": encoder.card.output_version,
        "encoder_settings": encoder.settings.model_dump(mode="json"),
        **config.model_dump(mode="json"),
        "decoders": VERSIONS,
        "compute_dtype": compute_dtype(device),
    }


def settings_metadata(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what the schema of a table says of its settings."""
    provenance = {key: str(settings[key]) for key in ("encoder", "weights_sha256")}
    return provenance | {"carrara": __version__, "settings": json.dumps(settings)}


def layer_names(encoder: Encoder, layer: str) -> list[str]:
    """Return the values of the column "layer" for a choice of layers.

    Raises:
        UsageError: The encoder has no such layer.
    """
    last = encoder.card.num_layers
    if layer == "all":
        return [str(row) for row in range(last + 1)]
    if layer == "last":
        return [str(last)]
    if layer == "mean" or (layer == CNN and encoder.card.cnn_dim) or (layer == JOINT and encoder.card.joint_dim):
        return [layer]
    if layer.isdecimal() and int(layer) <= last:
        return [str(int(layer))]
    extra = (", cnn" if encoder.card.cnn_dim else "") + (", joint" if encoder.card.joint_dim else "")
    raise UsageError(f"--layer {layer}: {encoder.card.name} has the layers 0 to {last}, last, mean, all{extra}")


def embedding_schema(encoder: Encoder, config: EmbedConfig) -> pyarrow.Schema:
    """Return the schema of the table.

    Raises:
        UsageError: The encoder has no such layer, or no frames where a row would be one.
    """
    import pyarrow

    if config.per == "frame" and encoder.card.frame_rate is None:
        name = encoder.card.name
        raise UsageError(
            f"--per frame: {name} has one vector per window; use --per window, or for a MAEST --set tokens=frames"
        )
    dims = {CNN: encoder.card.cnn_dim, JOINT: encoder.card.joint_dim}
    dim = dims.get(layer_names(encoder, config.layer)[0], encoder.card.dim)
    if config.per == "frame" and config.layer == JOINT:
        raise UsageError("--per frame: the layer joint has one vector per window; use --per window")
    return pyarrow.schema(
        {
            "path": pyarrow.string(),
            "start": pyarrow.float64(),
            "duration": pyarrow.float64(),
            "layer": pyarrow.string(),
            "embedding": pyarrow.list_(pyarrow.float32(), dim),
        }
    )


def embed_files(
    encoder: Encoder,
    files: Sequence[Path | str],
    config: EmbedConfig,
    device: str = "cpu",
    batch_size: int | None = None,
    advance: Callable[..., None] = lambda seconds, note="": None,
    opened: Callable[[Path | str], AbstractContextManager[Path]] | None = None,
    threads: int = 2,
    before_batch: Callable[[], None] = lambda: None,
) -> Generator[EmbedChunk, None, None]:
    """Yield the table in chunks, file after file in order; each file ends with a chunk without a table.

    Args:
        encoder, files, config, device, batch_size: As of `carrara.features.parquet.write_embeddings`.
        advance: Called with the seconds of audio of each encoded window, and at the end of a file with how many are
            done.
        opened: Yields each file as a local one while it is decoded, in a thread; an AudioError of it is the file's
            problem. None moves remote files, or with a sample what is needed of them.
        threads: How many files are decoded at once.
        before_batch: Called before each batch of windows is encoded.

    Raises:
        UsageError: The encoder has no such layer or no frames, or the windows do not suit it.
    """
    schema, layers = embedding_schema(encoder, config), layer_names(encoder, config.layer)
    seconds = config.window_seconds or encoder.card.window_seconds or DEFAULT_WINDOW_SECONDS
    pool = "frames" if config.per == "frame" else "mean"
    spec = parse_settings(
        WindowSpec, {"pool": pool, "window_seconds": seconds, "hop_seconds": config.hop_seconds}, "--window and --hop"
    )
    encoder = (JointAudio(encoder) if config.layer == JOINT else encoder).to(device).eval()
    grid = window_grid(encoder, spec)
    opened = opened or partial(_open_audio, in_ranges=config.sample is not None)
    sources = (partial(_file_windows, path, encoder.card.sample_rate, grid, config.sample, opened) for path in files)
    plan = EncodePlan(device, spec.pool, layers == [CNN], batch_size, before_batch)
    with closing(encode_recordings(encoder, sources, plan, threads)) as recordings:
        for index, windows in recordings:
            path = files[index]
            try:
                checked = _finite_windows(windows, path, encoder, advance)
                for start_R, duration_R, rows in _row_blocks(checked, encoder, config.per):
                    if config.layer == "mean":
                        values = [np.mean([rows_RD for name, rows_RD in rows.items() if name != CNN], axis=0)]
                    else:
                        values = [rows["0" if layer == JOINT else layer] for layer in layers]
                    yield EmbedChunk(path, _to_table(str(path), start_R, duration_R, layers, values, schema))
                advance(0, f"{index + 1:,} of {len(files):,} files")
                yield EmbedChunk(path, None)
            except AudioError as problem:
                yield EmbedChunk(path, None, str(problem))


@contextmanager
def _open_audio(path: Path | str, in_ranges: bool) -> Iterator[Path]:
    address = str(path)
    if in_ranges and is_remote(address):
        with ranged_file(address, remote_version(address)) as file:
            if file is not None:
                yield file
                return
    with local_copy(address) as file:
        yield file


def _file_windows(
    path: Path | str,
    rate: int,
    grid: WindowGrid,
    sample: str | None,
    opened: Callable[[Path | str], AbstractContextManager[Path]],
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yield start and samples of a recording's windows, or those of its sample, then its length without samples."""
    check_file(path)
    with opened(path) as file:
        yield from _windows_of(file, rate, grid, sample)


def _windows_of(path: Path, rate: int, grid: WindowGrid, sample: str | None) -> Iterator[tuple[int, np.ndarray | None]]:
    if sample is not None:
        count, seconds = int(sample.partition("x")[0]), float(sample.partition("x")[2])
        info = read_info(path)
        length = info.duration_seconds
        if length is None or not info.exact:  # the header does not say it, so the file is decoded once to count
            length = sum(len(block_T) for block_T in iter_audio(path, rate, BLOCK_SECONDS)) / rate
        if length > count * seconds:
            for index in range(count):
                start = (index + 0.5) / count * length - seconds / 2
                excerpt_T = load_audio(path, rate, start, seconds)
                for offset, window_T in split_windows([excerpt_T], grid.window, grid.hop, grid.min_tail):
                    yield round(start * rate) + offset, window_T
            yield round(length * rate), None
            return
    samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block_T in iter_audio(path, rate, BLOCK_SECONDS):
            samples += len(block_T)
            yield block_T

    yield from split_windows(counted(), grid.window, grid.hop, grid.min_tail)
    yield samples, None


def _finite_windows(
    windows: Iterable[tuple[Window, Rows]], path: Path | str, encoder: Encoder, advance: Callable[[float], None]
) -> Iterator[tuple[Window, Rows]]:
    """Yield a recording's windows.

    Raises:
        AudioError: The recording could not be decoded to its end, or its features are not finite.
    """
    for window, rows in windows:
        if window.problem:
            raise AudioError(window.problem)
        if not all(np.isfinite(rows_RD).all() for rows_RD in rows.values()):
            raise AudioError(f"{path}: its features by {encoder.card.name} are not finite")
        if window.samples_T is not None:
            advance(len(window.samples_T) / encoder.card.sample_rate)
        yield window, rows


def _row_blocks(
    windows: Iterable[tuple[Window, Rows]], encoder: Encoder, per: str
) -> Iterator[tuple[np.ndarray, np.ndarray, Rows]]:
    """Yield blocks of a recording's rows: start and duration of each row in seconds, and the rows by layer."""
    rate, frame_rate = encoder.card.sample_rate, encoder.card.frame_rate
    if per == "frame" and frame_rate is not None:
        for first, rows in merge_windows(windows, encoder, "frames"):
            count = len(next(iter(rows.values())))
            if count:
                yield (first + np.arange(count)) / frame_rate, np.full(count, 1 / frame_rate), rows
        return
    seconds, weights = 0.0, 0
    sums: dict[str, np.ndarray] = {}
    for window, rows in windows:
        if window.samples_T is None:
            seconds = max(seconds, window.start / rate)
        elif per == "window":
            yield np.full(1, window.start / rate), np.full(1, len(window.samples_T) / rate), rows
        else:
            weights += len(window.samples_T)
            for name, rows_RD in rows.items():
                sums[name] = sums.get(name, np.zeros(1)) + len(window.samples_T) * rows_RD.astype(np.float64)
    if weights:
        yield np.zeros(1), np.full(1, seconds), {name: sum_RD / weights for name, sum_RD in sums.items()}


def _to_table(
    path: str,
    start_R: np.ndarray,
    duration_R: np.ndarray,
    layers: list[str],
    values: list[np.ndarray],
    schema: pyarrow.Schema,
) -> pyarrow.Table:
    """Return rows as a table, the layers of a row one after another."""
    import pyarrow

    values_RLD = np.stack(values, axis=1).astype(np.float32)
    rows, count, dim = values_RLD.shape
    columns = [
        pyarrow.repeat(path, rows * count),
        np.repeat(start_R, count),
        np.repeat(duration_R, count),
        layers * rows,
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values_RLD.reshape(-1)), dim),
    ]
    return pyarrow.table(columns, schema=schema)
