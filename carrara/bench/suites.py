"""Suites: named, versioned lists of rows. A published list never changes; a changed one gets the next version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A list of tasks under a name, with its line in `carrara ls`."""

    name: str
    version: int
    summary: str
    tasks: tuple[str, ...]


PEBBLE = Suite(
    "pebble",
    1,
    "Pebble's rows: composed, rendered and labelled by Carrara itself; its scores are Pebble scores.",
    (
        "pebble/key",
        "pebble/genre",
        "pebble/tags",
        "pebble/top-tags",
        "pebble/genres",
        "pebble/instruments",
        "pebble/moods",
        "pebble/emotion",
        "pebble/beats",
        "pebble/pitch",
        "pebble/instrument",
        "pebble/singer",
        "pebble/technique",
    ),
)
SUITES = {suite.name: suite for suite in (PEBBLE,)}
