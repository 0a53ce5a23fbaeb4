"""Signals and threads of a training process: Ctrl-C between steps or at once, one thread for small networks."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from carrara.core.interrupts import note_signal, raise_interrupt

# torchrun passes on a Ctrl-C that the terminal has sent to every process already: within a second it is the same one.
SAME_SIGNAL_SECONDS = 1.0
SMALL_PARAMETERS = 5_000_000


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second one, a second later, interrupts at once."""
    event, first = threading.Event(), math.inf

    def handler(number: int, frame: object) -> None:
        nonlocal first
        if time.monotonic() > first + SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt
        first = min(first, time.monotonic())
        note_signal(number)
        event.set()

    with _signal_handler(handler):
        yield event


@contextmanager
def interrupt_at_once(event: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set the event and raise KeyboardInterrupt at once."""

    def handler(number: int, frame: object) -> None:
        event.set()
        raise_interrupt(number)

    with _signal_handler(handler):
        yield


@contextmanager
def _signal_handler(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def one_thread_if_small(parameters: float, device: torch.device) -> Iterator[None]:
    """Train a network of few parameters on one thread of a CPU.

    Its steps are too short to share: two threads gain a third on a quiet machine, and take up to thirty times as long
    on a busy one, waiting for each other.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and parameters < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
