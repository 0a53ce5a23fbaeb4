"""Lists and removes files in Carrara's home that can be computed again.

These are each encoder's feature stores, hashes of files, indexes of tar shards, checkpoints of unfinished fine-tuning,
and facts that `carrara show` prints.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.io import remove_unheld, sweep_drafts
from carrara.core.paths import features_home, home
from carrara.core.strict_json import read_json_object
from carrara.features.store import LOG, META

OTHER_FOLDERS = ("index", "shards", "finetune", "explore", "facts")
SHOWN_META = ("window", "hop", "pool", "sample_rate", "weights_sha256")


@dataclass(frozen=True)
class StoreInfo:
    """A feature store on disk: its encoder, its main settings, and its numbers of items and bytes."""

    folder: Path
    encoder: str
    settings: dict[str, Any]
    items: int
    bytes: int


@dataclass(frozen=True)
class CleanReport:
    """What was removed: the bytes freed, and the stores that stay because another process has them open."""

    freed: int
    in_use: tuple[StoreInfo, ...]


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


def remove_stores(stores: list[StoreInfo], others: bool) -> CleanReport:
    """Remove stores, and with `others` the indexes and checkpoints, and drafts that killed processes left.

    What another process has open stays.

    Raises:
        StoreError: Something cannot be removed.
    """
    freed = 0
    in_use = []
    for store in stores:
        if _remove(store.folder):
            freed += store.bytes
        else:
            in_use.append(store)
        with suppress(OSError):  # it has other stores
            store.folder.parent.rmdir()
    if others:
        for entry in [entry for name in OTHER_FOLDERS for entry in (home() / name).glob("*")]:
            size = _size(entry)
            freed += size if _remove(entry) else 0
        freed += sweep_drafts(home(), recursive=True) + sweep_drafts(Path(tempfile.gettempdir()))
    return CleanReport(freed, tuple(in_use))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _remove(path: Path) -> bool:
    try:
        return remove_unheld(path)
    except FileNotFoundError:  # another process removed it
        return True
    except OSError as problem:
        raise StoreError(f"{path}: cannot be removed ({problem.strerror or problem})") from None
