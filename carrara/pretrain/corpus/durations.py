"""Durations of the files of a corpus, read by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from carrara.audio.decode import iter_audio, probe_audio
from carrara.audio.files import check_file
from carrara.core.errors import AudioError
from carrara.core.progress import progress
from carrara.core.storage import is_remote, local_copy

READERS, CHUNK = 8, 4096  # threads, items that are submitted to them at once

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def read_duration(address: str, offset: int | None = None, size: int | None = None, name: str = "") -> float:
    """Return the duration of an audio file in seconds; it is decoded only if its header does not give it.

    Args:
        address, offset, size, name: as in `local_copy`.

    Raises:
        AudioError: it cannot be read, is no audio file, or is truncated.
    """
    if not is_remote(address):
        check_file(address)
    with local_copy(address, offset, size, name) as path:
        header = probe_audio(path)
        if header.duration_seconds is not None:
            return header.duration_seconds
        return sum(len(block_T) for block_T in iter_audio(path, header.sample_rate)) / header.sample_rate


def read_each(function: Callable[[Argument], Result], items: Sequence[Argument], title: str) -> list[Result | str]:
    """Return the function's result for each item, in order, or the message where it raises an AudioError.

    The items are shared by threads.
    """

    def read(item: Argument) -> Result | str:
        try:
            return function(item)
        except AudioError as problem:
            return str(problem)

    results: list[Result | str] = []
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool, progress(title, len(items)) as advance:
        try:
            for begin in range(0, len(items), CHUNK):
                for result in pool.map(read, items[begin : begin + CHUNK]):
                    results.append(result)
                    advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results
