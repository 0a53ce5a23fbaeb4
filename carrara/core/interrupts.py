"""Ctrl-C (SIGINT) and SIGTERM of the command line: a command gets KeyboardInterrupt, and no moment gives a traceback.

Imports and the end of Python are no place for an exception, so before and after a command both end the process at once.
This file imports almost nothing, because until it is read Ctrl-C gives a traceback.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_last = int(signal.SIGINT)


def watch_signals() -> None:
    """Let both signals end the process at once, with a word; not one that is ignored, as by nohup."""
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, exit_at_once)


class InterruptibleCommand:
    """A context in which signals that would end the process at once raise KeyboardInterrupt instead."""

    def __enter__(self) -> None:
        self.numbers = [number for number in SIGNALS if signal.getsignal(number) == exit_at_once]
        for number in self.numbers:
            signal.signal(number, raise_interrupt)

    def __exit__(self, *exception: object) -> None:
        for number in self.numbers:
            signal.signal(number, exit_at_once)


def raise_interrupt(number: int, frame: FrameType | None = None) -> NoReturn:
    """Handle a signal: remember it and raise KeyboardInterrupt.

    Inside of an import the process ends at once: C++ that imports (PyTorch's does) aborts the process on an exception.

    Raises:
        KeyboardInterrupt: elsewhere.
    """
    note_signal(number)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            exit_at_once(number)
        frame = frame.f_back
    raise KeyboardInterrupt


def note_signal(number: int) -> None:
    """Store the signal that stops the process."""
    global _last
    _last = int(number)


def stop_signal() -> int:
    """Return the last signal that was to stop the process; SIGINT if there was none."""
    return _last


def exit_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """Handle a signal: end the process with a word and the exit code of the signal."""
    word = "interrupted" if number == signal.SIGINT else "terminated"
    try:
        os.write(2, f"carrara: {word}\n".encode())
    finally:
        os._exit(128 + number)


def end_with_parent() -> None:
    """Leave Ctrl-C of this process, one of multiprocessing, to its parent, and end it when the parent is gone."""
    import multiprocessing
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait_and_exit() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()
