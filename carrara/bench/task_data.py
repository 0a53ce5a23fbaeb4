"""From a task to its data: the dataset's clips, which of them can be used, their truths and their features.

Which clips are used is decided here, once, for every protocol alike: a clip whose audio is absent or cannot be decoded
is an error, or with `partial` leaves the task, and the record calls itself partial. Features that several tasks share
are extracted once.

Letters: U clips.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from carrara.audio.decode import load_audio
from carrara.audio.stems import load_stem
from carrara.bench.provenance import index_identity
from carrara.bench.separation.songs import clip_stems
from carrara.bench.split_data import LabelledSplit, SplitData, average_windows
from carrara.bench.task_types._base import TaskType
from carrara.core.clip import SPLITS, Clip, Split
from carrara.core.errors import AbsentError, AudioError, DataError
from carrara.core.progress import track
from carrara.core.task import Task
from carrara.data import REGISTRY as DATASETS
from carrara.data._base import Dataset
from carrara.data.folder import FolderDataset
from carrara.encoders._base import Card, Encoder
from carrara.features.extract import Features, extract
from carrara.features.windows import WindowSpec

MIN_CLIPS = 2
MAX_NAMED = 3
DECODE_THREADS = 2


@dataclass(frozen=True)
class TaskIndex:
    """The clips of a task, whether their audio is present or not.

    Attributes:
        clips: each with its split; at most `limit` of a split.
        absent: ids of those whose audio is not on disk.
        shortfall: what the annotations on disk lack of the whole dataset; empty where they are complete.
    """

    clips: list[Clip]
    absent: set[str]
    shortfall: str

    @cached_property
    def identity(self) -> str:
        """Return the identity of ids, splits and labels of the clips."""
        return index_identity(self.clips)


@dataclass(frozen=True)
class TaskData:
    """What a task is measured on.

    Attributes:
        task, task_type: the task.
        window_spec: how the features were extracted; None where the protocol reads audio.
        splits: the usable clips of each split, with truths, and features unless `window_spec` is None.
        missing: ids of the clips that are absent or cannot be decoded, sorted.
    """

    task: Task
    task_type: TaskType
    window_spec: WindowSpec | None
    splits: Mapping[Split, LabelledSplit]
    missing: tuple[str, ...]

    def unlabelled_test(self) -> SplitData:
        """Return the test split without truths and labels; the stems of source separation and text queries stay."""
        test = self.splits["test"]
        clips: Iterable[Clip] = test.clips
        if self.task_type.has_text_queries:
            clips = [replace(clip, labels={self.task.label: clip.labels.get(self.task.label)}) for clip in clips]
        elif self.task_type.reads_features:
            clips = [replace(clip, labels={}) for clip in clips]
        return SplitData(list(clips), test.layers, test.rows_U, test.frame_rate)


@dataclass
class FeatureProvider:
    """Clips, truths and features of tasks for one encoder; indexes and features stay in memory.

    Attributes:
        encoder: the encoder.
        data_dir: folder of the datasets. None means `$CARRARA_DATA`.
        device: where the encoder runs.
        limit: use at most so many clips of each split, drawn evenly from those present. None means all.
        partial: whether clips may be missing.
        datasets: datasets by name that replace those of the registry.
        home: where features are stored. None means `$CARRARA_HOME`.
    """

    encoder: Encoder
    data_dir: Path | None = None
    device: str = "cpu"
    limit: int | None = None
    partial: bool = False
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    home: Path | None = None
    _indexes: dict[tuple[str, str], TaskIndex] = field(default_factory=dict)
    _features: dict[tuple[str, WindowSpec, tuple[str, ...]], Features] = field(default_factory=dict)

    def with_encoder(self, encoder: Encoder, home: Path | None) -> FeatureProvider:
        """Return a provider of the same clips for another encoder, with another home."""
        return replace(self, encoder=encoder, home=home, _features={})

    @cached_property
    def card(self) -> Card:
        """Return the encoder's card with the hash of its weights as they are now."""
        return self.encoder.card.model_copy(update={"weights_sha256": self.encoder.hash_weights()})

    def dataset(self, task: Task) -> Dataset:
        """Return the dataset of a task."""
        return self.datasets.get(task.dataset) or DATASETS.get(task.dataset)

    def index(self, task: Task) -> TaskIndex:
        """Return the clips of a task.

        Raises:
            AbsentError: the dataset is not on disk.
            DataError: its annotations are not as distributed.
        """
        key = (task.dataset, task.split_scheme)
        if key in self._indexes:
            return self._indexes[key]
        dataset = self.dataset(task)
        root = dataset.root(self.data_dir)
        if not root.exists():
            raise AbsentError(f"{dataset.name} is not at {root}; {dataset.download_cure(self.data_dir)}")
        clips = [clip for clip in dataset.clips(root, task.split_scheme) if clip.split]
        absent = {clip.id for clip in clips if not all(path.is_file() for path in dataset.paths(clip))}
        if len(absent) == len(clips) > 0:
            path = next(path for clip in clips for path in dataset.paths(clip) if not path.is_file())
            raise dataset.absent_audio(f"the audio of {dataset.name} is not at {root}, such as {path}", self.data_dir)
        self._warn_of_leaks(task, dataset, clips)
        if self.limit is not None:
            clips, absent = _limit([clip for clip in clips if clip.id not in absent], self.limit), set()
        counts = Counter(str(clip.split) for clip in clips)
        expected = dataset.expected_counts_at(root).get(task.split_scheme, {})
        differences = [
            f"{counts[split]:,} {split} clips, not {number:,}"
            for split, number in expected.items()
            if counts[split] != number
        ]
        shortfall = f"the annotations define {', '.join(differences)}" if differences else ""
        self._indexes[key] = TaskIndex(clips, absent, shortfall)
        return self._indexes[key]

    def present_clips(self, task: Task, splits: Sequence[Split] = SPLITS) -> list[Clip]:
        """Return the clips of a task whose audio is on disk; each of these splits must have enough.

        Raises:
            AbsentError: the dataset is not on disk.
            DataError: clips are missing and `partial` is off, or a split has too few.
        """
        index = self.index(task)
        if index.absent and not self.partial:
            names = ", ".join(sorted(index.absent)[:MAX_NAMED]) + (", …" if len(index.absent) > MAX_NAMED else "")
            raise self._incomplete(
                task,
                f"the audio of {len(index.absent)} ({names}) of {len(index.clips)} clips is not on disk",
                self.dataset(task).completion_cure(self.data_dir),
            )
        if index.shortfall and not self.partial and self.limit is None:
            raise self._incomplete(task, index.shortfall, self.dataset(task).completion_cure(self.data_dir))
        clips = [clip for clip in index.clips if clip.id not in index.absent]
        self._check_split_sizes(task, clips, splits)
        return clips

    def load(
        self,
        task: Task,
        task_type: TaskType,
        window_spec: WindowSpec | None,
        splits: Sequence[Split] = SPLITS,
    ) -> TaskData:
        """Return a task's usable clips with truths, and with features unless `window_spec` is None.

        Raises:
            UsageError: the task requests a metric that its kind has not.
            DataError: clips are missing and `partial` is off, a clip lacks its label, or a split has too few clips or
                labels that do not vary.
        """
        task_type.check(task)
        task_index = self.index(task)
        clips = [clip for clip in self.present_clips(task, splits) if clip.split in splits]
        # Before the features, which may take hours: a wrong label stops at once.
        truth_of = dict(zip((clip.id for clip in clips), task_type.truths(task, clips)))
        strict = isinstance(self.dataset(task), FolderDataset) and not self.partial and self.limit is None
        task_type.check_truths(task, clips, list(truth_of.values()), strict)
        features = None
        if window_spec is None:
            undecodable = _undecodable(task, task_type, clips, self.encoder.card.sample_rate)
        else:
            features = self._extract(task, window_spec, clips)
            undecodable = {
                clip.id: features.missing.get(clip.id, f"{clip.path}: has no samples")
                for clip, rows in zip(clips, features.rows)
                if clip.id in features.missing or rows.stop == rows.start
            }
        if undecodable and not self.partial:
            first = next(iter(undecodable.values()))
            raise self._incomplete(task, f"{len(undecodable)} clips cannot be decoded, first {first}")
        usable = [clip for clip in clips if clip.id not in undecodable]
        self._check_split_sizes(task, usable, splits)
        layers: dict[str, Any] = {}
        rows_U: list[np.ndarray] = []
        frame_rate = None
        if features is not None and window_spec is not None:
            slices = [rows for clip, rows in zip(clips, features.rows) if clip.id not in undecodable]
            layers, rows_U = _layers_and_rows(task, window_spec, features, slices)
            frame_rate = features.frame_rate if window_spec.pool == "frames" else None
        by_split = {split: LabelledSplit() for split in SPLITS}
        for split in splits:
            picks = [index for index, clip in enumerate(usable) if clip.split == split]
            own = [usable[index] for index in picks]
            own_rows_U = [rows_U[index] for index in picks] if rows_U else []
            truths = [truth_of[clip.id] for clip in own]
            by_split[split] = LabelledSplit(own, layers, own_rows_U, frame_rate, truths)
        return TaskData(task, task_type, window_spec, by_split, tuple(sorted({*task_index.absent, *undecodable})))

    def corrupted_test(self, data: TaskData, corruption: str) -> SplitData:
        """Return the unlabelled test split with the features of its audio corrupted by `corruption` (`noise:20db`).

        Raises:
            DataError: a clip cannot be decoded any more.
        """
        test = data.unlabelled_test()
        if data.window_spec is None:
            raise ValueError("audio that a protocol reads itself cannot be corrupted")
        window_spec = data.window_spec.model_copy(update={"corruption": corruption})
        features = self._extract(data.task, window_spec, test.clips)
        if features.missing:
            first = next(iter(features.missing.values()))
            raise self._incomplete(
                data.task, f"{len(features.missing)} corrupted clips cannot be decoded, first {first}"
            )
        layers, rows_U = _layers_and_rows(data.task, window_spec, features, features.rows)
        return replace(test, layers=layers, rows_U=rows_U)

    def _extract(self, task: Task, window_spec: WindowSpec, clips: Sequence[Clip]) -> Features:
        key = (task.dataset, window_spec, tuple(clip.id for clip in clips))
        if key not in self._features:
            self._features[key] = extract(
                self.encoder, clips, window_spec, self.home, self.device, weights_sha256=self.card.weights_sha256
            )
        return self._features[key]

    def _incomplete(self, task: Task, problem: str, cure: str = "") -> DataError:
        check = self.dataset(task).check_command(self.data_dir)
        return DataError(
            f"task {task.name!r}: {problem}; {cure}{', ' if cure else ''}`{check}` shows all, --partial measures on "
            "the others (the record is then marked partial)"
        )

    def _check_split_sizes(self, task: Task, clips: Sequence[Clip], splits: Sequence[Split] = SPLITS) -> None:
        counts = Counter(clip.split for clip in clips)
        for split in splits:
            if counts[split] < MIN_CLIPS:
                cure = f"`{self.dataset(task).check_command(self.data_dir)}` shows what is on disk"
                if self.dataset(task).name == "folder":
                    cure = "add recordings, or say in a column `split` what each clip is for"
                raise DataError(
                    f"task {task.name!r}: the {split} split of {task.dataset}/{task.split_scheme} has "
                    f"{counts[split]} clips, fewer than {MIN_CLIPS}; {cure}"
                )

    def _warn_of_leaks(self, task: Task, dataset: Dataset, clips: Sequence[Clip]) -> None:
        """Warn where groups are in several splits that the dataset's authors did not put there."""
        splits_of: dict[str, set[str]] = {}
        for clip in clips:
            if clip.group is not None:
                splits_of.setdefault(clip.group, set()).add(str(clip.split))
        leaks = {group: sorted(splits) for group, splits in splits_of.items() if len(splits) > 1}
        if leaks and dataset.known_leaks.get(task.split_scheme, 0) not in (None, len(leaks)):
            group, splits = next(iter(sorted(leaks.items())))
            warnings.warn(
                f"{task.dataset}: {len(leaks)} groups are in several splits, such as {group} in "
                f"{' and '.join(splits)}; scores may be too high, `{dataset.check_command(self.data_dir)}` lists them",
                stacklevel=2,
            )


