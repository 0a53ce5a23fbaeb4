"""Text that fits the width of a terminal: paragraphs, columns and tables of settings.

Where no width is given, lines are as long as they are, so that they can be searched and cut.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_TEXT = 100  # a longer line of prose is hard to read
MIN_LAST_COLUMN = 30
# A line of a folder's layout: a file, at least two spaces, what it is.
LAYOUT_LINE = re.compile(r"^(\s*)(\S.*?\s{2,})(\S.*)$")
LIST_ITEM = re.compile(r"^(\s*)(- |\d+\. )")


def reflow(text: str, width: int | None) -> str:
    """Return a docstring with its paragraphs and lists wrapped anew; of indented blocks only notes beside files."""
    if width is None:
        return text
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        items: list[list[str]] = []
        for line in block.splitlines():
            is_item = LIST_ITEM.match(line)
            if not items or is_item or (line.startswith("    ") and not LIST_ITEM.match(items[-1][0])):
                items.append([line])
            else:
                items[-1].append(line.strip())
        blocks.append("\n".join(_wrap_item(lines, width) for lines in items))
    return "\n\n".join(blocks)


def _wrap_item(lines: list[str], width: int) -> str:
    marker = LIST_ITEM.match(lines[0])
    if lines[0].startswith("    ") and not marker:
        return "\n".join(_wrap_layout_line(line, width) for line in lines)
    indent = " " * len(marker.group(0)) if marker else ""
    return wrap(" ".join(lines), min(width, MAX_TEXT), indent)


def _wrap_layout_line(line: str, width: int) -> str:
    """Return a line of a folder's layout with its note wrapped in its column, or beneath where that is narrow."""
    match = LAYOUT_LINE.match(line)
    if len(line) <= width or not match:
        return line
    margin, file, note = match.groups()
    if width - len(margin + file) >= MIN_LAST_COLUMN:
        return wrap(line, width, " " * len(margin + file))
    indent = f"{margin}    "
    return f"{margin}{file.rstrip()}\n{wrap(indent + note, width, indent)}"


def wrap(text: str, width: int | None, indent: str = "") -> str:
    """Return a paragraph whose lines after the first have an indent; no word or number is broken."""
    if width is None:
        return text
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def format_columns(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield rows as aligned columns; the last column is wrapped, or stands beneath where it would be too narrow."""
    if not rows:
        return
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    left = sum(widths) + 2 * len(widths)
    for row in rows:
        head = "  ".join(f"{cell:<{size}}" for cell, size in zip(row, widths))
        if width is None or left + len(row[-1]) <= width:
            yield f"{head}  {row[-1]}".rstrip()
        elif width - left >= MIN_LAST_COLUMN:
            yield wrap(f"{head}  {row[-1]}", width, " " * left)
        else:
            yield head.rstrip()
            if row[-1]:
                yield textwrap.fill(
                    row[-1], width, initial_indent="    ", subsequent_indent="    ", break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip


def settings_rows(settings: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the path, the value and the description of every setting; descriptions are those of the class's text."""
    described = _read_attributes(type(settings))
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if hasattr(type(value), "model_fields"):
            yield from settings_rows(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and any(hasattr(type(each), "model_fields") for each in value.values()):
            for key, each in value.items():
                yield from settings_rows(each, f"{prefix}{name}.{key}.")
        else:
            yield f"{prefix}{name}", format_value(value), described.get(name, "")


def format_value(value: Any) -> str:
    """Return a value as people write it: no brackets, quotes or Python words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        is_nested = any(isinstance(each, Mapping | list | tuple) for each in value)
        return ("; " if is_nested else ", ").join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_attributes(kind: type) -> dict[str, str]:
    """Return the descriptions in the `Attributes:` section of a class's docstring, by name."""
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = textwrap.dedent(f"    {base.__doc__ or ''}").partition("Attributes:\n")
        for entry in re.split(r"\n(?=    ?\s{0,4}\w[\w, ]*: )", f"\n{section}"):
            names, colon, text = entry.strip().partition(": ")
            if colon:
                text = re.sub(r"\bNone\b", "none", " ".join(text.split()))
                described |= dict.fromkeys((name.strip() for name in names.split(",")), text)
    return described
