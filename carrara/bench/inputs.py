"""From a task to its sides: the dataset's clips, their features, and which of them are missing.

A clip of several windows becomes one embedding here where the task says so. Features of clips that take part in several
tasks are extracted once; the store would remember them too, but looking at every file again is not free.

Letters: U clips.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carrara.bench.answers._base import Answer
from carrara.bench.protocols._base import Sides
from carrara.bench.sides import Side, averaged
from carrara.core.clip import SPLITS, Clip
from carrara.core.errors import DataError
from carrara.core.task import Task
from carrara.data import SHELF as DATA
from carrara.data._base import Dataset
from carrara.encoders._base import Encoder
from carrara.features.extract import Features, View, extract

LEAST_CLIPS = 2


@dataclass
class Library:
    """Datasets and features for one encoder, each fetched once.

    Attributes:
        encoder: who hears the clips.
        data_dir: folder of the datasets; none: where `$CARRARA_DATA` says.
        device: where the encoder runs.
        limit: clips of a side at most, drawn evenly; none: all.
        datasets: datasets by name that take the place of the shelf's.
    """

    encoder: Encoder
    data_dir: Path | None = None
    device: str = "cpu"
    limit: int | None = None
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    _clips: dict[tuple[str, str], list[Clip]] = field(default_factory=dict)
    _features: dict[tuple[str, str, View], Features] = field(default_factory=dict)

    def clips(self, task: Task) -> list[Clip]:
        """Return the clips that take part in a task, each with its side.

        Raises:
            DataError: a side has too few clips.
        """
        key = (task.dataset, task.split)
        if key not in self._clips:
            dataset = self.datasets.get(task.dataset) or DATA.get(task.dataset)
            found = [clip for clip in dataset.clips(dataset.root(self.data_dir), task.split) if clip.split]
            self._clips[key] = found if self.limit is None else _limited(found, self.limit)
        return self._clips[key]

    def sides(self, task: Task, answer: Answer) -> Prepared:
        """Return a task's sides with their features.

        Raises:
            DataError: a side has fewer than two clips that could be heard.
        """
        clips = self.clips(task)
        enough(task, clips)
        began = time.perf_counter()
        features = self._heard(task, answer, clips)
        missing = set(features.missing)
        heard = [(clip, rows) for clip, rows in zip(clips, _rows(features)) if clip.id not in missing and len(rows)]
        enough(task, [clip for clip, _ in heard])
        layers: dict[str, Any] = {name: features.layer(name) for name in features.layers}
        rows_U = [rows for _, rows in heard]
        if not answer.frames and task.aggregate == "embedding" and any(len(rows) > 1 for rows in rows_U):
            layers, rows_U = averaged(layers, rows_U), list(np.arange(len(rows_U))[:, None])
        sounding = [clip for clip, _ in heard]
        rate = features.frame_rate if answer.frames else None

        def side(name: str) -> Side:
            places = [place for place, clip in enumerate(sounding) if clip.split == name]
            truths = answer.truths(task, [sounding[place] for place in places])
            return Side(truths, layers, [rows_U[place] for place in places], rate)

        sides = Sides(side("train"), side("valid"), lambda: side("test"))
        return Prepared(sides, sounding, sorted(missing), {"features": time.perf_counter() - began})

    def _heard(self, task: Task, answer: Answer, clips: list[Clip]) -> Features:
        whole_frames = View(window_seconds=None, pool="frames")
        view = whole_frames if answer.frames else View(window_seconds=task.window_seconds, pool="mean")
        key = (task.dataset, task.split, view)
        if key not in self._features:
            self._features[key] = extract(self.encoder, clips, view, device=self.device)
        return self._features[key]


@dataclass(frozen=True)
class Prepared:
    """A task's sides, the clips that were heard, the ids of those that were not, and seconds by phase."""

    sides: Sides
    clips: list[Clip]
    missing: list[str]
    seconds: dict[str, float]

    def test_ids(self) -> list[str]:
        """Return the ids of the test clips, in the order of the test side."""
        return [clip.id for clip in self.clips if clip.split == "test"]


def enough(task: Task, clips: Sequence[Clip]) -> None:
    """Check that every side has clips to work with.

    Raises:
        DataError: one has not.
    """
    counts = {side: sum(clip.split == side for clip in clips) for side in SPLITS}
    for side, count in counts.items():
        if count < LEAST_CLIPS:
            raise DataError(
                f"task {task.name!r}: the {side} side of {task.dataset}/{task.split} has too few clips ({count}, at "
                f"least {LEAST_CLIPS} are needed); `carrara check {task.dataset}` shows what is on disk"
            )


def _limited(clips: list[Clip], limit: int) -> list[Clip]:
    """Return at most `limit` clips of each side, spread evenly over a fixed shuffle so that no class is cut off."""
    kept: set[str] = set()
    for side in SPLITS:
        ids = [clip.id for clip in clips if clip.split == side]
        kept.update(np.random.default_rng(len(ids)).permutation(ids)[:limit].tolist())
    return [clip for clip in clips if clip.id in kept]


def _rows(features: Features) -> list[np.ndarray]:
    return [np.arange(rows.start, rows.stop) for rows in features.rows]
