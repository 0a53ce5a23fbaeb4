"""Audio that a protocol reads itself: read ahead in threads, and one error for what cannot be decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from carrara.core.errors import AudioError, DataError
from carrara.features.prefetch import Source, prefetch

T = TypeVar("T")
THREADS = 2


def prefetched(sources: Iterable[Source[T]], depth: int) -> Iterator[tuple[int, T]]:
    """Yield the items of sources in order, each with the index of its source, at most twice `depth` ahead.

    Raises:
        DataError: a file cannot be decoded.
    """
    with closing(prefetch(sources, THREADS, depth)) as items:
        for index, item in items:
            if isinstance(item, AudioError):
                raise undecodable(item)
            if item is not None:
                yield index, item


def undecodable(problem: AudioError) -> DataError:
    """Return the error for audio that cannot be decoded."""
    return DataError(f"{problem}; repair the file, or remove it and measure with --partial")
