"""Shared by the bench tests: a dataset of tones, an encoder of band levels, a plain training loop for one probe."""

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
from carrara.bench.probes.rng import dropout_generator, dropout_mask, epoch_permutation
from carrara.bench.protocols import constrained
from carrara.bench.run import bench
from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Card, Encoder


@dataclass
class PlainResult:
    """The history of one probe in the plain loop."""

    losses: list[float]
    scores: list[float]
    rates: list[float]
    best: float
    best_epoch: int
    logits: torch.Tensor


def train_plainly(problem: ProbeProblem, spec: ProbeSpec, settings: GridSettings) -> PlainResult:
    """Train one probe with a plain loop: torch's Adam, torch's scheduler, autograd, one probe at a time."""
    train, valid = problem.train, problem.valid
    num_summed = len(spec.sources) if len(spec.sources) > 1 else 0
    shape = ProbeShape(train.dim(spec.sources[0]), settings.hidden, settings.outputs, settings.dropout, num_summed)
    probe = initial_probe(spec, shape)
    adam = torch.optim.Adam(probe.parameters(), lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, mode="max", factor=0.5, patience=settings.plateau_patience
    )
    train_x, valid_x = features(train, spec), features(valid, spec)
    starts = np.concatenate(([0], np.cumsum(train.counts_N)))
    result = PlainResult([], [], [], -np.inf, -1, torch.empty(0))
    for epoch in range(settings.max_epochs):
        visits = epoch_permutation(spec.seed, epoch, len(train.counts_N))
        losses = []
        for step, low in enumerate(range(0, len(visits), settings.batch_size)):
            picks = visits[low : low + settings.batch_size]
            rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in picks])
            generator = dropout_generator(spec.seed, epoch, step)
            mask = torch.from_numpy(dropout_mask(generator, len(rows), settings.hidden, settings.dropout))
            logits = probe(train_x[..., rows, :], mask)
            loss = problem.loss(logits[None], torch.from_numpy(train.targets_R[rows]))[0]
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        with torch.no_grad():
            valid_logits = probe(valid_x)
        score = problem.score(valid_logits[None])[0]
        schedule.step(score)
        result.losses.append(float(np.mean(losses)))
        result.scores.append(score)
        result.rates.append(adam.param_groups[0]["lr"])
        if score > result.best:
            result.best, result.best_epoch, result.logits = score, epoch, valid_logits
        if epoch - result.best_epoch >= settings.stop_patience:
            break
    return result


def features(examples: Examples, spec: ProbeSpec) -> torch.Tensor:
    """Return the inputs of a probe for all rows, `[R, D]` or `[L, R, D]`."""
    layers = [torch.from_numpy(np.asarray(examples.layers[name][examples.rows_R], np.float32)) for name in spec.sources]
    return layers[0] if len(layers) == 1 else torch.stack(layers)


@pytest.fixture
def plainly():
    return train_plainly


RATE = 2000
PITCHES = {"low": 125.0, "middle": 250.0, "high": 500.0}
SPLIT_SIZES = {"train": 24, "valid": 12, "test": 18}


class Bands(Encoder):
    """Row 0: levels of eight bands, row 1: the same squashed; ten frames a second."""

    def __init__(self, **changes) -> None:
        super().__init__()
        self.settings = Settings()
        facts = {"sample_rate": RATE, "frame_rate": 10.0, "num_layers": 1, "dim": 8, "weights_sha256": "b" * 64}
        self.card = Card(name="bands", **facts | changes)

    def num_frames(self, samples: int) -> int:
        return max(1, samples // 200)

    def forward(self, samples_BT, lengths_B=None):
        frames = self.num_frames(samples_BT.shape[1])
        padded = torch.nn.functional.pad(samples_BT, (0, max(0, 200 * frames - samples_BT.shape[1])))
        spectrum = torch.fft.rfft(padded[:, : 200 * frames].unflatten(1, (frames, 200))).abs()[..., 4:100]
        levels = torch.log1p(spectrum.unflatten(-1, (8, 12)).mean(-1))
        layers = torch.stack((levels, levels.tanh()), dim=1)
        if lengths_B is not None:
            for row, length in enumerate(lengths_B.tolist()):
                layers[row, :, self.num_frames(int(length)) :] = 0
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
        for number in range(sum(SPLIT_SIZES.values())):
            name, noisy = names[number % 3], number % 2 == 1
            tags = [name, *(["noisy"] if noisy else [])]
            labels = {"pitch": name, "tags": tags, "height": float(number % 3), "beats": [0.25, 0.75]}
            clips.append(Clip(f"tone-{number:02}", root / f"{number}.wav", labels=labels))
        return clips

    def splits(self, root):
        splits = [split for split, count in SPLIT_SIZES.items() for _ in range(count)]
        return {"all": {clip.id: split for clip, split in zip(self.index(root), splits)}, "none": {"tone-00": "train"}}


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
def measure(tones, tmp_path, monkeypatch):
    """Give a function that benchmarks an encoder on tasks over the tones, with two learning rates and small probes."""
    monkeypatch.setenv("CARRARA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constrained, "LEARNING_RATES", (1e-3, 1e-2))
    monkeypatch.setattr(constrained, "HIDDEN", 16)

    def run(*tasks, encoder=None, limit=None, partial=False, **config):
        return bench(
            encoder or Bands(),
            tasks,
            results=tmp_path / "results",
            config=BenchConfig(**config),
            limit=limit,
            partial=partial,
            datasets={"tones": tones},
        )

    return run


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
        metrics=("roc_auc", "average_precision"),
        monitor="roc_auc",
        name="tones/tags",
    )


@pytest.fixture
def bands():
    return Bands
