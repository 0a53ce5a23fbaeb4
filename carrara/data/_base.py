"""What every dataset provides: an index of its clips, splits, licence, downloads and a check of the files on disk."""

from __future__ import annotations

import hashlib
import shlex
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.download import Remote, download
from carrara.core.errors import AbsentError, AudioError, DataError, UsageError, did_you_mean
from carrara.core.hashing import sha256_of_file
from carrara.core.paths import data_home
from carrara.core.progress import track
from carrara.core.settings import Settings


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
        group_names: What a clip's group is, by split scheme: song, singer, instrument, artist.
        seconds: Shortest and longest duration of an audio file; None where durations vary freely.
        finds_copies: Whether its check decodes every clip to find copies of other bytes, and any leak is a fault.
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
    group_names: ClassVar[Mapping[str, str]] = {}
    seconds: ClassVar[tuple[float, float] | None] = None
    finds_copies: ClassVar[bool] = False

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
        return self.remaining_steps(Path(root))

    def remaining_steps(self, root: Path) -> str:
        """Return the steps that are left to do by hand; empty where there are none or every file is below `root`."""
        if not self.manual_steps:
            return ""
        try:
            clips = self.index(root)
        except DataError:
            return self.manual_steps
        is_complete = clips and all(path.is_file() for clip in clips for path in self.paths(clip))
        return "" if is_complete else self.manual_steps

    def __repr__(self) -> str:
        return f"<dataset {self.name}: {self.title}; licence: {self.license}>"

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

    def corpus_folder(self, root: Path) -> Path:
        """Return the folder whose audio is the corpus of a pre-training that takes this dataset by name: all of it."""
        return Path(root)

    def check_command(self, data_dir: Path | None = None) -> str:
        """Return the command that checks this dataset below `data_dir`."""
        return f"carrara check {self.name}{data_dir_option(data_dir)}"

    def download_cure(self, data_dir: Path | None = None) -> str:
        """Return what to do where the dataset is not on disk below `data_dir`."""
        return f"`carrara download {self.name}{data_dir_option(data_dir)}` downloads it or says how"

    def completion_cure(self, data_dir: Path | None = None) -> str:
        """Return what adds the files that are missing below `data_dir`; empty where that is not one command."""
        return ""

    def absent_parts(self, root: Path) -> str:
        """Return which parts, as a whole, are not in a folder that is right without them, and what adds them."""
        return ""

    def absent_audio(self, problem: str, data_dir: Path | None = None) -> DataError:
        """Return the error of a dataset whose audio is not on disk."""
        return AbsentError(f"{problem}; {self.download_cure(data_dir)}")

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
        if total == 0:
            return f"{self.title}, {split_scheme} split: no clips here, so no scores"
        if available == total:
            return f"{self.title}, {split_scheme} split"
        return (
            f"{self.title}, {split_scheme} split, partial ({available} of {total} clips): not comparable with "
            "published scores; `carrara bench --partial` runs on it and marks the record"
        )

    def check(self, root: Path) -> DatasetCheck:
        """Compare the files on disk with the annotations and the expected counts; every audio file is opened."""
        return check_dataset(self, Path(root))


SAMPLED_BYTES = 2**14
MAX_COMPARED_SECONDS = 600.0


class Leak(Settings):
    """A group (song, singer, artist) or a duplicated recording in two or more splits of a split scheme."""

    split_scheme: str
    group: str
    splits: tuple[str, ...]


