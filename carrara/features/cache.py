"""Lists and removes files in Carrara's home that can be computed again.

These are each encoder's feature stores, hashes of files, indexes of tar shards and checkpoints of unfinished
fine-tuning.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.io import file_lock
from carrara.core.paths import features_home, home
from carrara.core.strict_json import read_json_object
from carrara.features.store import LOCK, LOG, META

OTHER_FOLDERS = ("index", "shards", "finetune")
SHOWN_META = ("window", "hop", "pool", "sample_rate", "weights_sha256")


@dataclass(frozen=True)
class StoreInfo:
    """A feature store on disk: its encoder, its main settings, and its numbers of items and bytes."""

    folder: Path
    encoder: str
    settings: dict[str, Any]
    items: int
    bytes: int


def list_stores(encoder: str | None = None) -> list[StoreInfo]:
    """Return the feature stores of an encoder; None means of all.

    A store with a damaged `meta.json` is listed under the name of its folder.

    Raises:
        UsageError: No features of the encoder are stored.
    """
    stores = []
    for meta_file in sorted(features_home().glob(f"*/*/{META}")):
        folder = meta_file.parent
        try:
            meta = read_json_object(meta_file)
        except (OSError, ValueError):
            meta = {}
        items = (folder / LOG).read_bytes().count(b"\n") if (folder / LOG).exists() else 0
        settings = {key: meta.get(key) for key in SHOWN_META}
        stores.append(StoreInfo(folder, str(meta.get("encoder", folder.parent.name)), settings, items, _size(folder)))
    names = {store.encoder for store in stores}
    if encoder is not None and encoder not in names:
        hint = did_you_mean(encoder, sorted(names))
        raise UsageError(f"--encoder {encoder}: no features of it are stored.{hint} See `carrara cache size`.")
    return [store for store in stores if encoder is None or store.encoder == encoder]


def other_bytes() -> int:
    """Return the size in bytes of the indexes and checkpoints, which belong to no encoder."""
    return sum(_size(home() / name) for name in OTHER_FOLDERS)


def remove_stores(stores: list[StoreInfo], others: bool) -> int:
    """Remove stores, and with `others` the indexes and checkpoints; return the bytes freed.

    Raises:
        StoreError: A store is being written, or cannot be removed.
    """
    freed = 0
    for store in stores:
        with file_lock(store.folder / LOCK, wait=False):
            freed += _remove(store.folder)
        if not any(store.folder.parent.iterdir()):
            store.folder.parent.rmdir()
    if others:
        freed += sum(_remove(home() / name) for name in OTHER_FOLDERS if (home() / name).is_dir())
    return freed


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _remove(folder: Path) -> int:
    size = _size(folder)
    try:
        shutil.rmtree(folder)
    except OSError as problem:
        raise StoreError(f"{folder}: cannot be removed ({problem.strerror or problem})") from None
    return size
