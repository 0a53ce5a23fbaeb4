"""Decoding ahead of the model: sources are read in background threads, and come out in order, with flat memory.

A source is a call that gives an iterator. Several are read at once, each into a short queue, so at most
`workers · depth` items wait. Nothing is lost when the reader stops early: the threads notice and end.
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
Items = Generator[tuple[int, T | AudioError | None], None, None]
_PAUSE = 0.1  # seconds after which a thread that waits for room looks whether anyone still reads


class _End:
    """The end of a source, with the error that ended it."""

    def __init__(self, problem: BaseException | None = None) -> None:
        self.problem = problem


def prefetch(sources: Iterable[Source[T]], workers: int, depth: int) -> Items[T]:
    """Yield `(place of the source, item)` in order; after each source's items comes none, or the error that ended it.

    Raises:
        Whatever but an `AudioError` a source raises.
    """
    stop = threading.Event()

    def pump(source: Source[T], line: queue.Queue[Any]) -> None:
        end = _End()
        try:
            for item in source():
                if not _put(line, item, stop):
                    return
        except BaseException as problem:  # handed over whole: the reader raises it again
            end = _End(problem)
            if stop.is_set():
                raise
        _put(line, end, stop)

    remaining = iter(sources)
    lines: deque[queue.Queue[Any]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def start() -> None:
        for source in remaining:
            lines.append(queue.Queue(depth))
            pool.submit(pump, source, lines[-1])
            return

    try:
        for _ in range(workers):
            start()
        place = 0
        while lines:
            while not isinstance(item := lines[0].get(), _End):
                yield place, item
            if item.problem is not None and not isinstance(item.problem, AudioError):
                raise item.problem
            yield place, item.problem
            lines.popleft()
            start()
            place += 1
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _put(line: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            line.put(item, timeout=_PAUSE)
            return True
        except queue.Full:
            continue
    return False
