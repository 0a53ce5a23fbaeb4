"""The folders that Carrara uses, and the environment variables that move them.

Features, indexes and imported encoders: `$CARRARA_HOME` (default `$XDG_CACHE_HOME/carrara`, else `~/.cache/carrara`).
Datasets: `$CARRARA_DATA` (default `~/mir_datasets`, as in mirdata). Hub files: the Hugging Face cache. No function here
creates a folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError


def home() -> Path:
    """Return the folder of everything that Carrara can create again."""
    if configured := os.environ.get("CARRARA_HOME"):
        return Path(configured).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "carrara"


def features_home() -> Path:
    """Return the folder of the feature stores."""
    return home() / "features"


def encoders_home() -> Path:
    """Return the folder with one subfolder for each imported encoder."""
    return home() / "encoders"


def data_home() -> Path:
    """Return the folder with one subfolder for each dataset."""
    return Path(os.environ.get("CARRARA_DATA", "~/mir_datasets")).expanduser()


def user_path(path: Any, option: str) -> Path:
    """Return a path as a caller from Python gave it, with `~` as the home folder, which no shell has replaced there.

    Raises:
        UsageError: it is neither text nor a path; the message names the option.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{option}: give a path, not {_describe(path)}")
    return Path(os.path.expanduser(path))


def user_paths(paths: Any, option: str, cure: str = "") -> list[str | Path]:
    """Return one or more paths or addresses as a list, with `~` as the home folder; `cure` ends the message otherwise.

    Raises:
        UsageError: they are neither texts nor paths; the message names the option.
    """
    # Whoever iterates over a table or a dictionary gets the names of its columns.
    is_list = isinstance(paths, Iterable) and not isinstance(paths, str) and not hasattr(paths, "keys")
    items = list(paths) if is_list else [paths]
    if not all(isinstance(item, str | Path) for item in items):
        raise UsageError(f"{option}: give a path or a list of paths, not {_describe(paths)}{cure}")
    return [type(item)(os.path.expanduser(item)) for item in items]


def _describe(value: Any) -> str:
    return "None" if value is None else f"a value of the type {type(value).__name__}"
