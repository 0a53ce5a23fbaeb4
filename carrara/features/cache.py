"""What the home holds that can be made again: the stores of each encoder, and what belongs to none.

The latter are the index of files' contents, the indexes of tar shards, and fine-tunings that were stopped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.paths import features_home, home
from carrara.features.store import LOCK, LOG, META, held

REST = ("index", "shards", "finetune")


@dataclass(frozen=True)
class Stored:
    """A store as it stands on disk: whose features, under which view, how many items and bytes."""

    folder: Path
    encoder: str
    view: dict[str, Any]
    items: int
    bytes: int


def stores() -> list[Stored]:
    """Return every feature store of the home; one whose `meta.json` cannot be read is named by its folder."""
    found = []
    for meta in sorted(features_home().glob(f"*/*/{META}")):
        folder = meta.parent
        try:
            told = json.loads(meta.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        log = folder / LOG
        items = log.read_bytes().count(b"\n") if log.exists() else 0
        view = {key: told.get(key) for key in ("window", "hop", "pool", "sample_rate", "weights")}
        found.append(Stored(folder, told.get("encoder", folder.parent.name), view, items, size_of(folder)))
    return found


def rest() -> list[Path]:
    """Return the folders of what belongs to no encoder, as far as they are there."""
    return [home() / name for name in REST if (home() / name).is_dir()]


def size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def chosen(encoder: str | None) -> list[Stored]:
    """Return the stores of an encoder, or all.

    Raises:
        UsageError: there are none of that name.
    """
    found = stores()
    kept = [store for store in found if encoder is None or store.encoder == encoder]
    if encoder is not None and not kept:
        names = sorted({store.encoder for store in found})
        raise UsageError(
            f"--encoder {encoder}: no features of it are stored.{did_you_mean(encoder, names)} See `carrara cache size`."
        )
    return kept


def clean(doomed: list[Stored], with_rest: bool) -> int:
    """Remove stores, and what belongs to no encoder too if wanted; return the bytes freed.

    Raises:
        StoreError: a store is being written, or cannot be removed.
    """
    freed = 0
    for store in doomed:
        with held(store.folder / LOCK):
            freed += _removed(store.folder)
        if not any(store.folder.parent.iterdir()):
            store.folder.parent.rmdir()
    if with_rest:
        freed += sum(_removed(folder) for folder in rest())
    return freed


def _removed(folder: Path) -> int:
    size = size_of(folder)
    try:
        shutil.rmtree(folder)
    except OSError as problem:
        raise StoreError(f"{folder}: cannot be removed ({problem.strerror or problem})") from None
    return size
