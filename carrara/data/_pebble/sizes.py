"""The sizes of Pebble: clips per collection and split. Imports nothing heavy."""

from __future__ import annotations

from carrara.core.errors import UsageError, did_you_mean

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"songs": 72, "notes": 132, "voices": 72, "stems": 12, "unlabelled": 6},
    "demo": {"songs": 600, "notes": 660, "voices": 600, "stems": 36, "unlabelled": 80},
    "small": {"songs": 2400, "notes": 2640, "voices": 2400, "stems": 144, "unlabelled": 600},
    "full": {"songs": 12000, "notes": 13200, "voices": 12000, "stems": 720, "unlabelled": 4000},
}
SPLIT_SCHEMES = {
    "songs": ("songs",), "notes": ("notes",), "voices": ("technique", "singer"), "stems": ("stems",),
    "unlabelled": ("unlabelled",),
}  # fmt: skip
# Training on frames costs a hundred times as much as training on clips.
BEATS_EVERY = 5


def clip_counts(size: str) -> dict[str, int]:
    """Return the number of clips of each collection of a size.

    Raises:
        UsageError: there is no such size.
    """
    if size not in SIZES:
        raise UsageError(f"pebble has no size {size!r}.{did_you_mean(size, SIZES)} It comes as {', '.join(SIZES)}.")
    return SIZES[size]


def split_counts(size: str) -> dict[str, dict[str, int]]:
    """Return the number of clips of each split of a size, by split scheme: train, valid and test are 3:1:2.

    Raises:
        UsageError: there is no such size.
    """
    counts: dict[str, dict[str, int]] = {}
    for collection, number in clip_counts(size).items():
        for scheme in SPLIT_SCHEMES[collection]:
            sixth = number // 6
            counts[scheme] = {"train": 3 * sixth, "valid": sixth, "test": 2 * sixth}
    beats = {split: number // BEATS_EVERY for split, number in counts["songs"].items()}
    return counts | {"beats": beats, "unlabelled": {"train": SIZES[size]["unlabelled"], "valid": 0, "test": 0}}
