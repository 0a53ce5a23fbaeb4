"""The endings of output files: obeyed, or refused before anything is computed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from carrara.core.errors import UsageError


def check_ending(output: Path, endings: Collection[str], has_stdout: bool = True) -> None:
    """Check that a command can write a file of that ending.

    Args:
        output: What the user gave.
        endings: That are written; "" is a folder.
        has_stdout: Whether `-` is standard output.

    Raises:
        UsageError: it has another ending; the message lists the endings.
    """
    if (has_stdout and str(output) == "-") or output.suffix.lower() in endings or ("" in endings and output.is_dir()):
        return
    *known, last = [*(ending or "a folder" for ending in endings), *(["-"] if has_stdout else [])]
    what = "standard output" if str(output) == "-" else output.suffix or "a name without an ending"
    raise UsageError(f"-o {output}: {what} is not written here; give {', '.join(known)} or {last}")
