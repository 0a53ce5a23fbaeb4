"""A corpus whose sounds have tags: the training and the validation side of any dataset, or of a folder with a CSV.

Where a dataset has a label that is a list of words (or one word), its clips can be learnt from. Lengths come from the
heads of the files; clips whose file is missing or unreadable are left out with a line each, of which the first is
warned of.

Letters: N clips, C tags.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carrara.core.clip import Clip
from carrara.core.errors import AudioError, DataError, StoreError, UsageError, did_you_mean
from carrara.core.hashing import canonical_json
from carrara.core.progress import track
from carrara.data import REGISTRY as DATA
from carrara.data._base import Dataset
from carrara.data.folder import FILES, Folder
from carrara.pretrain.corpus.length import seconds_of
from carrara.pretrain.corpus.table import Corpus, Items
from carrara.pretrain.tagging.settings import LabelSettings

LABELS = "labels.json"
READERS = 8
SEPARATOR = ";"  # of a list in labels.csv
ROUNDING = 1e-6  # a length in samples that went through seconds may come out a hair below a whole number


@dataclass(frozen=True, eq=False)
class Tagged(Corpus):
    """Sounds and what is said of them.

    Attributes:
        dataset: what it is called.
        names: the tags.
        tags_NC: which clip has which, as bool.
    """

    dataset: str = ""
    names: tuple[str, ...] = ()
    tags_NC: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def identity(self) -> str:
        """Return the SHA-256 of names, lengths, starts and tags; the same wherever the corpus stands."""
        digest = hashlib.sha256(f"{super().identity()}{canonical_json(list(self.names))}".encode())
        digest.update(np.packbits(self.tags_NC).tobytes())
        return digest.hexdigest()


def find(corpus: Sequence[str | Path], settings: LabelSettings, sample_rate: int) -> tuple[Tagged, Tagged]:
    """Return the clips to train on and those to validate on; the latter may be none.

    Args:
        corpus: one place: a dataset's name or folder, or a folder with labels.csv or labels.jsonl.
        settings: which label, split and tags.
        sample_rate: of the network, in Hz.

    Raises:
        UsageError: not one place, no dataset, or a split that it does not have.
        DataError: the dataset is not as distributed, has no such label or tags, or no sound to train on.
    """
    if len(corpus) != 1:
        raise UsageError("training on tags takes one --corpus: a dataset's name or folder, or a folder with labels.csv")
    dataset, root = dataset_at(corpus[0])
    clips = dataset.clips(root, settings.split) if settings.split else _largest(dataset, root, settings.of)
    sides = {side: [clip for clip in clips if clip.split == side] for side in ("train", "valid")}
    names = _names(sides["train"], settings, f"{dataset.name} at {root}")
    train, valid = (_tagged(dataset.name, sides[side], names, settings.of, sample_rate) for side in ("train", "valid"))
    if not train.tags_NC.any():
        first = f"; the first: {train.unreadable[0]}" if train.unreadable else ""
        raise DataError(
            f"{root}: no sound file with tags to train on{first}; `carrara check {dataset.name}` tells more"
        )
    left_out = [*train.unreadable, *valid.unreadable]
    if left_out:
        more = f"; and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        warnings.warn(f"left out: {left_out[0]}{more}", stacklevel=2)
    return train, valid


def dataset_at(place: str | Path) -> tuple[Dataset, Path]:
    """Return the dataset that is meant, and where it stands.

    Raises:
        UsageError: neither a dataset's name nor a folder of one.
    """
    path = Path(place).expanduser()
    if any((path / name).is_file() for name in FILES):
        return Folder(path), path
    names = [name for name in DATA.names() if name != Folder.name]
    if path.is_dir():
        for name in names:
            dataset: Dataset = DATA.get(name)
            root = dataset.root(path)
            if root == path or path.name == name:
                return dataset, root
    elif str(place) in names:
        dataset = DATA.get(str(place))
        return dataset, dataset.root()
    raise UsageError(
        f"{place}: neither a dataset nor a folder with labels.csv in it, so there are no tags to learn."
        f"{did_you_mean(str(place), names)} `carrara ls data` shows every dataset, `carrara show folder` what to write"
    )


def read_labels(folder: Path) -> tuple[str, ...]:
    """Return the tags that a training in that folder teaches; none where it does not say.

    Raises:
        StoreError: its list cannot be read.
    """
    path = Path(folder) / LABELS
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as problem:
        raise StoreError(f"{path}: cannot be read as a list of tags ({problem}); choose another folder") from None


def see_same(ours: Sequence[str], theirs: Sequence[str], what: str, cure: str) -> None:
    """Raise a `UsageError` that says which labels differ, where two sets are not the same in the same order."""
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
        place = next(place for place, (our, their) in enumerate(zip(ours, theirs)) if our != their)
        parts = [f"another order (number {place + 1} is {ours[place]!r} in the corpus, {theirs[place]!r} there)"]
    raise UsageError(f"{what} has other labels: {'; '.join(parts)}; {cure}")


def _largest(dataset: Dataset, root: Path, label: str) -> list[Clip]:
    """Return the clips of the split with the most clips to train on that have the label."""

    def usable(clips: Sequence[Clip]) -> int:
        return sum(clip.split == "train" and bool(clip.labels.get(label)) for clip in clips)

    splits = [dataset.clips(root, split) for split in dataset.splits(root)]
    best = max(splits, key=usable, default=[])
    if not usable(best):
        known = sorted({name for clip in dataset.index(root) for name in clip.labels})
        raise DataError(
            f"{root}: no clip to train on has a label {label!r}.{did_you_mean(label, known)} "
            f"Labels: {', '.join(known) or 'none'}; choose one with --set labels.of=NAME"
        )
    return best


def _words(clip: Clip, label: str) -> tuple[str, ...]:
    value: Any = clip.labels.get(label)
    if isinstance(value, str) and SEPARATOR in value:
        raise DataError(
            f"clip {clip.id}: its {label} {value[:40]!r} is one word with a {SEPARATOR} in it; head the column "
            f"{label}[] to make it several"
        )
    words = [value] if isinstance(value, str) else value or []
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise DataError(
            f"clip {clip.id}: its {label} {str(value)[:40]!r} is not a list of words; choose another labels.of"
        )
    return tuple(words)


def _names(clips: Sequence[Clip], settings: LabelSettings, where: str) -> tuple[str, ...]:
    there = sorted({word for clip in clips for word in _words(clip, settings.of)})
    unknown = [name for name in settings.names if name not in set(there)]
    if unknown:
        raise DataError(
            f"{where}: no clip to train on has the tag{'s' * (len(unknown) > 1)} {', '.join(unknown[:5])}"
            f"{', …' if len(unknown) > 5 else ''}.{did_you_mean(unknown[0], there)} Change labels.names, or leave it out"
        )
    return settings.names or tuple(there)


def _tagged(dataset: str, clips: Sequence[Clip], names: tuple[str, ...], label: str, sample_rate: int) -> Tagged:
    """Return the clips whose sound is there, with their tags."""
    import pyarrow

    with ThreadPoolExecutor(READERS) as pool:
        lengths = list(track(pool.map(_seconds, clips), "reading the heads of the files", len(clips)))
    good = [(clip, seconds) for clip, seconds in zip(clips, lengths) if not isinstance(seconds, str)]
    place = {name: number for number, name in enumerate(names)}
    tags_NC = np.zeros((len(good), len(names)), dtype=bool)
    for row_C, (clip, _) in zip(tags_NC, good):
        row_C[[place[word] for word in _words(clip, label) if word in place]] = True
    text, whole = pyarrow.large_string(), pyarrow.int64()
    table = pyarrow.table(
        {
            "id": pyarrow.array([clip.id for clip, _ in good], text),
            "path": pyarrow.array([str(clip.path) for clip, _ in good], text),
            "samples": pyarrow.array([int(seconds * sample_rate + ROUNDING) for _, seconds in good], whole),
            "start": pyarrow.array([clip.start for clip, _ in good], pyarrow.float64()),
            "offset": pyarrow.nulls(len(good), whole),
            "size": pyarrow.nulls(len(good), whole),
        }
    )
    unreadable = tuple(reason for reason in lengths if isinstance(reason, str))
    return Tagged(Items(table), sample_rate, 0, unreadable, 0, dataset, names, tags_NC)


def _seconds(clip: Clip) -> float | str:
    """Return how long a clip is, or why it cannot be heard."""
    try:
        left = seconds_of(str(clip.path)) - clip.start
    except AudioError as problem:
        return str(problem)
    if left <= 0:
        return f"{clip.path}: ends before second {clip.start:g}, where clip {clip.id} begins"
    return left if clip.duration is None else min(left, clip.duration)
