"""Clips in, features of every layer out, each window heard once: decode ahead, batch, encode, pool, store.

What is in the store already is not heard again; what cannot be decoded is named and the rest go on. A store's key is
made of everything that could change its content (style.md 4.4): the encoder with its settings, weights and code number,
decoders and resampler, windows, pooling, precision; an item's key is its file's content with start and duration.

Letters: T samples, R rows, D width.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from carrara.audio.decode import VERSIONS, load
from carrara.audio.deform import VERSION as DEFORMATIONS
from carrara.audio.deform import corrupt
from carrara.audio.window import stitched, windows
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import features_home
from carrara.core.progress import progress
from carrara.encoders._base import Encoder
from carrara.features.encode import CNN, EncodePlan, Rows, Window, encode_windows, compute_dtype
from carrara.features.hash_cache import FileHashCache
from carrara.features.prefetch import Source, prefetch
from carrara.features.store import RowRange, FeatureStore, StoreWriter
from carrara.features.windows import WindowGrid, WindowSpec, window_grid

FORMAT = 2  # raised whenever the same key would hold other rows
PREFETCH_DEPTH = 8


@dataclass(frozen=True)
class Features:
    """The features of some clips, on disk.

    Attributes:
        store: where they are.
        rows: each clip's rows (its windows, or its frames) in every layer; empty for a clip that is missing.
        missing: reason by id of each clip that could not be heard.
        frame_rate: frames a second, Hz; none for an encoder that answers once for a window.
        seconds: what "decode" (all threads together) and "encode" took in this call.
    """

    store: FeatureStore
    rows: list[slice]
    missing: dict[str, str]
    frame_rate: float | None
    seconds: dict[str, float]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers: "0" to "L", and "cnn" where it was asked for."""
        return tuple(self.store.dims)

    def layer(self, name: str) -> np.ndarray:
        """Return one layer, `[rows of all clips in the store, width]`, memory-mapped half precision."""
        return self.store.layer(name)

    def dim(self, name: str) -> int:
        """Return the width of a layer."""
        return self.store.dims[name]


def extract(
    encoder: Encoder,
    clips: Sequence[Clip],
    spec: WindowSpec,
    home: Path | None = None,
    device: str = "cpu",
    threads: int = 2,
) -> Features:
    """Return the features of clips, hearing those that the store does not hold yet.

    Args:
        encoder: who hears; it is put on the device, and hears in evaluation mode.
        clips: what is heard; clips of the same sound share their rows.
        view: how.
        home: folder of everything that can be made again; none: `$CARRARA_HOME`.
        device: where the encoder runs.
        threads: that decode ahead of it.

    Raises:
        DataError: the encoder gives features that are not finite; what was heard before is kept.
        StoreError: the store cannot be written, is damaged, or is being written by another process.
    """
    spec = spec if encoder.card.cnn_dim else spec.model_copy(update={"cnn": False})
    folder = Path(home) / "features" if home else features_home()
    store = _store(encoder, spec, folder, device)
    keys, missing = _keys(clips, home, threads)
    seconds = {"decode": 0.0, "encode": 0.0}
    if any(key is not None and key not in store.items for key in keys):
        with store.writer() as writer:
            wanted = {key: clip for key, clip in zip(keys, clips) if key is not None and key not in store.items}
            training = encoder.training
            encoder.to(device).eval()
            broken = _hear(encoder, wanted, spec, EncodePlan(device, spec.pool, spec.cnn), writer, threads, seconds)
            encoder.train(training)
        missing |= {clip.id: broken[key] for key, clip in zip(keys, clips) if key in broken}
    places = [store.items.get(key or "", RowRange(0, 0)) for key in keys]
    rows = [slice(place.offset, place.offset + place.rows) for place in places]
    return Features(store, rows, missing, encoder.card.frame_rate, seconds)


def weights_identity(encoder: Encoder) -> str:
    """Return the identity of an encoder's weights: as its card says, else the SHA-256 of its tensors."""
    if encoder.card.weights_sha256:
        return encoder.card.weights_sha256
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _store(encoder: Encoder, view: WindowSpec, folder: Path, device: str) -> FeatureStore:
    card, cut = encoder.card, window_grid(encoder, view)
    widths = {str(row): card.dim for row in range(card.num_layers + 1)}
    if view.cnn and card.cnn_dim:
        widths[CNN] = card.cnn_dim
    meta = {
        "format": FORMAT,
        "encoder": card.name,
        "weights": weights_identity(encoder),
        "code": card.output_version,
        "settings": encoder.settings.model_dump(mode="json"),
        "sample_rate": card.sample_rate,
        "decoders": VERSIONS,
        "window": cut.window,
        "hop": cut.hop,
        "least": cut.min_tail,
        "padding": "none",
        "pool": view.pool,
        **({"deform": view.corruption, "deformations": DEFORMATIONS} if view.corruption else {}),
        "computed": compute_dtype(device),
        "dtype": "float16",
    }
    return FeatureStore(folder / folder_name(card.name) / sha256_of_json({**meta, "widths": widths})[:16], widths, meta)


