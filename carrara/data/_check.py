"""The honest check: what is on disk, against what the annotations, the golden counts and the splits say.

Files of one size are compared by content, so that a recording that stands twice, under two ids or on two sides of a
split, is found without reading the whole collection again.
"""

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
    """A group (song, singer, artist), or one and the same recording under several ids, on two sides of a split."""

    split_scheme: str
    group: str
    splits: tuple[str, ...]


class DatasetCheck(Settings):
    """What is on disk, compared with what should be.

    Attributes:
        ok: nothing is missing, unreadable, of a wrong length or other than the golden counts, and as many groups leak
            as the dataset's own authors let leak. Doubled recordings do no harm to it: some datasets have them.
        found: clips whose sound files are all there.
        missing: ids of clips whose sound files are not.
        extra: sound files that no clip names.
        unreadable: path and reason of files that do not decode.
        wrong_length: id of clips whose file is shorter or longer than distributed, with both lengths.
        duplicates: ids of clips whose files are the same to the byte, a group a recording.
        counts: clips a split, by split name.
        differing: counts that differ from the golden ones, as lines.
        leaks: groups and doubled recordings on two sides of a split.
        called: what a score on this copy may be called, by split name.
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
    """Compare the disk with the annotations and the golden counts; every file is opened.

    Raises:
        DataError: the annotations are not there or not as distributed.
    """
    clips = dataset.index(root)
    missing = {clip.id for clip in clips if not all(path.is_file() for path in dataset.paths(clip))}
    present = [clip for clip in clips if clip.id not in missing]
    unreadable, wrong_length = _open_files(dataset, present)
    duplicates = _find_duplicates(present)
    splits = dataset.splits(root)
    counts = {name: _count(sides) for name, sides in splits.items()}
    golden = dataset.expected_counts_at(root)
    differing = tuple(
        f"{name}/{side}: {counts.get(name, {}).get(side, 0)} clips, should be {number}"
        for name, sides in golden.items()
        for side, number in sides.items()
        if counts.get(name, {}).get(side, 0) != number
    )
    by_group = {name: _leaks(name, dataset.clips(root, name)) for name in splits}
    known = {name: dataset.known_leaks.get(name, 0) for name in splits}
    strange = [name for name, found in by_group.items() if known[name] not in (None, len(found))]
    by_content = [leak for name, sides in splits.items() for leak in _leaking_duplicates(name, sides, duplicates)]
    faulty = missing | {clip.id for clip in present if any(str(path) in unreadable for path in dataset.paths(clip))}
    return DatasetCheck(
        ok=not (faulty or wrong_length or differing or strange),
        found=len(present),
        missing=tuple(clip.id for clip in clips if clip.id in missing),
        extra=_extra(root, clips, dataset),
        unreadable=unreadable,
        wrong_length=wrong_length,
        duplicates=duplicates,
        counts=counts,
        differing=differing,
        leaks=tuple(leak for found in (*by_group.values(), by_content) for leak in found),
        comparability={
            name: dataset.comparability(
                name, _count_usable(sides, faulty), max(len(sides), sum(golden.get(name, {}).values()))
            )
            for name, sides in splits.items()
        },
    )


def _open_files(dataset: Dataset, clips: list[Clip]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reason by path of files that do not open, and by id what is wrong with a clip's length."""
    from carrara.audio.decode import probe_audio

    unreadable: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for clip in track(clips, f"opening {dataset.name}"):
        for path in dataset.paths(clip):
            try:
                seconds = probe_audio(path).duration_seconds
            except AudioError as problem:
                unreadable[str(path)] = str(problem)
                continue
            expected = dataset.expected_seconds(clip)
            if expected and seconds is not None and not expected[0] <= seconds <= expected[1]:
                wrong[clip.id] = f"{seconds:.2f} s, should be {expected[0]:g} to {expected[1]:g} s: {path}"
    return unreadable, wrong


def _find_duplicates(clips: Iterable[Clip]) -> tuple[tuple[str, ...], ...]:
    """Return the ids of clips that share their sound to the byte; stretches of one file are no doubles."""
    first = {clip.path: clip.id for clip in reversed(list(clips))}
    alike = [list(reversed(first))]
    # From cheap to dear: only files that agree so far are read further.
    for key in (_size, _middle, _whole):
        found: dict[tuple[int, object], list[Path]] = defaultdict(list)
        for number, paths in enumerate(alike):
            for path in track(paths, "looking for doubled recordings") if key is not _size else paths:
                found[number, key(path)].append(path)
        alike = [paths for paths in found.values() if len(paths) > 1]
    return tuple(tuple(first[path] for path in paths) for paths in alike)


def _size(path: Path) -> int:
    return path.stat().st_size


def _middle(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(_size(path) // 2)
        return hashlib.sha256(file.read(SAMPLED_BYTES)).hexdigest()


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extra(root: Path, clips: Iterable[Clip], dataset: Dataset) -> tuple[str, ...]:
    from carrara.audio.decode import SUFFIXES

    named = {path for clip in clips for path in dataset.paths(clip)}
    sounds = (path for path in sorted(Path(root).rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    return tuple(str(path) for path in sounds if path not in named)


def _count(sides: Mapping[str, Split]) -> dict[str, int]:
    counts = Counter(sides.values())
    return {side: counts[side] for side in SPLITS}


def _count_usable(sides: Mapping[str, Split], faulty: set[str]) -> int:
    return sum(identity not in faulty for identity in sides)


def _leaks(name: str, clips: list[Clip]) -> list[Leak]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group is not None and clip.split is not None:
            found[clip.group].add(clip.split)
    return _across_splits(name, found)


def _leaking_duplicates(name: str, sides: Mapping[str, Split], duplicates: tuple[tuple[str, ...], ...]) -> list[Leak]:
    found: dict[str, set[str]] = {" = ".join(ids): {sides[one] for one in ids if one in sides} for ids in duplicates}
    return _across_splits(name, found)


def _across_splits(name: str, found: Mapping[str, set[str]]) -> list[Leak]:
    return [
        Leak(split_scheme=name, group=group, splits=tuple(sorted(sides)))
        for group, sides in sorted(found.items())
        if len(sides) > 1
    ]
