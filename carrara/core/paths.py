"""Where things live, and who may move them.

Features, indexes and imported encoders in `$CARRARA_HOME` (default `$XDG_CACHE_HOME/carrara`, else `~/.cache/carrara`),
audio where `$CARRARA_DATA` says (default `~/mir_datasets`, as mirdata's), what the hub gave in the Hugging Face cache.
Nothing is created by asking.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of everything that Carrara can make again."""
    if named := os.environ.get("CARRARA_HOME"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "carrara"


def features_home() -> Path:
    """Return the folder of the feature stores."""
    return home() / "features"


def encoders_home() -> Path:
    """Return the folder that holds one folder an imported encoder."""
    return home() / "encoders"


def data_home() -> Path:
    """Return the folder that holds one folder a dataset."""
    return Path(os.environ.get("CARRARA_DATA", "~/mir_datasets")).expanduser()
