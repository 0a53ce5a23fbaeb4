"""From a task to its sides: the dataset's clips, their features, and which of them are missing.

A clip of several windows becomes one embedding here where the task says so. Features of clips that take part in several
tasks are extracted once; the store would remember them too, but looking at every file again is not free. A dataset of
which a part is missing is used only by a person who says so, and the record then calls itself partial.

Letters: U clips.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.protocols._base import Splits
from carrara.bench.split_features import SplitFeatures, averaged
from carrara.bench.task_types._base import TaskType
from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import AbsentError, DataError
from carrara.core.task import Task
from carrara.data import REGISTRY as DATA
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder
from carrara.features.extract import Features, WindowSpec, extract

LEAST_CLIPS = 2
NAMED = 3


@dataclass
class FeatureProvider:
    """Datasets and features for one encoder, each fetched once.

    Attributes:
        encoder: who hears the clips.
        data_dir: folder of the datasets; none: where `$CARRARA_DATA` says.
        device: where the encoder runs.
        limit: clips of a side at most, drawn evenly from those that are there; none: all.
        partial: whether clips may be missing.
        datasets: datasets by name that take the place of the shelf's.
    """

    encoder: Encoder
    data_dir: Path | None = None
    device: str = "cpu"
    limit: int | None = None
    partial: bool = False
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    _indexes: dict[tuple[str, str], tuple[list[Clip], set[str]]] = field(default_factory=dict)
    _features: dict[tuple[str, WindowSpec, tuple[str, ...]], Features] = field(default_factory=dict)

    def clips(self, task: Task) -> list[Clip]:
        """Return the clips that a task asks about, each with its side, whether their sound is there or not.

        Raises:
            DataError: the annotations are not there or not as distributed.
        """
        return self._index(task)[0]

    def absent(self, task: Task) -> set[str]:
        """Return the ids of those whose sound is not there."""
        return self._index(task)[1]

    def lacking(self, task: Task) -> str:
        """Return what the annotations on disk lack of the whole dataset; empty where they define all its clips."""
        dataset = self.dataset(task)
        golden = dataset.golden_at(dataset.root(self.data_dir)).get(task.split_scheme, {})
        found = Counter(str(clip.split) for clip in self.clips(task))
        off = [
            f"{found[side]:,} {side} clips, not {number:,}" for side, number in golden.items() if found[side] != number
        ]
        return f"the annotations define {', '.join(off)}" if off else ""

    def dataset(self, task: Task) -> Dataset:
        """Return the dataset of a task."""
        return self.datasets.get(task.dataset) or DATA.get(task.dataset)

    def material(self, task: Task, answer: TaskType) -> TaskData:
        """Return a task's clips and the way to their features.

        Raises:
            DataError: clips are missing and nobody said that they may, or a side has too few.
        """
        clips, absent = self._index(task)
        if absent and not self.partial:
            raise incomplete(task, f"the sound of {_some(absent)} of {len(clips)} clips is not there")
        if (lacking := self.lacking(task)) and not self.partial and self.limit is None:
            raise incomplete(task, lacking)
        return TaskData(self, task, answer, [clip for clip in clips if clip.id not in absent], sorted(absent))

    def features(self, task: Task, view: WindowSpec, clips: Sequence[Clip]) -> Features:
        """Return the features of a task's clips."""
        # The clips belong to the key: those that could not be decoded drop out between one call and the next.
        key = (task.dataset, view, tuple(clip.id for clip in clips))
        if key not in self._features:
            self._features[key] = extract(self.encoder, clips, view, device=self.device)
        return self._features[key]

    def _index(self, task: Task) -> tuple[list[Clip], set[str]]:
        key = (task.dataset, task.split_scheme)
        if key not in self._indexes:
            dataset = self.dataset(task)
            root = dataset.root(self.data_dir)
            if not root.exists():
                raise AbsentError(f"{dataset.name} is not at {root}; `carrara get {dataset.name}` gets it or says how")
            found = [clip for clip in dataset.clips(root, task.split_scheme) if clip.split]
            absent = {clip.id for clip in found if not all(path.is_file() for path in dataset.paths(clip))}
            if len(absent) == len(found) > 0:
                raise AbsentError(
                    f"the sound of {dataset.name} is not at {root}; `carrara get {dataset.name}` gets it or says how"
                )
            if self.limit is not None:
                found, absent = _limited([clip for clip in found if clip.id not in absent], self.limit), set()
            self._indexes[key] = (found, absent)
        return self._indexes[key]