def folder_name(name: str) -> str:
    """Return an encoder's name as the name of a folder."""
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name).lstrip(".") or "_"


def _keys(clips: Sequence[Clip], home: Path | None, threads: int) -> tuple[list[str | None], dict[str, str]]:
    """Return the key of each clip (none where its file cannot be read), and why by id."""
    contents = FileHashCache(home)

    def known(path: Path) -> str | AudioError:
        try:
            return contents.sha256(path)
        except AudioError as problem:
            return problem

    paths = sorted({Path(clip.path) for clip in clips})
    with ThreadPoolExecutor(threads) as workers:
        found = dict(zip(paths, workers.map(known, paths)))
    contents.close()
    keys: list[str | None] = []
    missing: dict[str, str] = {}
    for clip in clips:
        content = found[Path(clip.path)]
        if isinstance(content, AudioError):
            missing[clip.id] = str(content)
            keys.append(None)
        else:
            keys.append(f"{content}:{float(clip.start)!r}:{clip.duration and float(clip.duration)!r}")
    return keys, missing


def _hear(
    encoder: Encoder,
    wanted: Mapping[str, Clip],
    view: WindowSpec,
    plan: EncodePlan,
    writer: StoreWriter,
    threads: int,
    seconds: dict[str, float],
) -> dict[str, str]:
    """Write the features of the wanted clips and return the reason by key of those that cannot be heard."""
    cut = window_grid(encoder, view)
    order = _by_length(wanted)
    sources: list[Source[tuple[int, np.ndarray]]] = [
        partial(_decoded, wanted[key], cut, encoder.card.sample_rate, view.corruption, seconds) for key in order
    ]
    broken: dict[str, str] = {}
    began = time.perf_counter()
    # Closed by name: after an error the threads that decode must end before Python can.
    title = f"hearing with {encoder.card.name}"
    with progress(title, len(order)) as advance, closing(prefetch(sources, threads, PREFETCH_DEPTH)) as items:
        rows = encode_windows(encoder, as_windows(items), plan)
        for place, group in groupby(rows, key=lambda pair: pair[0].source_index):
            problem = _item(encoder, wanted[order[place]].path, group, plan, writer)
            if problem:
                writer.abandon()
                broken[order[place]] = problem
            else:
                writer.commit(order[place])
            advance()
    seconds["encode"] += time.perf_counter() - began
    return broken


def _item(encoder: Encoder, path: Path, group: Iterable[tuple[Window, Rows]], plan: EncodePlan, writer: StoreWriter) -> str | None:
    """Append one recording's rows, and return the reason if it could not be heard."""
    problem: list[str] = []

    def sounding() -> Iterator[tuple[int, Rows]]:
        rate = encoder.card.frame_rate if plan.pool == "frames" else None
        for place, (window, rows) in enumerate(group):
            if window.problem:
                problem.append(window.problem)
            elif rows:
                yield (place if rate is None else round(window.start * rate / encoder.card.sample_rate)), rows

    for _, rows in stitched(sounding()):
        if not all(np.isfinite(matrix_RD).all() for matrix_RD in rows.values()):
            raise DataError(f"{path}: the features that {encoder.card.name} gives of it are not finite")
        if not problem:
            writer.append(rows)
    return problem[0] if problem else None


def as_windows(items: Iterable[tuple[int, Any]]) -> Iterator[Window]:
    """Yield what `ahead` gives of sources of (start, samples) as windows."""
    for place, item in items:
        if item is None or isinstance(item, AudioError):
            yield Window(place, 0, None, None if item is None else str(item))
        else:
            yield Window(place, *item)


def _decoded(
    clip: Clip, cut: WindowGrid, rate: int, deform: str, seconds: dict[str, float]
) -> Iterator[tuple[int, np.ndarray]]:
    began = time.perf_counter()
    samples_T = load(clip.path, rate, clip.start, clip.duration)
    if deform:
        samples_T = corrupt(samples_T, rate, deform)
    seconds["decode"] += time.perf_counter() - began
    for start, length in windows(len(samples_T), cut.window, cut.hop, cut.min_tail):
        yield start, samples_T[start : start + length]


def _by_length(wanted: Mapping[str, Clip]) -> list[str]:
    """Return the keys with clips of one length together, so that batches need little padding."""
    lengths = {key: -1.0 if clip.duration is None else float(clip.duration) for key, clip in wanted.items()}
    return [key for key, _ in sorted(lengths.items(), key=itemgetter(1), reverse=True)]
