"""Suites: named, versioned lists of tasks. A published list never changes; a changed one gets the next version.

[yuan2023] and [yuan2023thesis] have 14 tasks on eight datasets, here in the order of [notes/benchmark §1.0]. There is
no suite of 18: that number belongs to a later edition, and neither text lists its tasks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A named list of tasks.

    Attributes:
        name, version: its identity.
        summary: its line in `carrara ls suites`.
        tasks: names in the order of tables.
        title: what its scores are called in text.
    """

    name: str
    version: int
    summary: str
    tasks: tuple[str, ...]
    title: str


PEBBLE = Suite(
    "pebble",
    1,
    "Pebble's tasks: composed, rendered and labelled by Carrara itself; its scores are Pebble scores.",
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
PEBBLE_2 = Suite(
    "pebble-2",
    1,
    "Pebble's 26 tasks: the 14 of pebble, and chords, rhythm, structure, melody, music theory and retrieval.",
    (
        *PEBBLE.tasks,
        "pebble/downbeats",
        "pebble/tempo",
        "pebble/meter",
        "pebble/chords",
        "pebble/melody",
        "pebble/structure",
        "pebble/interval",
        "pebble/scale",
        "pebble/chord-quality",
        "pebble/progression",
        "pebble/covers",
        "pebble/composer",
    ),
    "Pebble-2",
)
MARBLE_14 = Suite(
    "marble-14",
    1,
    "The 14 tasks of MARBLE (arXiv 2306.10548), on eight datasets of recordings.",
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
MARBLE_V2 = Suite(
    "marble-v2",
    1,
    "The ten tasks of today's MARBLE tables (MERT-v2, 2026): nine of marble-14, and chords.",
    (
        "magnatagatune/tags",
        "giantsteps/key",
        "gtzan/genre",
        "gtzan/beats",
        "emomusic/emotion",
        "mtg-jamendo/top50",
        "mtg-jamendo/genre",
        "mtg-jamendo/instrument",
        "mtg-jamendo/mood-theme",
        "chords1217/chords",
    ),
    "MARBLE-v2",
)
MARBLE_V2_SETTINGS = Suite(
    "marble-v2-settings",
    1,
    "The ten tasks of marble-v2 with the windows, averaging, pooling and epochs of MARBLE v2's configurations.",
    (
        "magnatagatune/tags-v2",
        "giantsteps/key-v2",
        "gtzan/genre",
        "gtzan/beats-v2",
        "emomusic/emotion-v2",
        "mtg-jamendo/top50-v2",
        "mtg-jamendo/genre-v2",
        "mtg-jamendo/instrument-v2",
        "mtg-jamendo/mood-theme-v2",
        "chords1217/chords-v2",
    ),
    "MARBLE-v2 (settings)",
)
SUITES = {suite.name: suite for suite in (PEBBLE, PEBBLE_2, MARBLE_14, MARBLE_V2, MARBLE_V2_SETTINGS)}
