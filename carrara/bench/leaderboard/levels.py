"""Levels: means over the rows that ask for one kind of knowledge, after the thesis's figure 6.2.

The figure leaves source separation out of the acoustic level and beats out of the score level, since only encoders that
answer frame by frame have those rows. A level of which a row is missing has no mean (benchmark.md 2.4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from carrara.bench.suites import MARBLE_14

FIGURE_6_2: Mapping[str, tuple[str, ...]] = {
    "acoustic": ("nsynth/instrument", "mtg-jamendo/instrument", "vocalset/singer"),
    "score": ("nsynth/pitch",),
    "performance": ("vocalset/technique",),
    "high-level": (
        "giantsteps/key",
        "magnatagatune/tags",
        "mtg-jamendo/top50",
        "mtg-jamendo/genre",
        "mtg-jamendo/mood-theme",
        "gtzan/genre",
        "emomusic/emotion",
    ),
}
LEVELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {MARBLE_14.name: FIGURE_6_2}


def complete(family: str, tasks: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the rows of each level of a family of rows, of those levels whose rows are all among the given ones."""
    return {level: rows for level, rows in LEVELS.get(family, {}).items() if set(rows) <= set(tasks)}
