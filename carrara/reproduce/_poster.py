"""What the reproductions of MAEST's poster share: tasks, notes, and crops that fit Pebble's songs of 9.5 s.

The poster trains on styles of Discogs and measures MagnaTagATune [maest-poster] [notes/encoders §1.5]; here networks
train on the tags of Pebble's training songs, and probes predict the tags of others. Below scale base, crops are three
tenths of the poster's, so that the longest still fits into a song.
"""

from __future__ import annotations

from typing import Any

TASKS = ("pebble/tags", "pebble/top-tags", "pebble/genres", "pebble/moods", "pebble/instruments")
CROP_FRACTION = 0.3
FRAMES_PER_SECOND = 62.5
PATCHOUT = {5: 4, 10: 9, 20: 18, 30: 27}

# What all three reproductions have in common.
SHARED: dict[str, Any] = {"column": "MTT", "metric": "average_precision", "tasks": TASKS, "is_supervised": True}
PUBLISHED_NOTE = (
    "The published column is mAP on MagnaTagATune, of averaged weights (swa) where they are printed; only its order "
    "compares. Networks train on Pebble's 50 tags of the songs that their probes train on too; the songs of the test "
    "split are others."
)
CROP_NOTE = "Below scale base, crops last three tenths of the poster's: 1.5, 3, 6 and 9 s for 5, 10, 20 and 30 s."


def short_crops(seconds: int) -> dict[str, Any]:
    """Return the settings of a MAEST over three tenths of 5, 10, 20 or 30 s, with about half of its columns dropped."""
    crop = CROP_FRACTION * seconds
    return {
        "crop_seconds": round(crop, 1),
        "network.frames": int(crop * FRAMES_PER_SECOND),
        "patchout": PATCHOUT[seconds],
    }
