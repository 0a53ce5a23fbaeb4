"""The sizes of Pebble: clips per collection and split. Imports nothing heavy."""

from __future__ import annotations

from collections import Counter

from carrara.core.clip import SPLITS, Split
from carrara.core.errors import UsageError, did_you_mean

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "songs": 72, "notes": 132, "voices": 120, "stems": 12, "unlabelled": 6,
        "theory": 180, "pieces": 30, "covers": 24, "forms": 12,
    },
    "demo": {
        "songs": 600, "notes": 660, "voices": 600, "stems": 36, "unlabelled": 80,
        "theory": 1800, "pieces": 60, "covers": 72, "forms": 72,
    },
    "small": {
        "songs": 2400, "notes": 2640, "voices": 2400, "stems": 144, "unlabelled": 600,
        "theory": 2400, "pieces": 480, "covers": 480, "forms": 120,
    },
    "full": {
        "songs": 12000, "notes": 13200, "voices": 12000, "stems": 720, "unlabelled": 4000,
        "theory": 12000, "pieces": 2400, "covers": 2400, "forms": 600,
    },
}  # fmt: skip
# The split scheme `timbre` has the examples of two kinds of theory, by the instrument that plays them.
TIMBRE_KINDS = ("intervals", "qualities")
THEORY = ("intervals", "scales", "qualities", "progressions", "meters")
SPLIT_SCHEMES = {
    "songs": ("songs",), "notes": ("notes",), "voices": ("technique", "singer"), "stems": ("stems",),
    "unlabelled": ("unlabelled",), "theory": (*THEORY, "timbre"), "pieces": ("pieces", "composers"),
    "covers": ("covers",), "forms": ("forms",),
}  # fmt: skip
# Nothing is trained for retrieval, so most clips are for test.
RETRIEVAL_SCHEMES = ("composers", "covers")
SPLIT_CYCLE: tuple[Split, ...] = ("train", "test", "train", "valid", "train", "test")
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


def collection_of(split_scheme: str) -> str:
    """Return the collection that has the clips of a split scheme; `songs` for an unknown one."""
    return next((name for name, schemes in SPLIT_SCHEMES.items() if split_scheme in schemes), "songs")


def split_counts(size: str) -> dict[str, dict[str, int]]:
    """Return the number of clips of each split of a size, by split scheme.

    Train, valid and test are 3:1:2, of retrieval 1:2:3.

    Raises:
        UsageError: there is no such size.
    """
    counts: dict[str, dict[str, int]] = {}
    for collection, number in clip_counts(size).items():
        for scheme in SPLIT_SCHEMES[collection]:
            sixth = number // 6 // (len(THEORY) if collection == "theory" else 1)
            sixth *= len(TIMBRE_KINDS) if scheme == "timbre" else 1
            sixths = (1, 2, 3) if scheme in RETRIEVAL_SCHEMES else (3, 1, 2)
            counts[scheme] = dict(zip(("train", "valid", "test"), (sixth * share for share in sixths)))
    tracked = Counter(SPLIT_CYCLE[number % 6] for number in range(0, SIZES[size]["songs"], BEATS_EVERY))
    beats = {str(split): tracked[split] for split in SPLITS}
    return counts | {"beats": beats, "unlabelled": {"train": SIZES[size]["unlabelled"], "valid": 0, "test": 0}}
