"""What every dataset promises: an index of its clips, its splits, its licence, where to get it, and an honest check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import AudioError, UsageError, near
from carrara.core.home import data_home
from carrara.core.settings import Settings


class Leak(Settings):
    """A group (song, singer, artist) that stands on two sides of a split."""

    split: str
    group: str
    sides: tuple[str, ...]


class Check(Settings):
    """What is on disk, compared with what should be.

    Attributes:
        ok: nothing is missing, unreadable, leaking or other than the golden counts.
        found: clips whose sound file is there.
        missing: ids of clips whose sound file is not.
        unreadable: path and reason of files that do not decode.
        counts: clips a split, by split name.
        differing: counts that differ from the golden ones, as lines.
        leaks: groups on two sides of a split.
    """

    ok: bool
    found: int
    missing: tuple[str, ...]
    unreadable: dict[str, str]
    counts: dict[str, dict[str, int]]
    differing: tuple[str, ...]
    leaks: tuple[Leak, ...]


class Dataset(ABC):
    """One dataset in its distributed layout.

    A file of the shelf defines one subclass and an instance of it called `DATASET`.
    """

    name: ClassVar[str]
    license: ClassVar[str]
    commercial_use: ClassVar[bool | None]
    citation: ClassVar[str]
    source: ClassVar[str]
    golden: ClassVar[Mapping[str, Mapping[str, int]]] = {}

    @abstractmethod
    def index(self, root: Path) -> list[Clip]:
        """Return every clip that the annotations define, whether its sound is there or not, in a fixed order.

        Raises:
            DataError: the annotations are not there or not as distributed.
        """

    @abstractmethod
    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return for each named split the side of each clip's id; an id left out belongs to no side."""

    def get(self, root: Path, size: str | None = None) -> None:
        """Put the dataset below `root`, or say exactly how to.

        Raises:
            UsageError: it cannot be downloaded; the message gives the steps.
        """
        raise UsageError(f"{self.name} cannot be downloaded by a program: {self.source}")

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder of this dataset: below `data_dir`, or `data_dir` itself if it is named so."""
        base = Path(data_dir) if data_dir else data_home()
        return base if base.name == self.name else base / self.name

    def clips(self, root: Path, split: str) -> list[Clip]:
        """Return the clips of a named split, each with its side, in the order of the index.

        Raises:
            UsageError: no such split.
            DataError: the annotations are not there or not as distributed.
        """
        splits = self.splits(root)
        if split not in splits:
            raise UsageError(f"{self.name} has no split {split!r}.{near(split, splits)}")
        sides = splits[split]
        return [clip.assigned(sides[clip.id]) for clip in self.index(root) if clip.id in sides]

    def golden_at(self, root: Path) -> Mapping[str, Mapping[str, int]]:
        """Return the counts that a folder should hold; the golden ones unless the dataset comes in sizes."""
        return self.golden

    def check(self, root: Path) -> Check:
        """Compare the disk with the annotations and the golden counts; every file is opened."""
        from carrara.audio.decode import probe

        clips = self.index(root)
        missing = tuple(clip.id for clip in clips if not clip.path.is_file())
        unreadable: dict[str, str] = {}
        for path in sorted({clip.path for clip in clips if clip.path.is_file()}):
            try:
                probe(path)
            except AudioError as problem:
                unreadable[str(path)] = str(problem)
        splits = self.splits(root)
        counts = {name: _count(sides) for name, sides in splits.items()}
        differing = tuple(
            f"{name}/{side}: {counts.get(name, {}).get(side, 0)} clips, should be {golden}"
            for name, sides in self.golden_at(root).items()
            for side, golden in sides.items()
            if counts.get(name, {}).get(side, 0) != golden
        )
        leaks = tuple(leak for name in splits for leak in _leaks(name, self.clips(root, name)))
        return Check(
            ok=not (missing or unreadable or differing or leaks),
            found=len(clips) - len(missing),
            missing=missing,
            unreadable=unreadable,
            counts=counts,
            differing=differing,
            leaks=leaks,
        )


def _count(sides: Mapping[str, Split]) -> dict[str, int]:
    counts = Counter(sides.values())
    return {side: counts[side] for side in SPLITS}


def _leaks(name: str, clips: list[Clip]) -> list[Leak]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group is not None and clip.split is not None:
            found[clip.group].add(clip.split)
    return [
        Leak(split=name, group=group, sides=tuple(sorted(sides)))
        for group, sides in sorted(found.items())
        if len(sides) > 1
    ]
