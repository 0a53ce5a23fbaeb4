"""Reads sources in background threads ahead of the encoder, and yields their items in order, with flat memory.

A source is a call that returns an iterable. Threads read the source whose items are yielded next and those after it, as
far as items may wait, so many short sources are read ahead like one long one. When the reader stops early, the threads
notice and end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from carrara.core.errors import AudioError

T = TypeVar("T")
Source = Callable[[], Iterable[T]]
MAX_SOURCES = 64  # begun at once; those that fail give no items that could fill the room


class _End:
    """The end of a source, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Waiting:
    """Items of a source that wait for the reader, and their weight."""

    def __init__(self) -> None:
        self.items: deque[tuple[Any, float]] = deque()
        self.weight = 0.0


def prefetch(
    sources: Iterable[Source[T]], workers: int, depth: float, weigh: Callable[[Any], float] = lambda item: 1.0
) -> Generator[tuple[int, T | AudioError | None], None, None]:
    """Yield (index of the source, item) in order; each source ends with None, or with the AudioError that ended it.

    Args:
        sources: They are called in threads.
        workers: How many are read at once.
        depth: What may wait of the source that is read next, and again of all after it together.
        weigh: What an item counts; by default 1.

    Raises:
        BaseException: Any other error of a source.
    """
    ahead = _ReadAhead(sources, depth, weigh)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for _ in range(workers):
            pool.submit(ahead.work)
        index = 0
        while (item := ahead.take()) is not None:
            if not isinstance(item[0], _End):
                yield index, item[0]
                continue
            error = item[0].error
            if error is not None and not isinstance(error, AudioError):
                raise error
            yield index, error
            index += 1
    finally:
        ahead.stop()
        pool.shutdown(wait=True, cancel_futures=True)


class _ReadAhead:
    """The sources that were begun, in order from the one that is yielded, and their waiting items."""

    def __init__(self, sources: Iterable[Source[Any]], depth: float, weigh: Callable[[Any], float]) -> None:
        self.remaining, self.depth, self.weigh = iter(sources), depth, weigh
        self.changed = threading.Condition()
        self.begun: deque[_Waiting] = deque()
        self.is_stopped = self.is_exhausted = False

    def work(self) -> None:
        """Read one source after another, in a thread."""
        while (task := self._begin()) is not None:
            source, own = task
            end = _End()
            try:
                for item in source():
                    self._put(own, item, self.weigh(item))
                    if self.is_stopped:
                        return
            except BaseException as error:  # the reader raises it again
                end = _End(error)
                if self.is_stopped:
                    raise
            self._put(own, end, 0.0)

    def _begin(self) -> tuple[Source[Any], _Waiting] | None:
        """Return the next source, as soon as it may be read; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_stopped or self.is_exhausted or len(self.begun) < MAX_SOURCES)
            if self.is_stopped or self.is_exhausted:
                return None
            own = _Waiting()
            try:
                source = next(self.remaining, None)
            except BaseException as error:  # the reader raises it
                own.items.append((_End(error), 0.0))
                self.begun.append(own)
                self.is_exhausted = True
                self.changed.notify_all()
                raise
            if source is None:
                self.is_exhausted = True
                self.changed.notify_all()
                return None
            self.begun.append(own)
            return source, own

    def _put(self, own: _Waiting, item: Any, weight: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.is_stopped or self._has_room(own, weight))
            own.items.append((item, weight))
            own.weight += weight
            self.changed.notify_all()

    def _has_room(self, own: _Waiting, weight: float) -> bool:
        if own is self.begun[0]:
            return not own.items or own.weight + weight <= self.depth
        after = sum(other.weight for other in self.begun) - self.begun[0].weight
        return after == 0 or after + weight <= self.depth

    def take(self) -> tuple[Any, float] | None:
        """Return the next item with its weight, as soon as there is one; None after the last source."""
        with self.changed:
            self.changed.wait_for(lambda: bool(self.begun[0].items) if self.begun else self.is_exhausted)
            if not self.begun:
                return None
            item, weight = self.begun[0].items.popleft()
            self.begun[0].weight -= weight
            if isinstance(item, _End):
                self.begun.popleft()
            self.changed.notify_all()
            return item, weight

    def stop(self) -> None:
        """Let the threads end."""
        with self.changed:
            self.is_stopped = True
            self.changed.notify_all()
