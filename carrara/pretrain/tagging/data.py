"""Clips with tags from any dataset or a folder with labels.csv, the clips of each epoch, and crops of them.

A dataset can be learnt from if its clips have a label that is a list of strings (or one string). Clips whose file is
missing or unreadable are left out with a line each, of which the first is warned about.

An epoch draws clips without replacement, those with rare tags more often: a clip weighs the sum over its tags of 1000 /
(count + 100), where count is the number of clips with the tag; a clip without tags is never drawn
[notes/encoders §1.5]. Crops come from the corpus's `CropStream`; a clip shorter than a crop is zero-padded.

Letters: N clips, C tags.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError, StoreError, UsageError, did_you_mean
from carrara.core.hashing import canonical_json
from carrara.core.storage import absolute, expand_braces, normalize, suffix
from carrara.core.strict_json import read_json
from carrara.data import REGISTRY as DATA
from carrara.data._base import Dataset
from carrara.data.folder import FILES, FolderDataset
from carrara.pretrain.corpus.build import PARQUET, ROUNDING, TAR, Corpus, Items, build_corpus, build_table
from carrara.pretrain.corpus.durations import read_duration, read_each
from carrara.pretrain.corpus.manifest import read_manifest_tags
from carrara.pretrain.corpus.parquet_shards import holds_audio, read_parquet_tags
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.corpus.tar_shards import read_shard_tags
from carrara.pretrain.tagging.settings import LabelSettings

TAG_FILE = "labels.json"
SEPARATOR = ";"  # of a list in labels.csv
NUMERATOR, OFFSET = 1000.0, 100.0
SHARDED = frozenset({TAR, PARQUET, ".csv"})
# Without splits every clip is for training.
SPLITS = {"": "train", "training": "train", "validation": "valid", "val": "valid", "dev": "valid"}
EPOCH_DRAW = 5  # distinguishes the draw of an epoch from the others of a run


@dataclass(frozen=True, eq=False)
class TaggedCorpus(Corpus):
    """A corpus with tags.

    Attributes:
        dataset: name of the dataset.
        tags: their names.
        tags_NC: whether each clip has each tag, bool.
    """

    dataset: str = ""
    tags: tuple[str, ...] = ()
    tags_NC: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def identity(self) -> str:
        """Return the SHA-256 of names, lengths, starts and tags; it does not depend on where the corpus is stored."""
        digest = hashlib.sha256(f"{super().identity()}{canonical_json(list(self.tags))}".encode())
        digest.update(np.packbits(self.tags_NC).tobytes())
        return digest.hexdigest()


def build_tagged_corpus(
    paths: Sequence[str | Path], settings: LabelSettings, sample_rate: int
) -> tuple[TaggedCorpus, TaggedCorpus]:
    """Return the training clips and the validation clips; there may be none of the latter.

    Args:
        paths: a single one: the name or folder of a dataset, or a folder with labels.csv or labels.jsonl; or manifests,
            tar shards and Parquet files with audio bytes, whose columns or members hold the tags and perhaps the split.
        settings: which label, split scheme and tags.
        sample_rate: of the network, in Hz.

    Raises:
        UsageError: not a single path, no dataset, or an unknown split scheme.
        DataError: the dataset is incomplete, lacks the label or tags, or has no audio to train on.
    """
    if any(suffix(normalize(path)) in SHARDED for path in paths):
        return _read_shards(paths, settings, sample_rate)
    if len(paths) != 1:
        raise UsageError("training on tags takes one --corpus: a dataset's name or folder, or a folder with labels.csv")
    dataset, root = find_dataset(paths[0])
    label = settings.field
    clips = dataset.clips(root, settings.split) if settings.split else _clips_of_largest_split(dataset, root, label)
    splits = {split: [clip for clip in clips if clip.split == split] for split in ("train", "valid")}
    present = sorted({tag for clip in splits["train"] for tag in _clip_tags(clip, label)})
    unknown = [tag for tag in settings.tags if tag not in set(present)]
    if unknown:
        raise DataError(
            f"{dataset.name} at {root}: no training clip has the tag{'s' * (len(unknown) > 1)} "
            f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}.{did_you_mean(unknown[0], present)} "
            "Choose others, or all that there are: --set labels.tags=[]"
        )
    tags = settings.tags or tuple(present)
    train, valid = (_read_clips(dataset.name, splits[split], tags, label, sample_rate) for split in ("train", "valid"))
    if not train.tags_NC.any():
        first = f"; the first: {train.unreadable[0]}" if train.unreadable else ""
        raise DataError(f"{root}: no audio with tags to train on{first}; `carrara check {dataset.name}` lists problems")
    problems = [*train.unreadable, *valid.unreadable]
    if problems:
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        warnings.warn(f"left out: {problems[0]}{more}", stacklevel=2)
    return train, valid


def find_dataset(corpus: str | Path) -> tuple[Dataset, Path]:
    """Return the dataset with that name or folder, and its folder.

    Raises:
        UsageError: it is neither.
    """
    path = Path(corpus).expanduser()
    if any((path / name).is_file() for name in FILES):
        return FolderDataset(path), path
    names = [name for name in DATA.names() if name != FolderDataset.name]
    if path.is_dir():
        for name in names:
            dataset: Dataset = DATA.get(name)
            root = dataset.root(path)
            if root == path or path.name == name:
                return dataset, root
    elif str(corpus) in names:
        dataset = DATA.get(str(corpus))
        return dataset, dataset.root()
    raise UsageError(
        f"{corpus}: neither a dataset nor a folder with labels.csv in it, so there are no tags to learn."
        f"{did_you_mean(str(corpus), names)} `carrara ls data` lists datasets, `carrara show folder` what to write"
    )


def read_run_tags(folder: Path) -> tuple[str, ...]:
    """Return the tags of the run in a folder; empty if there is none.

    Raises:
        StoreError: its list cannot be read.
    """
    path = Path(folder) / TAG_FILE
    try:
        return tuple(read_json(path))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as problem:
        raise StoreError(
            f"{path}: cannot be read as a list of tags ({problem}); choose another folder with -o"
        ) from None


def check_same_tags(ours: Sequence[str], theirs: Sequence[str], owner: str, cure: str) -> None:
    """Raise a UsageError that says how two lists of tags differ, unless they are equal.

    Args:
        ours: tags of the corpus.
        theirs: tags of a run or network.
        owner: that run or network, for the message.
        cure: for the message.
    """
    if list(ours) == list(theirs):
        return
    parts = [
        f"{len(names)} only {where} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
        for where, names in (
            ("in the corpus", [name for name in ours if name not in set(theirs)]),
            ("there", [name for name in theirs if name not in set(ours)]),
        )
        if names
    ]
    if not parts:
        index = next(index for index, (our, their) in enumerate(zip(ours, theirs)) if our != their)
        parts = [f"another order (number {index + 1} is {ours[index]!r} in the corpus, {theirs[index]!r} there)"]
    raise UsageError(f"{owner} has other labels: {'; '.join(parts)}; {cure}")


def _read_shards(
    paths: Sequence[str | Path], settings: LabelSettings, sample_rate: int
) -> tuple[TaggedCorpus, TaggedCorpus]:
    """Return training and validation clips of manifests, tar shards and Parquet with audio bytes, with their tags.

    Clips whose split is neither train nor valid (or validation, dev) are left out; without splits all are for training.
    """
    corpus, field = build_corpus(paths, sample_rate, 1), settings.field
    by_source: dict[str, dict[Any, tuple[list[str], str]]] = {}
    by_id: dict[str, tuple[list[str], str]] = {}
    for path in dict.fromkeys(address for each in paths for address in expand_braces(normalize(each))):
        if suffix(path) == ".csv" or (suffix(path) == PARQUET and not holds_audio(absolute(path))):
            by_id |= read_manifest_tags(path, field)
    labels: list[tuple[list[str], str]] = []
    for index in range(len(corpus.items)):
        item = corpus.items[index]
        address = absolute(item.path)
        if item.offset is None and item.row is None:
            labels.append(by_id.get(item.id, ([], "")))
            continue
        if address not in by_source:
            by_source[address] = (
                read_shard_tags(address, field)
                if item.row is None
                else dict(enumerate(zip(*read_parquet_tags(address, field))))
            )
        labels.append(by_source[address].get(item.offset if item.row is None else item.row, ([], "")))
    present = sorted({tag for tags, split in labels if SPLITS.get(split, split) == "train" for tag in tags})
    names = tuple(settings.tags or present)
    unknown = [tag for tag in names if tag not in set(present)]
    if unknown or not names:
        missing = f"the tag {unknown[0]!r}" if unknown else f"a label {field!r}"
        hint = did_you_mean(unknown[0], present) if unknown else ""
        raise DataError(
            f"{', '.join(map(str, paths[:3]))}: no training clip has {missing}; choose another with --set "
            f"labels.field=NAME, or take all: --set labels.tags=[].{hint}"
        )
    column = {tag: index for index, tag in enumerate(names)}
    label = identify_names(paths)
    parts = []
    for split in ("train", "valid"):
        rows = [index for index, (_, name) in enumerate(labels) if SPLITS.get(name, name) == split]
        tags_NC = np.zeros((len(rows), len(names)), dtype=bool)
        for row_C, index in zip(tags_NC, rows):
            row_C[[column[tag] for tag in labels[index][0] if tag in column]] = True
        facts = (sample_rate, corpus.short, corpus.unreadable, corpus.trusted, label, names, tags_NC)
        parts.append(TaggedCorpus(Items(corpus.items.table.take(rows)), *facts))
    return parts[0], parts[1]


def identify_names(paths: Sequence[str | Path]) -> str:
    """Return the names of files and shards as the name of a dataset."""
    return ", ".join(dict.fromkeys(Path(str(path)).name for path in paths))


def _clips_of_largest_split(dataset: Dataset, root: Path, label: str) -> list[Clip]:
    """Return the clips of the split scheme with the most training clips that have the label."""

    def count_labelled(clips: Sequence[Clip]) -> int:
        return sum(clip.split == "train" and bool(clip.labels.get(label)) for clip in clips)

    largest = max((dataset.clips(root, split) for split in dataset.splits(root)), key=count_labelled, default=[])
    if not count_labelled(largest):
        known = sorted({name for clip in dataset.index(root) for name in clip.labels})
        raise DataError(
            f"{root}: no training clip has a label {label!r}.{did_you_mean(label, known)} "
            f"Labels: {', '.join(known) or 'none'}; choose one with --set labels.field=NAME"
        )
    return largest


def _clip_tags(clip: Clip, label: str) -> tuple[str, ...]:
    value: Any = clip.labels.get(label)
    if isinstance(value, str) and SEPARATOR in value:
        raise DataError(
            f"clip {clip.id}: its {label} {value[:40]!r} is one string with a {SEPARATOR} in it; name the column "
            f"{label}[] to make it a list"
        )
    tags = [value] if isinstance(value, str) else value or []
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(
            f"clip {clip.id}: its {label} {str(value)[:40]!r} is not a list of strings; choose another with --set "
            "labels.field=NAME"
        )
    return tuple(tags)


def _read_clips(
    dataset: str, clips: Sequence[Clip], tags: tuple[str, ...], label: str, sample_rate: int
) -> TaggedCorpus:
    """Return the readable clips with their tags."""
    durations = read_each(_clip_duration, clips, "reading the headers of the files")
    readable = [(clip, seconds) for clip, seconds in zip(clips, durations) if not isinstance(seconds, str)]
    column = {tag: index for index, tag in enumerate(tags)}
    tags_NC = np.zeros((len(readable), len(tags)), dtype=bool)
    for row_C, (clip, _) in zip(tags_NC, readable):
        row_C[[column[tag] for tag in _clip_tags(clip, label) if tag in column]] = True
    rows = [
        (clip.id, str(clip.path), int(seconds * sample_rate + ROUNDING), clip.start, None, None, None)
        for clip, seconds in readable
    ]
    unreadable = tuple(problem for problem in durations if isinstance(problem, str))
    return TaggedCorpus(Items(build_table(rows)), sample_rate, 0, unreadable, 0, dataset, tags, tags_NC)


def _clip_duration(clip: Clip) -> float:
    seconds = read_duration(str(clip.path)) - clip.start
    if seconds <= 0:
        raise AudioError(f"{clip.path}: ends before second {clip.start:g}, where clip {clip.id} begins")
    return seconds if clip.duration is None else min(seconds, clip.duration)


def clip_weights(tags_NC: np.ndarray) -> np.ndarray:
    """Return the sampling weight of each clip, `[N]`."""
    return tags_NC @ (NUMERATOR / (tags_NC.sum(axis=0, dtype=np.int64) + OFFSET))


@lru_cache(maxsize=4)
def epoch_order(corpus: TaggedCorpus, seed: int, epoch: int, clips: int) -> np.ndarray:
    """Return the indices of an epoch's clips in order, each once; at most `clips` of them.

    Weighted sampling without replacement by exponential clocks (Efraimidis and Spirakis 2006): each clip rings after an
    exponential time whose rate is its weight, and the first to ring are the sample.
    """
    rng = np.random.default_rng([seed, EPOCH_DRAW, epoch])
    weight_N = clip_weights(corpus.tags_NC)
    with np.errstate(divide="ignore"):
        time_N = rng.exponential(size=len(weight_N)) / weight_N
    # Heavy clips ring first, so the sample is shuffled.
    return rng.permutation(np.argsort(time_N, kind="stable")[: min(clips, np.count_nonzero(weight_N))])


@dataclass(frozen=True)
class TaggedCrops(CropStream):
    """Crops of clips that may be shorter than a crop; base of the two streams below."""

    corpus: TaggedCorpus

    def crop_start(self, epoch: int, item: int) -> int:
        """Return the first sample of a clip's crop in an epoch."""
        return super().crop_start(epoch, item) if self.corpus.items[item].samples > self.crop_samples else 0

    def read_crop(self, item: int, start: int) -> np.ndarray:
        """Return the crop of a clip, zero-padded at its end."""
        samples = min(self.crop_samples, self.corpus.items[item].samples)
        if samples == self.crop_samples:
            return super().read_crop(item, start)
        crop_T = dataclasses.replace(self, crop_samples=samples).read_crop(item, start)
        return np.pad(crop_T, (0, self.crop_samples - samples))