def _layers_and_rows(
    task: Task, window_spec: WindowSpec, features: Features, slices: Sequence[slice]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the features by layer and each clip's rows, averaged over a clip's windows where the task says so."""
    layers: dict[str, Any] = {name: features.layer(name) for name in features.layers}
    rows_U = [np.arange(rows.start, rows.stop) for rows in slices]
    if window_spec.pool != "frames" and task.aggregate == "embedding" and any(len(rows) > 1 for rows in rows_U):
        return dict(average_windows(layers, rows_U)), list(np.arange(len(rows_U))[:, None])
    return layers, rows_U


def _undecodable(task: Task, task_type: TaskType, clips: Sequence[Clip], sample_rate: int) -> dict[str, str]:
    """Return by id why a clip, or a stem of it, cannot be decoded; every clip is decoded to the end."""

    def decode(clip: Clip) -> str:
        try:
            if task_type.reads_features:
                load_audio(clip.path, sample_rate, clip.start, clip.duration)
            else:
                for stem in clip_stems(task, clip):
                    load_stem(stem)
        except AudioError as problem:
            return str(problem)
        return ""

    with ThreadPoolExecutor(DECODE_THREADS) as workers:
        problems = list(track(workers.map(decode, clips), "checking audio", len(clips)))
    return {clip.id: problem for clip, problem in zip(clips, problems) if problem}


def _limit(clips: list[Clip], limit: int) -> list[Clip]:
    """Return at most `limit` clips of each split, spread evenly over a fixed shuffle so that no class is cut off."""
    ids: set[str] = set()
    for split in SPLITS:
        of_split = [clip.id for clip in clips if clip.split == split]
        ids.update(np.random.default_rng(len(of_split)).permutation(of_split)[:limit].tolist())
    return [clip for clip in clips if clip.id in ids]
