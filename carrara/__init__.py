"""Carrara: pre-train, extract, benchmark and show music-audio representations.

    encoder = carrara.load("path/or/name")       a shelf name, a folder or a hub id, in evaluation mode
    layers = encoder(samples)                    [batch, samples] → [batch, layers + 1, frames, width]
    table = carrara.embed(paths, encoder)        a pyarrow.Table, one row a recording
    records = carrara.bench(encoder, tasks=["pebble/key"], results="results")
    folder = carrara.pretrain("mert-v0", corpus=["music"], output="my-mert")

Nothing heavy is imported until one of these is called: `bench` and `pretrain` are rooms that can be called, `load` and
`embed` are fetched from theirs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrara.encoders._hub.load import load
    from carrara.features.embed import embed

__version__ = "0.1.0"
__all__ = ["bench", "embed", "load", "pretrain"]

_DOORS = {"load": "carrara.encoders._hub.load", "embed": "carrara.features.embed"}
_ROOMS = ("bench", "pretrain")


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(importlib.import_module(_DOORS[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"carrara.{name}")
    raise AttributeError(f"module 'carrara' has no attribute {name!r}")
