"""Suites: named, versioned lists of rows. A published list never changes; a changed one gets the next version.

MARBLE's first paper and the thesis have 14 rows on eight datasets, here in the order of benchmark.md 1.0. There is no
suite of 18: that count belongs to a later edition that grew, and neither the thesis nor the first paper lists its rows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A list of tasks under a name, with its line in `carrara ls` and what its scores are called."""

    name: str
    version: int
    summary: str
    tasks: tuple[str, ...]
    title: str


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
        "pebble/stems",
    ),
    "Pebble",
)
MARBLE_14 = Suite(
    "marble-14",
    1,
    "The 14 rows of MARBLE (arXiv 2306.10548), on eight datasets of recordings.",
    (
        "giantsteps/key",
        "magnatagatune/tags",
        "mtg-jamendo/top50",
        "mtg-jamendo/genre",
        "mtg-jamendo/instrument",
        "mtg-jamendo/mood-theme",
        "gtzan/genre",
        "gtzan/beats",
        "emomusic/emotion",
        "nsynth/pitch",
        "nsynth/instrument",
        "vocalset/singer",
        "vocalset/technique",
        "musdb18/stems",
    ),
    "MARBLE-14",
)
SUITES = {suite.name: suite for suite in (PEBBLE, MARBLE_14)}
