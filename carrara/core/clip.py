"""A clip: a segment of one recording with its annotations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Clip:
    """A segment of one recording.

    Attributes:
        id: Identifier, unique within its dataset and the same in every release.
        path: The audio file.
        start: Start of the segment in seconds.
        duration: Its length in seconds; None means to the end of the file.
        split: train, valid or test in the current split scheme; None outside of it.
        group: Song, singer or artist whose clips must all be in one split; None where it is unknown.
        labels: Annotations by label name.
    """

    id: str
    path: Path
    start: float = 0.0
    duration: float | None = None
    split: Split | None = None
    group: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def with_split(self, split: Split | None) -> Clip:
        """Return the same clip in another split."""
        return replace(self, split=split)
