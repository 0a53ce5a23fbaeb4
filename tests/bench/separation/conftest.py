"""Toy songs of a low tone and a high hiss, in stereo, and an encoder of band levels."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.core.task import Task
from carrara.data._base import Dataset
from carrara.encoders._base import Card, Encoder

RATE = 44_100
SPLITS = ("train", "train", "train", "train", "valid", "valid", "test", "test", "test")


class Levels(Encoder):
    """Levels of sixteen bands up to 8 kHz, fifty frames a second."""

    def __init__(self, window_seconds: float | None = None) -> None:
        super().__init__()
        self.settings = Settings()
        self.card = Card(
            name="levels",
            sample_rate=16_000,
            frame_rate=50.0,
            num_layers=0,
            dim=16,
            window_seconds=window_seconds,
            weights_sha256="a" * 64,
        )

    def num_frames(self, samples: int) -> int:
        return max(1, samples // 320)

    def forward(self, samples_BT, lengths_B=None):
        frames = samples_BT[:, : self.num_frames(samples_BT.shape[1]) * 320].unflatten(1, (-1, 320))
        return torch.log(torch.fft.rfft(frames).abs()[..., 1:].unflatten(-1, (16, 10)).mean(-1) + 1e-3)[:, None]


class Toys(Dataset):
    """Songs of two stems, files beside the mixture."""

    name = "toys"
    title = license = citation = source = ""
    commercial_use = None

    def __init__(self, folder):
        self.folder = folder

    def root(self, data_dir=None):
        return self.folder

    def index(self, root):
        labels = {"tone": "tone.wav", "hiss": "hiss.wav"}
        return [Clip(f"song-{n}", root / f"{n}" / "mixture.wav", labels=labels) for n in range(len(SPLITS))]

    def splits(self, root):
        return {"all": {clip.id: split for clip, split in zip(self.index(root), SPLITS)}}


def toy_song(number, seconds):
    """Return tone and hiss: the tone left of the middle, the hiss right, each on and off at its own rate."""
    rng = np.random.default_rng(number)
    time = np.arange(round(seconds * RATE)) / RATE
    on = (np.sin(2 * np.pi * time * rng.uniform(1, 2)) > -0.3).astype(np.float64)
    tone = 0.2 * on * np.sin(2 * np.pi * rng.uniform(300, 900) * time)
    white = rng.standard_normal(len(time))
    hiss = 0.1 * np.roll(on, len(time) // 3) * (white - np.roll(white, 1))
    return np.stack([tone, 0.5 * tone]), np.stack([0.4 * hiss, hiss])


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    for number in range(len(SPLITS)):
        tone, hiss = toy_song(number, 1.3 + 0.1 * number)
        (folder / f"{number}").mkdir()
        for name, samples in {"mixture": tone + hiss, "tone": tone, "hiss": hiss}.items():
            soundfile.write(folder / f"{number}" / f"{name}.wav", samples.T, RATE, "FLOAT")
    return Toys(folder)


@pytest.fixture
def task():
    return Task(
        version=1,
        dataset="toys",
        split_scheme="all",
        task_type="source_separation",
        label="stems",
        labels=("tone", "hiss"),
        window_seconds=0.5,
        examples_per_clip=8,
        metrics=("sdr_tone", "sdr_hiss"),
        monitor="sdr",
        category="acoustic",
        max_epochs=6,
        plateau_patience=2,
        stop_patience=4,
        name="toys/stems",
    )


@pytest.fixture
def levels():
    return Levels


@pytest.fixture
def splits(toys):
    """Return the toy clips of each split."""
    clips = toys.clips(toys.folder, "all")
    return {split: [clip for clip in clips if clip.split == split] for split in ("train", "valid", "test")}
