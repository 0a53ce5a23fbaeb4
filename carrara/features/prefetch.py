"""Reads sources in background threads ahead of the encoder, and yields their items in order, with flat memory.

A source is a call that returns an iterable. Several are read at once, each into a short queue, so at most
`workers · depth` items wait. When the reader stops early, the threads notice and end.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from carrara.core.errors import AudioError

T = TypeVar("T")
Source = Callable[[], Iterable[T]]
_POLL_SECONDS = 0.1  # a thread that waits for room in its queue checks this often whether the reader has stopped


class _End:
    """The end of a source, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(
    sources: Iterable[Source[T]], workers: int, depth: int
) -> Generator[tuple[int, T | AudioError | None], None, None]:
    """Yield (index of the source, item) in order; each source ends with None, or with the AudioError that ended it.

    Raises:
        BaseException: Any other error of a source.
    """
    stop = threading.Event()

    def put(items: queue.Queue[Any], item: Any) -> None:
        while not stop.is_set():
            try:
                items.put(item, timeout=_POLL_SECONDS)
                break
            except queue.Full:
                continue

    def read(source: Source[T], items: queue.Queue[Any]) -> None:
        end = _End()
        try:
            for item in source():
                put(items, item)
                if stop.is_set():
                    return
        except BaseException as error:  # the reader raises it again
            end = _End(error)
            if stop.is_set():
                raise
        put(items, end)

    remaining = iter(sources)
    queues: deque[queue.Queue[Any]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def start_next() -> None:
        for source in remaining:
            queues.append(queue.Queue(depth))
            pool.submit(read, source, queues[-1])
            return

    try:
        for _ in range(workers):
            start_next()
        index = 0
        while queues:
            while not isinstance(item := queues[0].get(), _End):
                yield index, item
            if item.error is not None and not isinstance(item.error, AudioError):
                raise item.error
            yield index, item.error
            queues.popleft()
            start_next()
            index += 1
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
