"""Carrara: pre-train, extract, benchmark and show music-audio representations.

    encoder = carrara.load("path/or/name")       a registered name, a folder or a hub id, in evaluation mode
    layers = encoder(samples)                    [batch, samples] → [batch, layers + 1, frames, dim]
    table = carrara.embed(paths, encoder)        a pyarrow.Table with one row per recording
    table = carrara.find("song.mp3", "music.parquet")    the nearest recordings of a table of embeddings
    records = carrara.bench(encoder, tasks=["pebble/key"], results="results")
    folder = carrara.pretrain("mert-v0", corpus=["music"], output="my-mert")
    board = carrara.leaderboard("results")       shown as a table; board.to_frame() is a pandas.DataFrame
    carrara.compare("my-mert", "mfcc", "results")
    carrara.encoders, carrara.tasks, carrara.datasets    what is registered, by name
    carrara.plots.scores(board)

`carrara.Encoder`, `Card`, `Dataset`, `Task` and `Record` are the classes that extensions use. Nothing heavy is imported
until one of these is used.
"""

from __future__ import annotations

import importlib
import sys

from carrara.core import __version__ as __version__

TYPE_CHECKING = False  # not from typing: until this file is read, Ctrl-C gives a traceback, and typing takes long
if TYPE_CHECKING:
    from carrara import plots
    from carrara.bench.leaderboard.from_results import compare, leaderboard
    from carrara.bench.run import bench
    from carrara.core.catalogue import Catalogue
    from carrara.core.record import Record
    from carrara.core.task import Task
    from carrara.data._base import Dataset
    from carrara.encoders._base import Card, Encoder
    from carrara.encoders._hub.load import load
    from carrara.features.embed import embed
    from carrara.features.search import find
    from carrara.pretrain.run import pretrain

    tasks: Catalogue[Task]
    datasets: Catalogue[Dataset]
    encoders: Catalogue[Card]

__all__ = [
    "Card",
    "Dataset",
    "Encoder",
    "Record",
    "Task",
    "bench",
    "compare",
    "datasets",
    "embed",
    "encoders",
    "find",
    "leaderboard",
    "load",
    "plots",
    "pretrain",
    "tasks",
]

_MODULES = {
    "Card": "carrara.encoders._base",
    "Dataset": "carrara.data._base",
    "Encoder": "carrara.encoders._base",
    "Record": "carrara.core.record",
    "Task": "carrara.core.task",
    "compare": "carrara.bench.leaderboard.from_results",
    "embed": "carrara.features.embed",
    "find": "carrara.features.search",
    "leaderboard": "carrara.bench.leaderboard.from_results",
    "load": "carrara.encoders._hub.load",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        attribute: object = getattr(importlib.import_module(_MODULES[name]), name)
        return attribute
    if name in ("bench", "encoders", "plots", "pretrain"):
        return importlib.import_module(f"carrara.{name}")
    if name == "tasks":
        return importlib.import_module("carrara.bench.tasks").CATALOGUE
    if name == "datasets":
        return importlib.import_module("carrara.data").CATALOGUE
    message = f"module 'carrara' has no attribute {name!r}"
    raise AttributeError(message, name=name, obj=sys.modules[__name__])  # with both, a traceback suggests near names


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