@dataclass(frozen=True)
class BalancedCrops(TaggedCrops):
    """Random crops of the clips that each epoch draws, at most `clips`; the last batch of an epoch may be smaller."""

    clips: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(epoch_order(self.corpus, self.seed, 0, self.clips)) / self.batch_size)

    def crop_order(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        """Return (epoch, clip index) of each crop that a rank reads in a step."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order_N = epoch_order(self.corpus, self.seed, epoch, self.clips)
        order_N = order_N[index * self.batch_size : (index + 1) * self.batch_size]
        first, end = (edge * len(order_N) // world_size for edge in (rank, rank + 1))
        return [(epoch, int(item)) for item in order_N[first:end]]


@dataclass(frozen=True)
class CenterCrops(TaggedCrops):
    """The centre crop of every clip, in order; the last batch may be smaller."""

    @property
    def steps(self) -> int:
        """Batches of all clips."""
        return math.ceil(len(self.corpus.items) / self.batch_size)

    def crop_start(self, epoch: int, item: int) -> int:
        """Return the first sample of a clip's centre crop."""
        excess = max(self.corpus.items[item].samples - self.crop_samples, 0)
        return excess // 2 // self.stride * self.stride

    def crop_order(self, step: int, rank: int, world_size: int) -> list[tuple[int, int]]:
        """Return (0, clip index) of each crop that a rank reads in a step."""
        first = step * self.batch_size
        size = min(self.batch_size, len(self.corpus.items) - first)
        return [(0, first + index) for index in range(rank * size // world_size, (rank + 1) * size // world_size)]
