"""What a study is: which recipes a published table compares, and what its authors conclude from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROWS = ("pebble/key", "pebble/pitch", "pebble/genre", "pebble/emotion", "pebble/instrument", "pebble/beats")


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
        label: its name in the study, and of its models' folders.
        recipe: that makes it; empty for the network of the first line as it is before training.
        published: the system's name in `carrara/bench/board/published.tsv`; empty where the table has none.
        changes: settings to change at any scale, by dotted path.
        after: label of the line whose model a setting needs, and the path of that setting.
    """

    label: str
    recipe: str
    published: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """That one line is above another, as the authors read their table."""

    text: str
    above: str
    below: str


@dataclass(frozen=True)
class Study:
    """A published table: where it is printed, its lines, and what follows from them.

    Attributes:
        title: of the page.
        source: the table's name in published.tsv.
        average: which of its averages is printed: ALL4, ALL9.
        lines, claims: see there.
        rows: of Pebble, asked of every line.
    """

    title: str
    source: str
    average: str
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...]
    rows: tuple[str, ...] = ROWS
