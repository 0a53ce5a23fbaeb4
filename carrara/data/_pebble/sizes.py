"""The sizes Pebble comes in, light to import: how many clips each collection has, and what its splits must count."""

from __future__ import annotations

from carrara.core.errors import UsageError, did_you_mean

SIZES: dict[str, dict[str, int]] = {
    "demo": {"songs": 600, "notes": 660, "voices": 600, "stems": 36, "unlabelled": 80},
    "small": {"songs": 2400, "notes": 2640, "voices": 2400, "stems": 144, "unlabelled": 600},
    "full": {"songs": 12000, "notes": 13200, "voices": 12000, "stems": 720, "unlabelled": 4000},
}
SPLITS_OF = {
    "songs": ("songs",), "notes": ("notes",), "voices": ("technique", "singer"), "stems": ("stems",),
    "unlabelled": ("unlabelled",),
}  # fmt: skip
# Answers frame by frame cost some hundred times as much to train on as answers a clip.
BEATS_EVERY = 5


def counts(size: str) -> dict[str, int]:
    """Return how many clips each collection of a size has.

    Raises:
        UsageError: no such size.
    """
    if size not in SIZES:
        raise UsageError(f"pebble has no size {size!r}.{did_you_mean(size, SIZES)} It comes as {', '.join(SIZES)}.")
    return SIZES[size]


def sides(size: str) -> dict[str, dict[str, int]]:
    """Return the clips that each split of a size has on each side: three train to one valid to two test.

    Raises:
        UsageError: no such size.
    """
    found = {}
    for collection, many in counts(size).items():
        for split in SPLITS_OF[collection]:
            sixth = many // 6
            found[split] = {"train": 3 * sixth, "valid": sixth, "test": 2 * sixth}
    fifth = {side: many // BEATS_EVERY for side, many in found["songs"].items()}
    return found | {"beats": fifth, "unlabelled": {"train": SIZES[size]["unlabelled"], "valid": 0, "test": 0}}
