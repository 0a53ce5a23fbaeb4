"""SHA-256 identities of values and files, equal on every machine."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from carrara.core.progress import progress

PROGRESS_BYTES = 10**8


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and without blanks.

    Raises:
        TypeError: the value holds something that JSON cannot express.
        ValueError: the value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits, with a progress bar for large files.

    Raises:
        OSError: the file cannot be read.
    """
    digest, size = hashlib.sha256(), Path(path).stat().st_size
    bar = progress(f"checking {Path(path).name}", size) if size > PROGRESS_BYTES else nullcontext(lambda amount: None)
    with open(path, "rb") as file, bar as advance:
        while block := file.read(2**20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
