"""What a command says on standard error: less, more, or also into a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import IO, Any, TextIO, cast

QUIET, LOG_FILE = "CARRARA_QUIET", "CARRARA_LOG_FILE"


class _Tee:
    """A stream that also writes to a file, without the control characters of bars."""

    def __init__(self, stream: TextIO, file: IO[str]) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        if "\x1b" not in text:
            self._file.write(text)
            self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def command_streams() -> Iterator[None]:
    """Send standard error to nowhere with `-q`, and also to the file of `--log-file`, within it.

    Raises:
        UsageError: the file cannot be written.
    """
    from carrara.core.errors import UsageError

    path = os.environ.get(LOG_FILE)
    try:
        file = Path(path).expanduser().open("a", encoding="utf-8") if path else None
    except OSError as problem:
        raise UsageError(f"--log-file {path}: cannot be written ({problem.strerror or problem})") from None
    with file or nullcontext(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        stream: TextIO = nowhere if os.environ.get(QUIET) == "1" else sys.stderr
        with redirect_stderr(cast(TextIO, _Tee(stream, file)) if file else stream):
            yield


def set_verbosity(quiet: bool, verbose: bool, log_file: Path | None) -> None:
    """Apply the options of the program to this process and those that it starts."""
    if quiet:
        os.environ |= {QUIET: "1", "CARRARA_PROGRESS": "0"}
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if log_file is not None:
        os.environ[LOG_FILE] = str(log_file)