@dataclass
class TaskData:
    """A task's clips that are there, the features of those that can be heard, and the ids of those that cannot."""

    library: FeatureProvider
    task: Task
    answer: TaskType
    clips: list[Clip]
    missing: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        enough(self.task, self.clips)

    def of(self, side: str) -> list[Clip]:
        """Return the clips of one side."""
        return [clip for clip in self.clips if clip.split == side]

    def sides(self, frames: bool = False) -> Splits:
        """Return the sides with their features; clips that turn out to be undecodable leave `clips`.

        Args:
            frames: give a row a frame, whatever the answer.

        Raises:
            DataError: some are and nobody said that clips may be missing, or a side has too few left.
        """
        began = time.perf_counter()
        heard = self._heard(self.clips, frames=frames or self.answer.frames)
        self.seconds["features"] = time.perf_counter() - began
        test = [place for place, clip in enumerate(self.clips) if clip.split == "test"]
        return Splits(self._side(heard, "train"), self._side(heard, "valid"), lambda: self._cut(heard, test))

    def spoilt(self, deform: str, frames: bool = False) -> SplitFeatures:
        """Return the test side heard through a deformation.

        Args:
            deform: what is done to the sound, `noise:20db`.
            frames: give a row a frame, whatever the answer.

        Raises:
            DataError: a clip cannot be heard so.
        """
        clips = self.of("test")
        layers, rows_U, rate = self._heard(clips, deform, frames or self.answer.frames)
        return SplitFeatures(self.answer.truths(self.task, clips), layers, rows_U, rate)

    def _heard(
        self, clips: list[Clip], deform: str = "", frames: bool = False
    ) -> tuple[dict[str, Any], list[np.ndarray], float | None]:
        task = self.task
        view = WindowSpec(window_seconds=task.window_seconds, tail=task.partial_window, pool="mean", corruption=deform)
        if frames:
            view = WindowSpec(window_seconds=None, pool="frames", corruption=deform)
        features = self.library.features(task, view, clips)
        broken = {clip.id: features.missing.get(clip.id, "no sound in it") for clip, rows in zip(clips, features.rows)
                  if clip.id in features.missing or rows.stop == rows.start}  # fmt: skip
        if broken and not self.library.partial:
            raise incomplete(task, f"{len(broken)} clips cannot be heard, first {next(iter(broken.values()))}")
        rows_U = [np.arange(rows.start, rows.stop) for clip, rows in zip(clips, features.rows) if clip.id not in broken]
        self.missing = sorted({*self.missing, *broken})
        self.clips = [clip for clip in self.clips if clip.id not in broken]
        enough(task, self.clips)
        layers: dict[str, Any] = {name: features.layer(name) for name in features.layers}
        if not frames and task.aggregate == "embedding" and any(len(rows) > 1 for rows in rows_U):
            layers, rows_U = averaged(layers, rows_U), list(np.arange(len(rows_U))[:, None])
        return layers, rows_U, features.frame_rate if frames else None

    def _side(self, heard: tuple[dict[str, Any], list[np.ndarray], float | None], name: str) -> SplitFeatures:
        return self._cut(heard, [place for place, clip in enumerate(self.clips) if clip.split == name])

    def _cut(self, heard: tuple[dict[str, Any], list[np.ndarray], float | None], places: list[int]) -> SplitFeatures:
        layers, rows_U, rate = heard
        truths = self.answer.truths(self.task, [self.clips[place] for place in places])
        return SplitFeatures(truths, layers, [rows_U[place] for place in places], rate)


def incomplete(task: Task, what: str) -> DataError:
    """Return the error that a dataset of which a part is missing raises."""
    return DataError(
        f"task {task.name!r}: {what}; `carrara check {task.dataset}` shows all, and --partial measures on what is "
        "there (the record then calls itself partial)"
    )


def enough(task: Task, clips: Sequence[Clip]) -> None:
    """Check that every side has clips to work with.

    Raises:
        DataError: one has not.
    """
    counts = {side: sum(clip.split == side for clip in clips) for side in SPLITS}
    for side, count in counts.items():
        if count < LEAST_CLIPS:
            raise DataError(
                f"task {task.name!r}: the {side} side of {task.dataset}/{task.split_scheme} has too few clips ({count}, at "
                f"least {LEAST_CLIPS} are needed); `carrara check {task.dataset}` shows what is on disk"
            )


def _some(ids: set[str]) -> str:
    first = ", ".join(sorted(ids)[:NAMED])
    return f"{len(ids)} ({first}{', …' if len(ids) > NAMED else ''})"


def _limited(clips: list[Clip], limit: int) -> list[Clip]:
    """Return at most `limit` clips of each side, spread evenly over a fixed shuffle so that no class is cut off."""
    kept: set[str] = set()
    for side in SPLITS:
        ids = [clip.id for clip in clips if clip.split == side]
        kept.update(np.random.default_rng(len(ids)).permutation(ids)[:limit].tolist())
    return [clip for clip in clips if clip.id in kept]
