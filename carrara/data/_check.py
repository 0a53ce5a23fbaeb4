"""Compare a dataset on disk with its annotations, expected counts and splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import AudioError
from carrara.core.progress import track
from carrara.core.settings import Settings

if TYPE_CHECKING:
    from carrara.data._base import Dataset


SAMPLED_BYTES = 2**14


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
        leaks: Groups and duplicates in two or more splits.
        comparability: By split scheme, what scores on this copy are comparable with.
    """

    ok: bool
    found: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    unreadable: dict[str, str]
    wrong_length: dict[str, str]
    duplicates: tuple[tuple[str, ...], ...]
    counts: dict[str, dict[str, int]]
    differing: tuple[str, ...]
    leaks: tuple[Leak, ...]
    comparability: dict[str, str]


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
        by_content = {" = ".join(ids): {split_of[id] for id in ids if id in split_of} for ids in duplicates}
        duplicate_leaks += _find_leaks(scheme, by_content)
        comparability[scheme] = dataset.comparability(
            scheme,
            sum(id not in unusable for id in split_of),
            max(len(split_of), sum(expected_counts.get(scheme, {}).values())),
        )
    differing = tuple(
        f"{scheme}/{split}: {counts.get(scheme, {}).get(split, 0)} clips, should be {expected}"
        for scheme, by_split in expected_counts.items()
        for split, expected in by_split.items()
        if counts.get(scheme, {}).get(split, 0) != expected
    )
    return DatasetCheck(
        ok=not (unusable or wrong_length or differing) and has_known_leaks,
        found=len(present),
        missing=tuple(clip.id for clip in clips if clip.id in missing),
        extra=tuple(str(path) for path in audio_files if path not in known_paths),
        unreadable=unreadable,
        wrong_length=wrong_length,
        duplicates=duplicates,
        counts=counts,
        differing=differing,
        leaks=(*leaks, *duplicate_leaks),
        comparability=comparability,
    )


def _open_files(dataset: Dataset, clips: list[Clip]) -> tuple[dict[str, str], dict[str, str]]:
    """Return why files do not open, by path, and the wrong durations, by clip id."""
    from carrara.audio.decode import probe_audio

    unreadable: dict[str, str] = {}
    wrong_length: dict[str, str] = {}
    for clip in track(clips, f"opening {dataset.name}"):
        for path in dataset.paths(clip):
            try:
                seconds = probe_audio(path).duration_seconds
            except AudioError as problem:
                unreadable[str(path)] = str(problem)
                continue
            expected = dataset.expected_seconds(clip)
            if expected and seconds is not None and not expected[0] <= seconds <= expected[1]:
                wrong_length[clip.id] = f"{seconds:.2f} s, should be {expected[0]:g} to {expected[1]:g} s: {path}"
    return unreadable, wrong_length


def _find_duplicates(clips: Iterable[Clip]) -> tuple[tuple[str, ...], ...]:
    """Return groups of ids whose files are equal byte for byte; segments of one file are no duplicates."""
    id_of = {clip.path: clip.id for clip in reversed(list(clips))}
    groups = [list(reversed(id_of))]
    # Each key costs more than the one before; only files that agree so far are read further.
    for key in (_file_size, _middle_sha256, _file_sha256):
        by_key: dict[tuple[int, object], list[Path]] = defaultdict(list)
        for number, paths in enumerate(groups):
            for path in track(paths, "looking for duplicates") if key is not _file_size else paths:
                by_key[number, key(path)].append(path)
        groups = [paths for paths in by_key.values() if len(paths) > 1]
    return tuple(tuple(id_of[path] for path in paths) for paths in groups)


def _file_size(path: Path) -> int:
    return path.stat().st_size


def _middle_sha256(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_file_size(path) // 2)
        return hashlib.sha256(file.read(SAMPLED_BYTES)).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_leaks(split_scheme: str, splits_by_group: Mapping[str, set[Split]]) -> list[Leak]:
    """Return the groups that are in more than one split."""
    return [
        Leak(split_scheme=split_scheme, group=group, splits=tuple(sorted(splits)))
        for group, splits in sorted(splits_by_group.items())
        if len(splits) > 1
    ]
