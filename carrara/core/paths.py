"""The folders that Carrara uses, and the environment variables that move them.

Features, indexes and imported encoders: `$CARRARA_HOME` (default `$XDG_CACHE_HOME/carrara`, else `~/.cache/carrara`).
Datasets: `$CARRARA_DATA` (default `~/mir_datasets`, as in mirdata). Hub files: the Hugging Face cache. No function here
creates a folder.
"""

from __future__ import annotations

import os
from pathlib import Path


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
