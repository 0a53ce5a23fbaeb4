"""Shared by the tests of protocols: random features, given as an encoder's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult
from carrara.bench.split_data import LabelledSplit, SplitData
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card, Encoder

FRAME_RATE = 10.0


class CardOnly(Encoder):
    """An encoder of ten frames a second that is never run; only its card is read."""

    def __init__(self, frame_rate: float | None = FRAME_RATE) -> None:
        super().__init__()
        self.settings = Settings()
        self.card = Card(name="made", sample_rate=100, frame_rate=frame_rate, num_layers=1, dim=4, cnn_dim=3)

    def num_frames(self, samples: int) -> int:
        return max(1, samples // 10)


@dataclass
class RandomData:
    """Clips' truths and features by split: `features[split][layer]` has an array of rows for each clip."""

    task: Task
    truths: dict
    features: dict
    rate: float | None = None

    @property
    def task_type(self):
        return TASK_TYPES.get(self.task.task_type)

    def split(self, name: str) -> LabelledSplit:
        layers = {layer: np.concatenate(clips).astype(np.float16) for layer, clips in self.features[name].items()}
        counts = [len(clip) for clip in next(iter(self.features[name].values()))]
        ends = np.cumsum(counts)
        rows_U = [np.arange(end - count, end) for end, count in zip(ends, counts)]
        clips = [Clip(f"{name}-{index}", "") for index in range(len(counts))]
        return LabelledSplit(clips, layers, rows_U, self.rate, self.truths[name])

    def test(self) -> SplitData:
        """Return the test split without truths."""
        split = self.split("test")
        return SplitData(split.clips, split.layers, split.rows_U, split.frame_rate)

    def inputs(self, seeds=(1234,), settings=None, encoder=None) -> ProtocolInputs:
        return ProtocolInputs(
            task=self.task,
            task_type=self.task_type,
            encoder=encoder or CardOnly(),
            train=self.split("train"),
            valid=self.split("valid"),
            settings=settings,
            seeds=seeds,
        )

    def run(self, protocol: Protocol, seeds=(1234,), settings=None, encoder=None) -> ProtocolResult:
        """Run a protocol as `carrara.bench.run` does: first whether it fits, then without the test split."""
        settings = settings or protocol.settings()
        encoder = encoder or CardOnly()
        protocol.window_spec(self.task, self.task_type, encoder.card, settings)
        return protocol.run(self.inputs(seeds, settings, encoder))


def task(task_type="multiclass", **changes):
    values = {
        "version": 1,
        "dataset": "random",
        "split_scheme": "all",
        "task_type": task_type,
        "label": "kind",
        "labels": ("a", "b", "c"),
        "metrics": ("accuracy",),
        "monitor": "accuracy",
        "category": "score",
        "max_epochs": 40,
        "name": "random/kind",
    }
    return Task(**values | changes)


@pytest.fixture
def clouds():
    """Give three classes around three centres; in layer "1" they are apart, in layer "0" noise hides them."""

    def make(spread=0.3, counts=None, **changes):
        truths, features = {}, {}
        centres = np.random.default_rng(5).standard_normal((3, 6))
        for index, (name, count) in enumerate((counts or {"train": 60, "valid": 30, "test": 45}).items()):
            draw = np.random.default_rng(index)
            truth = draw.integers(0, 3, count)
            truth[:3] = 0, 1, 2
            near = centres[truth] + spread * draw.standard_normal((count, 6))
            truths[name] = truth.tolist()
            features[name] = {"0": list(20 * draw.standard_normal((count, 1, 6))), "1": list(near[:, None])}
        return RandomData(task(**changes), truths, features)

    return make


@pytest.fixture
def random_data():
    return RandomData


@pytest.fixture
def make_task():
    return task


@pytest.fixture
def card_only():
    return CardOnly


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