class DatasetCheck(Settings):
    """How the files on disk differ from what the annotations define.

    Attributes:
        ok: Whether nothing is missing, unreadable or of a wrong length, all counts are as expected, and as many groups
            leak as in the official splits. Duplicates do not count against it: some datasets have them.
        found: Number of clips whose audio files all exist.
        missing: Ids of clips with a missing audio file.
        extra: Audio files that belong to no clip.
        unreadable: Reason by path of files that do not decode.
        wrong_length: By clip id, the duration of a file that is shorter or longer than distributed.
        duplicates: Groups of ids whose files are equal byte for byte.
        counts: Clips of each split, by split scheme.
        differing: Counts that differ from the expected ones, one line each.
        copies: Pairs of clips that share audio, though their files differ: of another codec, level or start.
        leaks: Groups, duplicates, copies and files in two or more splits.
        comparability: By split scheme, what scores on this copy are comparable with.
    """

    ok: bool
    found: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    unreadable: dict[str, str]
    wrong_length: dict[str, str]
    duplicates: tuple[tuple[str, ...], ...]
    copies: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    differing: tuple[str, ...]
    leaks: tuple[Leak, ...]
    comparability: dict[str, str]


def data_dir_option(data_dir: Path | None) -> str:
    """Return the option of a command for a folder of datasets, with a space before it; empty for the default."""
    return f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""


def check_dataset(dataset: Dataset, root: Path) -> DatasetCheck:
    """Return how a dataset on disk differs from its annotations and expected counts; every audio file is opened.

    Raises:
        DataError: the annotations are missing or not as distributed.
    """
    from carrara.audio.decode import SUFFIXES

    clips = dataset.index(root)
    missing = {clip.id for clip in clips if not all(path.is_file() for path in dataset.paths(clip))}
    present = [clip for clip in clips if clip.id not in missing]
    known_paths = {path for clip in clips for path in dataset.paths(clip)}
    audio_files = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    unreadable, wrong_length = _open_files(dataset, present)
    duplicates = _find_duplicates(present)
    copies = _find_copies(present, duplicates) if dataset.finds_copies else {}
    ids_of_file: dict[Path, list[str]] = defaultdict(list)
    for clip in clips:
        ids_of_file[clip.path.resolve()].append(clip.id)
    unusable = missing | {clip.id for clip in present if any(str(path) in unreadable for path in dataset.paths(clip))}

    schemes = dataset.splits(root)
    expected_counts = dataset.expected_counts_at(root)
    counts: dict[str, dict[str, int]] = {}
    leaks: list[Leak] = []
    duplicate_leaks: list[Leak] = []
    comparability: dict[str, str] = {}
    has_known_leaks = True
    for scheme, split_of in schemes.items():
        counter = Counter(split_of.values())
        counts[scheme] = {split: counter[split] for split in SPLITS}
        by_group: dict[str, set[Split]] = defaultdict(set)
        for clip in dataset.clips(root, scheme):
            if clip.group is not None and clip.split is not None:
                by_group[clip.group].add(clip.split)
        group_leaks = _find_leaks(scheme, by_group)
        has_known_leaks &= dataset.known_leaks.get(scheme, 0) in (None, len(group_leaks))
        leaks += group_leaks
        same: dict[str, tuple[str, ...]] = {" = ".join(ids): ids for ids in duplicates}
        for ids in ids_of_file.values():
            if len(ids) > 1:
                same[f"{' and '.join(ids[:3])} (of one file)"] = tuple(ids)
        same |= copies
        by_content = {name: {split_of[id] for id in ids if id in split_of} for name, ids in same.items()}
        duplicate_leaks += _find_leaks(scheme, by_content)
        comparability[scheme] = dataset.comparability(
            scheme,
            sum(id not in unusable and id not in wrong_length for id in split_of),
            max(len(split_of), sum(expected_counts.get(scheme, {}).values())),
        )
    differing = tuple(
        f"{scheme}/{split}: {counts.get(scheme, {}).get(split, 0)} clips, should be {expected}"
        for scheme, by_split in expected_counts.items()
        for split, expected in by_split.items()
        if counts.get(scheme, {}).get(split, 0) != expected
    )
    is_leaking = dataset.finds_copies and bool(duplicate_leaks)
    return DatasetCheck(
        ok=not (unusable or wrong_length or differing or is_leaking) and has_known_leaks,
        found=len(present),
        missing=tuple(clip.id for clip in clips if clip.id in missing),
        extra=tuple(str(path) for path in audio_files if path not in known_paths),
        unreadable=unreadable,
        wrong_length=wrong_length,
        duplicates=duplicates,
        copies=tuple(copies),
        counts=counts,
        differing=differing,
        leaks=(*leaks, *duplicate_leaks),
        comparability=comparability,
    )


