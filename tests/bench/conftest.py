"""What the bench tests share: a dataset of tones, an encoder of band levels, the plain way to train one probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from carrara.bench.config import BenchConfig
from carrara.bench.probes.examples import Examples
from carrara.bench.probes.grid import GridSettings, ProbeProblem
from carrara.bench.probes.probe import ProbeShape, ProbeSpec, initial_probe
from carrara.bench.probes.rng import dropout_generator, kept, order
from carrara.bench.protocols import constrained
from carrara.bench.run import bench
from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Card, Encoder


@dataclass
class Plain:
    """What the plain loop found for one probe."""

    losses: list[float]
    scores: list[float]
    rates: list[float]
    best: float
    best_epoch: int
    logits: torch.Tensor


def train_plainly(question: ProbeProblem, spec: ProbeSpec, settings: GridSettings) -> Plain:
    """Train one probe as a tutorial would: torch's Adam, torch's scheduler, autograd, one probe in the world."""
    train, valid = question.train, question.valid
    several = len(spec.sources) if len(spec.sources) > 1 else 0
    shape = ProbeShape(train.width(spec.sources[0]), settings.hidden, settings.outputs, settings.dropout, several)
    probe = initial_probe(spec, shape)
    adam = torch.optim.Adam(probe.parameters(), lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, mode="max", factor=0.5, patience=settings.plateau_patience
    )
    heard = features(train, spec)
    watched = features(valid, spec)
    starts = np.concatenate(([0], np.cumsum(train.counts_N)))
    found = Plain([], [], [], -np.inf, -1, torch.empty(0))
    for epoch in range(settings.max_epochs):
        visits = order(spec.seed, epoch, len(train.counts_N))
        losses = []
        for step, low in enumerate(range(0, len(visits), settings.batch)):
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in visits[low : low + settings.batch]])
            generator = dropout_generator(spec.seed, epoch, step)
            mask = torch.from_numpy(kept(generator, len(rows), settings.hidden, settings.dropout))
            logits = probe(heard[..., rows, :], mask)
            loss = question.loss(logits[None], torch.from_numpy(train.targets_R[rows]))[0]
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        with torch.no_grad():
            answered = probe(watched)
        score = question.score(answered[None])[0]
        schedule.step(score)
        found.losses.append(float(np.mean(losses)))
        found.scores.append(score)
        found.rates.append(adam.param_groups[0]["lr"])
        if score > found.best:
            found.best, found.best_epoch, found.logits = score, epoch, answered
        if epoch - found.best_epoch >= settings.stop_patience:
            break
    return found


def features(examples: Examples, spec: ProbeSpec) -> torch.Tensor:
    """Return what a probe hears of all rows, `[R, D]` or `[L, R, D]`."""
    layers = [torch.from_numpy(np.asarray(examples.layers[name][examples.rows_R], np.float32)) for name in spec.sources]
    return layers[0] if len(layers) == 1 else torch.stack(layers)


@pytest.fixture
def plainly():
    return train_plainly


RATE = 2000
PITCHES = {"low": 125.0, "middle": 250.0, "high": 500.0}
SIDES = {"train": 24, "valid": 12, "test": 18}


class Bands(Encoder):
    """Row 0: levels of eight bands, row 1: the same squashed; ten frames a second."""

    def __init__(self, frame_rate: float | None = 10.0) -> None:
        super().__init__()
        self.settings = Settings()
        self.card = Card(
            name="bands",
            sample_rate=RATE,
            frame_rate=frame_rate,
            num_layers=1,
            dim=8,
            weights_sha256="b" * 64,
            parameters=0,
        )

    def frames(self, samples: int) -> int:
        return max(1, samples // 200)

    def forward(self, samples_BT, lengths_B=None):
        frames = self.frames(samples_BT.shape[1])
        padded = torch.nn.functional.pad(samples_BT, (0, max(0, 200 * frames - samples_BT.shape[1])))
        spectrum = torch.fft.rfft(padded[:, : 200 * frames].unflatten(1, (frames, 200))).abs()[..., 4:100]
        levels = torch.log1p(spectrum.unflatten(-1, (8, 12)).mean(-1))
        layers = torch.stack((levels, levels.tanh()), dim=1)
        if lengths_B is not None:
            for row, length in enumerate(lengths_B.tolist()):
                layers[row, :, self.frames(int(length)) :] = 0
        return layers


class Tones(Dataset):
    """Tones of three pitches, some of them noisy."""

    name = "tones"
    title = license = citation = source = ""
    commercial_use = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def root(self, data_dir=None):
        return self.folder

    def index(self, root):
        names = list(PITCHES)
        clips = []
        for number in range(sum(SIDES.values())):
            name, noisy = names[number % 3], number % 2 == 1
            labels = {"pitch": name, "tags": [name, *(["noisy"] if noisy else [])], "height": float(number % 3)}
            clips.append(Clip(f"tone-{number:02}", root / f"{number}.wav", labels=labels))
        return clips

    def splits(self, root):
        sides = [side for side, count in SIDES.items() for _ in range(count)]
        return {"all": {clip.id: side for clip, side in zip(self.index(root), sides)}, "none": {"tone-00": "train"}}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    for number, clip in enumerate(Tones(folder).index(folder)):
        draw = np.random.default_rng(number)
        time = np.arange(RATE) / RATE
        sound = 0.3 * np.sin(2 * np.pi * PITCHES[clip.labels["pitch"]] * time)
        sound += (0.2 if "noisy" in clip.labels["tags"] else 0.01) * draw.standard_normal(RATE)
        soundfile.write(clip.path, sound.clip(-1, 1).astype(np.float32), RATE)
    return Tones(folder)


@pytest.fixture
def ask(tones, tmp_path, monkeypatch):
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 1e-2))
    monkeypatch.setattr(constrained, "HIDDEN", 16)

    def measure(*tasks, encoder=None, limit=None, partial=False, **rules):
        return bench(
            encoder or Bands(),
            tasks,
            results=tmp_path / "results",
            config=BenchConfig(**rules),
            limit=limit,
            partial=partial,
            datasets={"tones": tones},
        )

    return measure


def tone_task(task_type="multiclass", **changes):
    values = {
        "version": 1,
        "dataset": "tones",
        "split_scheme": "all",
        "task_type": task_type,
        "label": "pitch",
        "labels": tuple(PITCHES),
        "metrics": ("accuracy",),
        "monitor": "accuracy",
        "category": "score",
        "max_epochs": 40,
        "name": "tones/pitch",
    }
    return Task(**values | changes)


@pytest.fixture
def task():
    return tone_task


@pytest.fixture
def tags():
    return tone_task(
        "multilabel",
        label="tags",
        labels=(*PITCHES, "noisy"),
        scores=("roc_auc", "average_precision"),
        monitor="roc_auc",
        name="tones/tags",
    )


@pytest.fixture
def bands():
    return Bands
