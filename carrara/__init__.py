"""Carrara: pre-train, extract, benchmark and show music-audio representations.

    encoder = carrara.load("path/or/name")       a registered name, a folder or a hub id, in evaluation mode
    layers = encoder(samples)                    [batch, samples] → [batch, layers + 1, frames, dim]
    table = carrara.embed(paths, encoder)        a pyarrow.Table with one row per recording
    records = carrara.bench(encoder, tasks=["pebble/key"], results="results")
    folder = carrara.pretrain("mert-v0", corpus=["music"], output="my-mert")

Nothing heavy is imported until one of these is used. `carrara.bench` and `carrara.pretrain` are packages that can be
called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from carrara.core import __version__ as __version__

if TYPE_CHECKING:
    from carrara.encoders._hub.load import load
    from carrara.features.embed import embed

__all__ = ["bench", "embed", "load", "pretrain"]

_MODULES = {"load": "carrara.encoders._hub.load", "embed": "carrara.features.embed"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in ("bench", "pretrain"):
        return importlib.import_module(f"carrara.{name}")
    raise AttributeError(f"module 'carrara' has no attribute {name!r}")
