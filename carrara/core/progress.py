"""Progress bars with an ETA on standard error, shown on a terminal only.

`CARRARA_PROGRESS=0` hides them, `CARRARA_PROGRESS=1` shows them anywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from carrara.core.printable import one_line

T = TypeVar("T")


def is_progress_shown() -> bool:
    """Return whether progress bars are shown."""
    setting = os.environ.get("CARRARA_PROGRESS", "")
    return setting == "1" if setting in {"0", "1"} else sys.stderr.isatty()


@contextmanager
def progress(title: str, total: float | None) -> Iterator[Callable[..., None]]:
    """Yield `advance(amount=1, note="")`, which moves a bar of `total` units and shows a short note beside it."""
    if not is_progress_shown():
        yield lambda amount=1, note="": None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(escape(one_line(title)), total=total, note="")

        def advance(amount: float = 1, note: str = "") -> None:
            bar.update(task, advance=amount)
            if note:
                bar.update(task, note=escape(one_line(note)))

        yield advance


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and advance a bar by one for each."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance()
