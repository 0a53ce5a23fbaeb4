"""What the studies of MAEST's poster share: rows, words, and how long a crop is where songs last 9.5 s.

Alonso-Jiménez, Serra, Bogdanov 2023 (poster; figures in encoders.md, section 1.5). The poster trains on styles of
Discogs and asks MagnaTagATune; here networks learn Pebble's tags from its songs for training, and probes tell the tags
of others. Below base, crops are three tenths of the poster's, so that the longest still fits into a song.
"""

from __future__ import annotations

from typing import Any

ROWS = ("pebble/tags", "pebble/top-tags", "pebble/genres", "pebble/moods", "pebble/instruments")
SHARE = 0.3
FRAMES_PER_SECOND = 62.5
COLUMNS_OUT = {5: 4, 10: 9, 20: 18, 30: 27}

# What the three studies say of themselves alike.
ALIKE: dict[str, Any] = {"column": "MTT", "metric": "average_precision", "rows": ROWS, "labelled": True}
PUBLISHED = (
    "The published column is mAP on MagnaTagATune, of averaged weights (swa) where they are printed; only its order "
    "compares. Networks learn Pebble's 50 tags from the very songs that their probes learn from; the songs of the test "
    "side are others."
)
SHRUNK = "Below scale base, crops last three tenths of the poster's: 1.5, 3, 6 and 9 s for 5, 10, 20 and 30 s."


def shorter(seconds: int) -> dict[str, Any]:
    """Return the settings of a MAEST over three tenths of 5, 10, 20 or 30 s, about half of its columns left out."""
    crop = SHARE * seconds
    return {
        "crop_seconds": round(crop, 1),
        "network.frames": int(crop * FRAMES_PER_SECOND),
        "patchout": COLUMNS_OUT[seconds],
    }
