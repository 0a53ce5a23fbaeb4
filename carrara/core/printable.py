"""Text that a terminal, Markdown or HTML shows as it is: names from files may hold codes that move or reorder it."""

from __future__ import annotations

import os
import re
import shutil
import sys

# C0, DEL and C1 (with ESC, CSI and OSC), marks of direction, line and paragraph separators, halves of characters.
CODES = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb]|[\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return text with control codes as `\u001b` and the like; line ends and tabs stay.

    In JSON these are the same characters, written otherwise.
    """
    return CODES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    r"""Return text on one line, with control codes as `\u001b` and line ends and tabs as `\n` and `\t`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 task` and `2 tasks`."""
    return f"{number} {noun}" + "s" * (number != 1)


def output_width() -> int | None:
    """Return the width that standard output should fit, in columns; None where lines may have any length."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return None