def _open_files(dataset: Dataset, clips: list[Clip]) -> tuple[dict[str, str], dict[str, str]]:
    """Return why files do not open, by path, and the wrong durations, by clip id."""
    from carrara.audio.decode import check_audio

    unreadable: dict[str, str] = {}
    wrong_length: dict[str, str] = {}
    seconds_of: dict[Path, float | None] = {}  # clips may be segments of one file
    for clip in track(clips, f"opening {dataset.name}"):
        for path in dataset.paths(clip):
            if str(path) in unreadable:
                continue
            if path not in seconds_of:
                try:
                    seconds_of[path] = check_audio(path).duration_seconds
                except AudioError as problem:
                    unreadable[str(path)] = str(problem)
                    continue
            seconds, expected = seconds_of[path], dataset.expected_seconds(clip)
            if expected and seconds is not None and not expected[0] <= seconds <= expected[1]:
                wrong_length[clip.id] = f"{seconds:.2f} s, should be {expected[0]:g} to {expected[1]:g} s: {path}"
    return unreadable, wrong_length


def _find_duplicates(clips: Iterable[Clip]) -> tuple[tuple[str, ...], ...]:
    """Return groups of ids whose files are equal byte for byte; segments of one file are no duplicates."""
    id_of = {clip.path: clip.id for clip in reversed(list(clips))}
    groups = [list(reversed(id_of))]
    # Each key costs more than the one before; only files that agree so far are read further.
    for key in (_file_size, _middle_sha256, sha256_of_file):
        by_key: dict[tuple[int, object], list[Path]] = defaultdict(list)
        for number, paths in enumerate(groups):
            for path in track(paths, "looking for duplicates") if key is not _file_size else paths:
                by_key[number, key(path)].append(path)
        groups = [paths for paths in by_key.values() if len(paths) > 1]
    return tuple(tuple(id_of[path] for path in paths) for paths in groups)


def _find_copies(clips: Sequence[Clip], duplicates: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return pairs of clips that share audio by a description, without files that are duplicates, and clips of one."""
    from carrara.audio.decode import load_audio
    from carrara.audio.fingerprint import RATE, audio_fingerprint, find_copies

    prints = []
    for clip in track(clips, "comparing recordings"):
        seconds = min(clip.duration or MAX_COMPARED_SECONDS, MAX_COMPARED_SECONDS)
        try:
            prints.append(audio_fingerprint(load_audio(clip.path, RATE, clip.start, seconds)))
        except AudioError:
            prints.append(audio_fingerprint(np.zeros(0, np.float32)))  # reported where it is opened or extracted
    group_of = {id: number for number, ids in enumerate(duplicates) for id in ids}
    copies: dict[str, tuple[str, ...]] = {}
    for copy in find_copies(prints):
        first, second = clips[copy.first], clips[copy.second]
        are_duplicates = group_of.get(first.id, -1) == group_of.get(second.id, -2)
        if not are_duplicates and first.path.resolve() != second.path.resolve():
            name = f"{first.id} ~ {second.id} ({copy.seconds:.1f} s in common, {100 * copy.error:.0f}% of bits differ)"
            copies[name] = (first.id, second.id)
    return copies


def _file_size(path: Path) -> int:
    return path.stat().st_size


def _middle_sha256(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_file_size(path) // 2)
        return hashlib.sha256(file.read(SAMPLED_BYTES)).hexdigest()


def _find_leaks(split_scheme: str, splits_by_group: Mapping[str, set[Split]]) -> list[Leak]:
    """Return the groups that are in more than one split."""
    return [
        Leak(split_scheme=split_scheme, group=group, splits=tuple(sorted(splits)))
        for group, splits in sorted(splits_by_group.items())
        if len(splits) > 1
    ]
