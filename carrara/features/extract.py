"""Clips in, features of every layer out, each window heard once: decode ahead, batch, encode, pool, store.

What is in the store already is not heard again; what cannot be decoded is named and the rest go on. A store's key is
made of everything that could change its content (style.md 4.4): the encoder with its settings, weights and code number,
decoder and resampler, window, pooling, half precision; an item's key is the content of its file with start and duration.

Letters: B windows of a batch, T samples, L rows of layers, F frames, D width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from carrara.audio.decode import load
from carrara.audio.resample import RESAMPLER
from carrara.audio.window import windows
from carrara.core.clip import Clip
from carrara.core.errors import AudioError
from carrara.core.home import features_home
from carrara.core.identity import identity
from carrara.core.progress import progress
from carrara.core.settings import Settings
from carrara.encoders._base import Encoder
from carrara.features.contents import Contents
from carrara.features.pool import pool
from carrara.features.store import Place, Store, Writer

FORMAT = 1
AHEAD = 32
BATCH_SECONDS = 60.0


class View(Settings):
    """How clips are heard and what is kept: windows (s; none: the whole clip), and each window's mean or all frames."""

    window_seconds: float | None = Field(default=None, gt=0)
    hop_seconds: float | None = Field(default=None, gt=0)
    pool: Literal["mean", "frames"] = "mean"
    cnn: bool = False


@dataclass(frozen=True)
class Features:
    """The features of some clips, on disk.

    Attributes:
        store: the open store.
        rows: each clip's rows (its windows, or its frames) in every layer; empty for a clip that is missing.
        missing: reason by id of each clip that could not be heard.
        frame_rate: frames a second, Hz; none for an encoder that answers once a clip.
        seconds: what decoding (in threads) and encoding took in this call.
    """

    store: Store
    rows: list[slice]
    missing: dict[str, str]
    frame_rate: float | None
    seconds: dict[str, float]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the rows of layers: "0" to "L", and "cnn" where it was asked for."""
        return tuple(self.store.widths)

    def layer(self, name: str) -> np.ndarray:
        """Return one layer, `[rows of all clips in the store, width]`, memory-mapped half precision."""
        return self.store.layer(name)

    def width(self, name: str) -> int:
        """Return the width of a layer."""
        return self.store.widths[name]


def extract(
    encoder: Encoder, clips: Sequence[Clip], view: View, home: Path | None = None, device: str = "cpu", threads: int = 2
) -> Features:
    """Return the features of clips, hearing those that the store does not hold yet.

    Args:
        home: folder of the stores; none: `$CARRARA_HOME/features`.
        threads: of decoding ahead of the model.

    Raises:
        StoreError: the store cannot be written or is being written by another process.
    """
    home = Path(home) if home else features_home()
    store = _open(encoder, view, home)
    contents = Contents(home / "contents.json")
    keys, missing = _keys(clips, contents)
    wanted = {key: clip for key, clip in zip(keys, clips) if key and key not in store.places}
    seconds = {"decode": 0.0, "encode": 0.0}
    if wanted:
        with store.writing() as writer:
            wanted = {key: clip for key, clip in wanted.items() if key not in store.places}
            ears = _Ears(encoder.to(device), view, torch.device(device), seconds)
            broken = _hear(ears, wanted, writer, threads)
        missing |= {clip.id: broken[key] for key, clip in zip(keys, clips) if key in broken}
    nowhere = Place(0, 0)
    places = [store.places.get(key or "", nowhere) for key in keys]
    rows = [slice(place.offset, place.offset + place.rows) for place in places]
    return Features(store, rows, missing, encoder.card.frame_rate, seconds)


def _open(encoder: Encoder, view: View, home: Path) -> Store:
    card = encoder.card
    widths = {str(row): card.width for row in range(card.layers + 1)}
    if view.cnn and card.cnn_width:
        widths["cnn"] = card.cnn_width
    meta = {
        "format": FORMAT,
        "encoder": card.name,
        "weights": card.weights,
        "code": card.code,
        "settings": encoder.settings.model_dump(mode="json"),
        "sample_rate": card.sample_rate,
        "decoders": {name: version(name) for name in ("soundfile", "av")},
        "resampler": RESAMPLER,
        "view": view.model_dump(mode="json"),
        "dtype": "float16",
    }
    plain = "".join(char if char.isalnum() or char in "-_." else "_" for char in card.name)
    return Store(home / plain / identity({**meta, "widths": widths})[:16], widths, meta)


def _keys(clips: Sequence[Clip], contents: Contents) -> tuple[list[str | None], dict[str, str]]:
    keys: list[str | None] = []
    missing = {}
    for clip in clips:
        try:
            content = contents.of(clip.path)
        except OSError as problem:
            missing[clip.id] = f"{clip.path}: {problem.strerror or problem}"
            keys.append(None)
            continue
        keys.append(f"{content}@{clip.start:g}+{'end' if clip.duration is None else f'{clip.duration:g}'}")
    contents.save()
    return keys, missing


@dataclass
class _Ears:
    encoder: Encoder
    view: View
    device: torch.device
    seconds: dict[str, float]

    def decode(self, clip: Clip) -> np.ndarray:
        began = time.perf_counter()
        samples = load(clip.path, self.encoder.card.sample_rate, clip.start, clip.duration)
        self.seconds["decode"] += time.perf_counter() - began
        return samples

    def cut(self, samples: np.ndarray) -> list[np.ndarray]:
        rate = self.encoder.card.sample_rate
        window = self.view.window_seconds and round(self.view.window_seconds * rate)
        hop = self.view.hop_seconds and round(self.view.hop_seconds * rate)
        return [samples[int(low) : int(low) + int(size)] for low, size in windows(len(samples), window, hop)]

    @torch.inference_mode()
    def hear(self, windows: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return the kept features of each window, `[rows, width]` by layer."""
        began = time.perf_counter()
        lengths_B = torch.tensor([len(window) for window in windows])
        samples_BT = torch.zeros(len(windows), int(lengths_B.max()))
        for row, window in zip(samples_BT, windows):
            row[: len(window)] = torch.from_numpy(window)
        samples_BT, lengths_B = samples_BT.to(self.device), lengths_B.to(self.device)
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            layers_BLFD = self.encoder(samples_BT, lengths_B)
            cnn_BFC = self.encoder.cnn(samples_BT, lengths_B) if self._cnn else None
        found = []
        for row, window in enumerate(windows):
            frames = self.encoder.frames(len(window))
            kept_LRD = pool(layers_BLFD[row, :, :frames], self.view.pool).cpu().numpy()
            named = {str(layer): kept_RD for layer, kept_RD in enumerate(kept_LRD)}
            if cnn_BFC is not None:
                named["cnn"] = pool(cnn_BFC[row : row + 1, :frames], self.view.pool)[0].cpu().numpy()
            found.append(named)
        self.seconds["encode"] += time.perf_counter() - began
        return found

    @property
    def _cnn(self) -> bool:
        return self.view.cnn and self.encoder.card.cnn_width is not None


