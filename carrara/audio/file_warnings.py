"""Warnings of decoders about a file that decodes with something missing or silenced.

They are Python warnings, unless the file's warnings are collected: Python's own way to collect warnings is of the whole
process, and a service decodes the files of several requests at once, in threads that are not the request's.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_collected: dict[Path, list[str]] = {}
_lock = threading.Lock()


@contextmanager
def collect_warnings(path: Path) -> Iterator[list[str]]:
    """Collect the warnings of a file, each once and without its name, in whatever thread it is decoded.

    Args:
        path: The file, as the decoder gets it; no other caller decodes it meanwhile.
    """
    texts: list[str] = []
    with _lock:
        _collected[path] = texts
    try:
        yield texts
    finally:
        with _lock:
            del _collected[path]


def warn_of_file(path: Path, text: str) -> None:
    """Warn of a file, or add the warning to those that are collected of it."""
    with _lock:
        texts = _collected.get(path)
        if texts is not None:
            if text not in texts:
                texts.append(text)
            return
    warnings.warn(f"{path}: {text}", stacklevel=3)
