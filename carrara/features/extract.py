"""Extracts the features of clips into the store, encoding each window once: decode ahead, batch, encode, pool, write.

Clips that are in the store are not encoded again. Clips that cannot be decoded are reported and the rest go on. A
store's key is made of everything that could change its content: the encoder with its settings, weights and output
version, decoders and resampler, windows, pooling, precision. An item's key is its file's SHA-256, start and duration.

Letters: T samples, R rows, D dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from carrara.audio.corruptions import VERSION as CORRUPTIONS_VERSION
from carrara.audio.corruptions import corrupt
from carrara.audio.decode import VERSIONS, load_audio
from carrara.audio.windows import window_spans
from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import features_home
from carrara.core.progress import progress
from carrara.encoders._base import Encoder
from carrara.features.encode import CNN, EncodePlan, compute_dtype, encode_recordings, merge_windows
from carrara.features.hash_cache import hash_files
from carrara.features.store import FeatureStore, RowRange, StoreWriter
from carrara.features.windows import WindowGrid, WindowSpec, window_grid

FORMAT = 3  # raised whenever the same key would mean other rows


@dataclass(frozen=True)
class Features:
    """The features of some clips, on disk.

    Attributes:
        store: Where they are stored.
        rows: Each clip's rows (its windows or its frames) in every layer; empty for a missing clip.
        missing: Why a clip could not be decoded, by its id.
        frame_rate: Frames a second, in Hz. None for an encoder that has one vector per window.
    """

    store: FeatureStore
    rows: list[slice]
    missing: dict[str, str]
    frame_rate: float | None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers: "0" to "L", and "cnn" where the window spec includes it."""
        return tuple(self.store.dims)

    def layer(self, name: str) -> np.ndarray:
        """Return one layer, `[rows of all clips in the store, dim]`, memory-mapped half precision."""
        return self.store.layer(name)


def extract(
    encoder: Encoder,
    clips: Sequence[Clip],
    spec: WindowSpec,
    home: Path | None = None,
    device: str = "cpu",
    threads: int = 2,
    weights_sha256: str | None = None,
) -> Features:
    """Return the features of clips, encoding those that the store does not hold yet.

    Args:
        encoder: The encoder; it is moved to the device and runs in evaluation mode.
        clips: The clips; those of the same audio share their rows.
        spec: Which windows are encoded and what is stored of each.
        home: Carrara's home. None means `$CARRARA_HOME`.
        device: Where the encoder runs.
        threads: How many threads decode ahead of it.
        weights_sha256: Of the encoder's weights as they are now, if `Encoder.hash_weights` has hashed them already.

    Raises:
        DataError: The encoder's features are not finite; what was written before stays.
        StoreError: The store cannot be written, or is damaged.
    """
    if not encoder.card.cnn_dim:
        spec = spec.model_copy(update={"cnn": False})
    folder = Path(home) / "features" if home else features_home()
    store = _open_store(encoder, spec, folder, device, weights_sha256 or encoder.hash_weights())
    hashes = hash_files((Path(clip.path) for clip in clips), home, threads)
    missing: dict[str, str] = {}
    keys: list[str] = []
    for clip in clips:
        digest = hashes[Path(clip.path)]
        if isinstance(digest, AudioError):
            missing[clip.id] = str(digest)
        start, duration = float(clip.start), clip.duration and float(clip.duration)
        keys.append("" if isinstance(digest, AudioError) else f"{digest}:{start!r}:{duration!r}")
    if any(key and key not in store.items for key in keys):
        with store.writer() as writer:
            new = {key: clip for key, clip in zip(keys, clips) if key and key not in store.items}
            training = encoder.training
            encoder.to(device).eval()
            problems = _extract_missing(encoder, new, spec, device, writer, threads)
            encoder.train(training)
        missing |= {clip.id: problems[key] for key, clip in zip(keys, clips) if key in problems}
    ranges = [store.items.get(key, RowRange(0, 0)) for key in keys]
    rows = [slice(own.offset, own.offset + own.rows) for own in ranges]
    return Features(store, rows, missing, encoder.card.frame_rate)


def _open_store(encoder: Encoder, spec: WindowSpec, folder: Path, device: str, weights_sha256: str) -> FeatureStore:
    card, grid = encoder.card, window_grid(encoder, spec)
    dims = {str(layer): card.dim for layer in range(card.num_layers + 1)}
    if spec.cnn and card.cnn_dim:
        dims[CNN] = card.cnn_dim
    if spec.pool == "mean-std":
        dims = {layer: 2 * dim for layer, dim in dims.items()}
    meta = {
        "format": FORMAT,
        "encoder": card.name,
        "weights_sha256": weights_sha256,
        "output_version": card.output_version,
        "settings": encoder.settings.model_dump(mode="json"),
        "sample_rate": card.sample_rate,
        "decoders": VERSIONS,
        "window": grid.window,
        "hop": grid.hop,
        "min_tail": grid.min_tail,
        "pool": spec.pool,
        **({"corruption": spec.corruption, "corruptions_version": CORRUPTIONS_VERSION} if spec.corruption else {}),
        "compute_dtype": compute_dtype(device),
        "dtype": "float16",
    }
    name = "".join(char if char.isalnum() or char in "-_." else "_" for char in card.name).lstrip(".") or "_"
    return FeatureStore(folder / name / sha256_of_json({**meta, "dims": dims})[:16], dims, meta)


def _extract_missing(
    encoder: Encoder, clips: Mapping[str, Clip], spec: WindowSpec, device: str, writer: StoreWriter, threads: int
) -> dict[str, str]:
    """Write the features of clips by key, and return why some could not be decoded, by key."""
    grid, plan = window_grid(encoder, spec), EncodePlan(device, spec.pool, spec.cnn)
    # Clips of one length follow each other, so that batches need little padding.
    keys = sorted(clips, key=lambda key: -(clips[key].duration or -1.0))
    sources = [partial(decode_windows, clips[key], grid, encoder.card.sample_rate, spec.corruption) for key in keys]
    problems: dict[str, str] = {}
    with (
        progress(f"extracting features with {encoder.card.name}", len(keys)) as advance,
        closing(encode_recordings(encoder, sources, plan, threads)) as recordings,
    ):
        for index, windows in recordings:
            key = keys[index]
            try:
                for _, rows in merge_windows(windows, encoder, spec.pool):
                    if not all(np.isfinite(rows_RD).all() for rows_RD in rows.values()):
                        path, name = clips[key].path, encoder.card.name
                        raise DataError(f"{path}: its features by {name} are not finite")
                    writer.append(rows)
                writer.commit(key)
            except AudioError as problem:
                writer.abandon()
                problems[key] = str(problem)
            advance()
    return problems


def decode_windows(clip: Clip, grid: WindowGrid, rate: int, corruption: str = "") -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first sample and the samples of a clip's windows.

    Raises:
        AudioError: The clip cannot be decoded.
    """
    samples_T = load_audio(clip.path, rate, clip.start, clip.duration)
    if corruption:
        samples_T = corrupt(samples_T, rate, corruption)
    for start, length in window_spans(len(samples_T), grid.window, grid.hop, grid.min_tail):
        yield start, samples_T[start : start + length]
