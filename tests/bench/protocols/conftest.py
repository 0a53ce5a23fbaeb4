"""What the tests of protocols share: features that were made up, given as an encoder's, with a test side that tells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from carrara.bench.protocols._base import ProtocolInputs, Splits
from carrara.bench.split_features import SplitFeatures
from carrara.bench.task_types import REGISTRY as TASK_TYPES
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.encoders._base import Card, Encoder

FRAME_RATE = 10.0


class Made(Encoder):
    """An encoder of ten frames a second that is never heard; it only has a card."""

    def __init__(self, frame_rate: float | None = FRAME_RATE) -> None:
        super().__init__()
        self.settings = Settings()
        self.card = Card(name="made", sample_rate=100, frame_rate=frame_rate, num_layers=1, dim=4)

    def frames(self, samples: int) -> int:
        return max(1, samples // 10)


@dataclass
class Setting:
    """Clips' truths and features by side: `features[side][layer]` has an array of rows a clip."""

    task: Task
    truths: dict
    features: dict
    rate: float | None = None
    opened: list = field(default_factory=list)

    def side(self, name: str) -> SplitFeatures:
        self.opened.append(name)
        layers = {layer: np.concatenate(clips).astype(np.float16) for layer, clips in self.features[name].items()}
        counts = [len(clip) for clip in next(iter(self.features[name].values()))]
        ends = np.cumsum(counts)
        rows_U = [np.arange(end - count, end) for end, count in zip(ends, counts)]
        return SplitFeatures(self.truths[name], layers, rows_U, self.rate)

    def inputs(self, seeds=(1234,), settings=None, encoder=None) -> ProtocolInputs:
        def sides():
            return Splits(self.side("train"), self.side("valid"), lambda: self.side("test"))

        return ProtocolInputs(
            task=self.task,
            answer=TASK_TYPES.get(self.task.task_type),
            encoder=encoder or Made(),
            clips={},
            sides=sides,
            frame_sides=sides,
            seeds=seeds,
            device="cpu",
            settings=settings,
        )


def task(task_type="multiclass", **changes):
    values = {
        "version": 1,
        "dataset": "made",
        "split_scheme": "all",
        "task_type": task_type,
        "label": "kind",
        "labels": ("a", "b", "c"),
        "metrics": ("accuracy",),
        "monitor": "accuracy",
        "category": "score",
        "max_epochs": 40,
        "name": "made/kind",
    }
    return Task(**values | changes)


@pytest.fixture
def clouds():
    """Give three classes around three centres; in layer "1" they are apart, in layer "0" noise hides them."""

    def make(spread=0.3, counts=None, **changes):
        truths, features = {}, {}
        centres = np.random.default_rng(5).standard_normal((3, 6))
        for place, (name, count) in enumerate((counts or {"train": 60, "valid": 30, "test": 45}).items()):
            draw = np.random.default_rng(place)
            truth = draw.integers(0, 3, count)
            truth[:3] = 0, 1, 2
            near = centres[truth] + spread * draw.standard_normal((count, 6))
            truths[name] = truth.tolist()
            features[name] = {"0": list(20 * draw.standard_normal((count, 1, 6))), "1": list(near[:, None])}
        return Setting(task(**changes), truths, features)

    return make


@pytest.fixture
def setting():
    return Setting


@pytest.fixture
def row():
    return task


@pytest.fixture
def made():
    return Made


@pytest.fixture
def watched_answers(monkeypatch):
    """Give a list of what happens to a setting: sides that are opened, truths that answers are scored against."""

    def watch(setting):
        order = setting.opened
        answer = TASK_TYPES.get(setting.task.answer)
        metrics = answer.metrics

        def told(task, truths, answers):
            order.append(f"scored {len(truths)}")
            return metrics(task, truths, answers)

        object.__setattr__(answer, "metrics", told)
        undo.append((answer, metrics))
        return order

    undo = []
    yield watch
    for answer, metrics in undo:
        object.__setattr__(answer, "metrics", metrics)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
