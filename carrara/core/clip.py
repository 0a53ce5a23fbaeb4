"""A clip: a stretch of one recording, with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Clip:
    """A stretch of one recording.

    Attributes:
        id: unique within its dataset, stable for ever.
        path: the sound file.
        start: where the stretch begins, in seconds.
        duration: its length in seconds; none means to the end of the file.
        split: train, valid or test under the split that was asked for; none outside of it.
        group: the song, singer or artist that must not straddle splits; none where nothing is known.
        labels: what the annotators said, by the label's name.
    """

    id: str
    path: Path
    start: float = 0.0
    duration: float | None = None
    split: Split | None = None
    group: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def assigned(self, split: Split | None) -> Clip:
        """Return the same clip in another split."""
        return replace(self, split=split)
