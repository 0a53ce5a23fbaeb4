"""Checks of a weight file before a reader opens it, free of torch: first bytes, length, and what is no weight file."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carrara.core.errors import CarraraError, WeightsError
from carrara.core.strict_json import parse_json

MAX_HEADER_BYTES = 10**8  # safetensors itself refuses a longer header
UTF8_BOM = b"\xef\xbb\xbf"


def read_magic(path: Path) -> bytes:
    """Return the first 512 bytes of a file, after checking that it can be a weight file.

    Raises:
        WeightsError: The file is missing, empty, cut short, a Git LFS pointer, a web page or a text.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as problem:
        raise WeightsError(f"{path}: cannot be read ({problem.strerror})") from None
    if not head:
        raise WeightsError(f"{path}: is empty; fetch it again")
    if is_safetensors(head):
        with wrap_errors(path, "a file of weights"):
            _check_safetensors_length(path)
        return head
    text = head.removeprefix(UTF8_BOM)
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if text.lstrip()[:1] == b"<":
        raise WeightsError(f"{path}: is a web page, not weights; fetch it again, signed in if the site requires it")
    if text[:24].translate(None, b"\r\n\t").decode("ascii", errors="replace").isprintable():
        line = text[:60].decode("utf-8", errors="replace").strip().partition("\n")[0].rstrip()
        raise WeightsError(f"{path}: is text ({line!r}), not safetensors or another format of weights; fetch it again")
    with wrap_errors(path, "a file of weights"):
        if head[:2] == b"PK" and not zipfile.is_zipfile(path):
            size = format_bytes(path.stat().st_size)
            raise WeightsError(f"{path}: is cut short after {size} (its end is missing); fetch it again")
    return head


def is_safetensors(head: bytes) -> bool:
    """Return whether a file with these first bytes is safetensors: the length of the header, then the header.

    Test for this format first: the length's bytes can equal the first bytes of any other format.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def is_pickle(head: bytes) -> bool:
    """Return whether a file with these first bytes is a torch file (zip or legacy) or a plain pickle."""
    return (head[:2] == b"PK" or head[:1] == b"\x80") and not is_safetensors(head)


@contextmanager
def wrap_errors(source: Path | str, kind: str) -> Iterator[None]:
    """Turn any exception that a reader raises on a damaged file into a `WeightsError` of one line.

    Args:
        source: The file's name in the message.
        kind: What the file should be, for example "an ONNX file".

    Raises:
        WeightsError: In place of the exception. A `CarraraError` passes unchanged.
    """
    try:
        yield
    except CarraraError:
        raise
    except Exception as problem:
        line = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise WeightsError(f"{source}: not whole or not {kind} ({line}); fetch it again") from None


def format_bytes(size: int) -> str:
    """Return a number of bytes with a unit: 12 bytes, 1.2 kB, 1.2 MB."""
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _check_safetensors_length(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        expected = 8 + length
        if expected <= size:
            header = parse_json(file.read(length))
            expected += max((entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"), default=0)
    if size < expected:
        raise WeightsError(f"{path}: is cut short, {format_bytes(size)} of {format_bytes(expected)}; fetch it again")
