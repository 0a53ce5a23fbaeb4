"""Standard output whose reader may be gone (`| head`) or whose disk may be full: an error of its own, and one line."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


class OutputError(OSError):
    """Standard output cannot be written; a class of its own, unlike errors of other files."""


class _OutputFile(io.FileIO):
    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as problem:
            raise OutputError(problem.errno, problem.strerror) from None


def watch_stdout() -> None:
    """Make errors of standard output raise OutputError."""
    stdout = sys.stdout
    if os.name == "posix" and isinstance(stdout, io.TextIOWrapper):
        raw = _OutputFile(stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            raw if stdout.write_through else io.BufferedWriter(raw),
            encoding=stdout.encoding,
            errors=stdout.errors,
            line_buffering=stdout.line_buffering,
            write_through=stdout.write_through,
        )


def exit_without_stdout(problem: OutputError) -> NoReturn:
    """Exit as a program that SIGPIPE ends where the reader is gone, else with a line and code 1.

    Raises:
        SystemExit: always.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains while it ends
    if problem.errno == errno.EPIPE:
        raise SystemExit(128 + signal.SIGPIPE) from None
    with suppress(OSError):
        print(f"carrara: standard output cannot be written ({problem.strerror})", file=sys.stderr)
    raise SystemExit(1) from None