def _hear(ears: _Ears, wanted: Mapping[str, Clip], writer: Writer, threads: int) -> dict[str, str]:
    """Write the features of the wanted clips and return the reason by key of those that cannot be heard."""
    broken: dict[str, str] = {}
    training = ears.encoder.training
    ears.encoder.eval()
    with progress(f"hearing with {ears.encoder.card.name}", len(wanted)) as advance:
        batch: list[tuple[str, list[np.ndarray]]] = []
        for key, samples in _decoded(ears, wanted, threads):
            if isinstance(samples, AudioError):
                broken[key] = str(samples)
                advance()
                continue
            batch.append((key, ears.cut(samples)))
            if _size(batch) >= BATCH_SECONDS * ears.encoder.card.sample_rate:
                _commit(ears, batch, writer)
                advance(len(batch))
                batch = []
        if batch:
            _commit(ears, batch, writer)
            advance(len(batch))
    ears.encoder.train(training)
    return broken


def _decoded(ears: _Ears, wanted: Mapping[str, Clip], threads: int) -> Iterator[tuple[str, np.ndarray | AudioError]]:
    """Yield samples in order of the keys, decoding a bounded number of clips ahead."""
    with ThreadPoolExecutor(threads) as pool_of_threads:
        waiting: list[tuple[str, Future[np.ndarray]]] = []
        for key, clip in wanted.items():
            waiting.append((key, pool_of_threads.submit(ears.decode, clip)))
            if len(waiting) >= AHEAD:
                yield _taken(waiting.pop(0))
        while waiting:
            yield _taken(waiting.pop(0))


def _taken(pair: tuple[str, Future[np.ndarray]]) -> tuple[str, np.ndarray | AudioError]:
    try:
        return pair[0], pair[1].result()
    except AudioError as problem:
        return pair[0], problem


def _size(batch: list[tuple[str, list[np.ndarray]]]) -> int:
    """Return the samples that the windows fill once the shorter are padded to the longest."""
    lengths = [len(window) for _, cut in batch for window in cut]
    return len(lengths) * max(lengths)


def _commit(ears: _Ears, batch: list[tuple[str, list[np.ndarray]]], writer: Writer) -> None:
    """Hear the windows of some clips in batches of bounded size, and write clip by clip."""
    flat = [window for _, cut in batch for window in cut]
    heard: list[dict[str, np.ndarray]] = []
    most = max(1, int(BATCH_SECONDS * ears.encoder.card.sample_rate // max(len(window) for window in flat)))
    for low in range(0, len(flat), most):
        heard += ears.hear(flat[low : low + most])
    place = 0
    for key, cut in batch:
        parts = heard[place : place + len(cut)]
        place += len(cut)
        writer.add(key, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
