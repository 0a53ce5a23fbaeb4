"""What every dataset provides: an index of its clips, splits, licence, downloads and a check of the files on disk."""

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
    """A dataset in the layout in which it is distributed.

    A public file of this folder defines one subclass and an instance of it, `DATASET`.

    Attributes:
        name: Name in the registry and of its folder.
        folder_names: Other names that its folder may have.
        title: Its usual name.
        license: Licence of the audio and of the annotations, as their authors state it.
        commercial_use: Whether that licence allows commercial use; None where it is unknown.
        citation: Publication to cite.
        source: Where it is distributed.
        remotes: Files that can be downloaded without a login, relative to the root.
        manual_steps: Steps by hand that complete a download; empty where `remotes` is everything.
        expected_counts: Clips in each split, by split scheme.
        known_leaks: By split scheme, groups that the official splits share, None where they were not counted; 0
            for split schemes that are not listed.
        seconds: Shortest and longest duration of an audio file; None where durations vary freely.
    """

    name: ClassVar[str]
    folder_names: ClassVar[tuple[str, ...]] = ()
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
        """Return every clip that the annotations define, in a fixed order, whether its audio exists or not.

        Raises:
            DataError: the annotations are missing or not as distributed.
        """

    @abstractmethod
    def splits(self, root: Path) -> dict[str, dict[str, Split]]:
        """Return the split of each clip, `{split scheme: {clip id: split}}`; ids left out are in no split."""

    def download(self, root: Path, size: str | None = None) -> str:
        """Download what is missing below `root`, and return the steps that are left to do by hand.

        Complete files are kept and partial ones resumed. `size` is for datasets that come in sizes.

        Raises:
            DataError: a download failed or is not the pinned file.
            StoreError: the folder cannot be written.
        """
        for remote in self.remotes:
            download(remote, Path(root))
        try:
            clips = self.index(Path(root))
        except DataError:
            return self.manual_steps
        is_complete = clips and all(path.is_file() for clip in clips for path in self.paths(clip))
        return "" if is_complete else self.manual_steps

    def root(self, data_dir: Path | None = None) -> Path:
        """Return this dataset's folder below `data_dir`, or `data_dir` itself if it has the dataset's name."""
        base = Path(data_dir) if data_dir else data_home()
        names = (self.name, *self.folder_names)
        if base.name in names:
            return base
        return next((base / name for name in names if (base / name).is_dir()), base / self.name)

    def root_for_size(self, data_dir: Path | None, size: str) -> Path:
        """Return the folder of one size of a dataset that comes in sizes.

        Raises:
            UsageError: there is no such size, or the dataset does not come in sizes.
        """
        raise UsageError(f"{self.name} does not come in sizes; leave --size out")

    def paths(self, clip: Clip) -> tuple[Path, ...]:
        """Return all audio files of a clip."""
        return (clip.path,)

    def expected_seconds(self, clip: Clip) -> tuple[float, float] | None:
        """Return the shortest and longest duration of a clip's file; None means any."""
        return self.seconds

    def clips(self, root: Path, split_scheme: str) -> list[Clip]:
        """Return the clips of a split scheme, each with its split, in the order of the index.

        Raises:
            UsageError: there is no such split scheme.
            DataError: the annotations are missing or not as distributed.
        """
        schemes = self.splits(root)
        if split_scheme not in schemes:
            near = did_you_mean(split_scheme, schemes)
            raise UsageError(f"{self.name} has no split {split_scheme!r}.{near}")
        splits = schemes[split_scheme]
        return [clip.with_split(splits[clip.id]) for clip in self.index(root) if clip.id in splits]

    def expected_counts_at(self, root: Path) -> Mapping[str, Mapping[str, int]]:
        """Return the clips that each split in a folder should have; it depends on the folder if there are sizes."""
        return self.expected_counts

    def comparability(self, split_scheme: str, available: int, total: int) -> str:
        """Return what scores on a copy with `available` of `total` clips of a split scheme are comparable with."""
        if available == total:
            return f"{self.title}, {split_scheme} split"
        return (
            f"{self.title}, {split_scheme} split, partial ({available} of {total} clips): not comparable with "
            "published scores; `carrara bench --partial` runs on it and marks the record"
        )

    def check(self, root: Path) -> DatasetCheck:
        """Compare the files on disk with the annotations and the expected counts; every audio file is opened."""
        from carrara.data._check import check_dataset

        return check_dataset(self, Path(root))
