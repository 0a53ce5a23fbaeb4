"""Progress on standard error: a bar on a terminal, elsewhere a line now and then.

A line comes after a minute, then at each further tenth or after ten minutes at the latest, and at the end if any came
before; short work is silent. `CARRARA_PROGRESS=0` hides both, `CARRARA_PROGRESS=1` shows bars anywhere.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from carrara.core.printable import one_line

T = TypeVar("T")
FIRST_LINE, LAST_LINE = 60.0, 600.0  # seconds until the first line, and between two lines at most
MIN_ADVANCES = 3  # until a line has an ETA: the first one also pays for imports and compilation
ESTIMATE_SECONDS = 600.0  # over which the ETA of a bar averages, so that it is steady


def is_progress_shown() -> bool:
    """Return whether progress is shown, as bars or as lines."""
    return os.environ.get("CARRARA_PROGRESS", "") != "0"


def has_bars() -> bool:
    """Return whether progress is shown as bars."""
    setting = os.environ.get("CARRARA_PROGRESS", "")
    return setting == "1" if setting in {"0", "1"} else sys.stderr.isatty()


@contextmanager
def progress(title: str, total: float | None, of_audio: bool = False) -> Iterator[Callable[..., None]]:
    """Yield `advance(amount=1, note="")`, which counts units done and sets a short note.

    Args:
        title: what is done.
        total: number of units; None where it is unknown.
        of_audio: whether the units are seconds of audio, which are shown as hours and as a multiple of real time.
    """
    if not is_progress_shown() or total == 0:
        yield lambda amount=1, note="": None
    elif has_bars():
        with _bar(title, total, of_audio) as advance:
            yield advance
    else:
        lines = ProgressLines(title, total, of_audio)
        is_over = threading.Event()
        threading.Thread(target=_print_in_time, args=(lines, is_over), daemon=True).start()
        try:
            yield lines.advance
        finally:
            is_over.set()
        lines.finish()


def _print_in_time(lines: ProgressLines, is_over: threading.Event) -> None:
    """Print lines that are due while a unit takes long."""
    while not is_over.wait(FIRST_LINE):
        lines.print_if_due()


class ProgressLines:
    """Progress as lines on standard error, for logs."""

    def __init__(
        self, title: str, total: float | None, of_audio: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the work; `clock` returns seconds."""
        self.title, self.total, self.of_audio, self.clock = title, total, of_audio, clock
        self.done, self.advances, self.note = 0.0, 0, ""
        self.started = self.printed_at = clock()
        self.printed_fraction = -1.0
        self.lock = threading.Lock()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count units, and print a line if it is due."""
        self.done += amount
        self.advances += 1
        self.note = note or self.note
        self.print_if_due()

    def print_if_due(self) -> None:
        """Print a line if there was none for long enough."""
        with self.lock:
            now = self.clock()
            fraction = self.done / self.total if self.total else 0.0
            is_first = self.printed_fraction < 0 and now - self.started >= FIRST_LINE
            is_further = self.printed_fraction >= 0 and now - self.printed_at >= FIRST_LINE
            is_late = now - self.printed_at >= LAST_LINE
            if is_first or (is_further and (is_late or fraction >= self.printed_fraction + 0.1)):
                self._print(now, fraction)

    def finish(self) -> None:
        """Print the last line, if there was any before and it was not the last."""
        with self.lock:
            if 0 <= self.printed_fraction < 1:
                self._print(self.clock(), 1.0)

    def _print(self, now: float, fraction: float) -> None:
        elapsed = now - self.started
        parts = [_amount(self.done, self.total, self.of_audio)]
        if self.total:
            parts[0] += f" ({100 * min(fraction, 1.0):.0f} %)"
        if self.of_audio and elapsed:
            parts.append(f"{self.done / elapsed:,.0f} × real time")
        parts.append(f"after {_duration(elapsed)}")
        if fraction < 1 and self.advances >= MIN_ADVANCES:
            parts.append(f"{_duration(elapsed * (1 - fraction) / fraction)} left")
        print(
            f"{one_line(self.title)}: {', '.join([*parts, *([self.note] if self.note else [])])}",
            file=sys.stderr,
            flush=True,
        )
        self.printed_at, self.printed_fraction = now, fraction


@contextmanager
def _bar(title: str, total: float | None, of_audio: bool) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started = time.monotonic()
    done = 0.0
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=ESTIMATE_SECONDS) as bar:
        task = bar.add_task(escape(one_line(title)), total=total, note="", amount=_amount(0, total, of_audio))

        def advance(amount: float = 1, note: str = "") -> None:
            nonlocal done
            done += amount
            text = _amount(done, total, of_audio)
            if of_audio:
                text += f", {done / max(time.monotonic() - started, 1e-9):,.0f}×"
            bar.update(task, advance=amount, amount=text)
            if note:
                bar.update(task, note=escape(one_line(note)))

        yield advance
        if total is not None:  # what headers promise may differ a little from what was there
            bar.update(task, completed=total)


def _amount(done: float, total: float | None, of_audio: bool) -> str:
    unit, scale = (" h", 3600.0) if of_audio else ("", 1.0)
    form = ",.2f" if of_audio else ",.0f"
    return f"{done / scale:{form}}" + (f" of {total / scale:{form}}" if total is not None else "") + unit


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and advance a bar by one for each."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance()
