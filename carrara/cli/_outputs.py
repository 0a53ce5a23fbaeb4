"""The endings of output files: obeyed, or refused before anything is computed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from carrara.core.errors import UsageError


def check_ending(output: Path, endings: Collection[str]) -> None:
    """Check that a command can write a file of that ending; `-` is standard output, and "" a folder.

    Raises:
        UsageError: it has another ending; the message lists the endings.
    """
    if str(output) == "-" or output.suffix.lower() in endings or ("" in endings and output.is_dir()):
        return
    known = ", ".join(ending or "a folder" for ending in endings)
    raise UsageError(
        f"-o {output}: {output.suffix or 'a name without an ending'} is not written here; give {known} or -"
    )
