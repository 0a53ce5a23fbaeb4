"""What every dataset promises: an index of its clips, its splits, its licence, where to get it, and an honest check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from carrara.core.clip import Clip, Split
from carrara.core.download import Remote, download
from carrara.core.errors import DataError, UsageError, did_you_mean
from carrara.core.paths import data_home

if TYPE_CHECKING:
    from carrara.data._check import DatasetCheck


class Dataset(ABC):
    """One dataset in its distributed layout.

    A file of the shelf defines one subclass and an instance of it called `DATASET`.

    Attributes:
        name: name on the shelf.
        title: what people call it, with the number of its clips where that tells variants apart.
        license: of the sound and of the annotations, as their authors state it.
        commercial_use: whether that licence allows it; none when unknown.
        citation: whom to cite.
        source: where it is distributed.
        remotes: files that a program may download, below the root.
        steps: what a person does by hand to get the rest; empty where `remotes` is all.
        golden: clips a side, by split name.
        known_leaks: by split name, groups that its authors' own split has on two sides, none if nobody counted them;
            0 for splits that are not named.
        seconds: length of every sound file, at least and at most; none where lengths vary freely.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    license: ClassVar[str]
    commercial_use: ClassVar[bool | None]
    citation: ClassVar[str]
    source: ClassVar[str]
    remotes: ClassVar[tuple[Remote, ...]] = ()
    manual_steps: ClassVar[str] = ""
    expected_counts: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    known_leaks: ClassVar[Mapping[str, int | None]] = {}
    seconds: ClassVar[tuple[float, float] | None] = None

    @abstractmethod
    def index(self, root: Path) -> list[Clip]:
        """Return every clip that the annotations define, whether its sound is there or not, in a fixed order.

        Raises:
            DataError: the annotations are not there or not as distributed.
        """

    @abstractmethod
    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return for each named split the side of each clip's id; an id left out belongs to no side."""

    def download(self, root: Path, size: str | None = None) -> str:
        """Download below `root` what may be downloaded, and return the steps that are left for a person.

        What is there whole already is kept, and what was begun goes on. Only datasets that come in sizes look at one.

        Raises:
            DataError: a download failed or is not the file that was pinned.
            StoreError: the folder cannot be written.
        """
        for remote in self.remotes:
            download(remote, Path(root))
        return "" if self._is_complete(Path(root)) else self.manual_steps

    def _is_complete(self, root: Path) -> bool:
        """Return whether every clip that the annotations define is there."""
        try:
            clips = self.index(root)
        except DataError:
            return False
        return bool(clips) and all(path.is_file() for clip in clips for path in self.paths(clip))

    def root(self, data_dir: Path | None = None) -> Path:
        """Return the folder of this dataset: below `data_dir`, or `data_dir` itself if it is named so."""
        base = Path(data_dir) if data_dir else data_home()
        return base if base.name == self.name else base / self.name

    def root_for_size(self, data_dir: Path | None, size: str) -> Path:
        """Return the folder of one of a dataset's sizes.

        Raises:
            UsageError: there is no such size, or the dataset does not come in sizes.
        """
        raise UsageError(f"{self.name} does not come in sizes; leave --size out")

    def paths(self, clip: Clip) -> tuple[Path, ...]:
        """Return all sound files that a clip needs."""
        return (clip.path,)

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the least and the greatest length that a clip's file may have; none: any."""
        return self.seconds

    def clips(self, root: Path, split: str) -> list[Clip]:
        """Return the clips of a named split, each with its side, in the order of the index.

        Raises:
            UsageError: no such split.
            DataError: the annotations are not there or not as distributed.
        """
        splits = self.splits(root)
        if split not in splits:
            raise UsageError(f"{self.name} has no split {split!r}.{did_you_mean(split, splits)}")
        sides = splits[split]
        return [clip.with_split(sides[clip.id]) for clip in self.index(root) if clip.id in sides]

    def expected_counts_at(self, root: Path) -> Mapping[str, Mapping[str, int]]:
        """Return the counts that a folder should hold; the golden ones unless the dataset comes in sizes."""
        return self.expected_counts

    def comparability(self, split: str, left: int, whole: int) -> str:
        """Return what a score may be called on a copy with `left` of the `whole` clips of a split."""
        if left == whole:
            return f"{self.title}, {split} split"
        return (
            f"{self.title}, {split} split, partial ({left} of {whole} clips): not to be compared with published "
            "scores; `carrara bench --partial` measures on it, and the record says so"
        )

    def check(self, root: Path) -> DatasetCheck:
        """Compare the disk with the annotations and the golden counts; every file is opened."""
        from carrara.data._check import check_dataset

        return check_dataset(self, Path(root))
