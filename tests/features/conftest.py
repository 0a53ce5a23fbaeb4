"""An encoder that needs no network, whose every number can be worked out by hand, and some sounds to give it."""

import numpy as np
import pytest
import soundfile
import torch

from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder

RATE, STRIDE = 8000, 80


class Scaled(Settings):
    """How loud it hears."""

    scale: float = 1.0


class Plain(Encoder):
    """Row l, frame f holds (l + 1) · scale · the mean of the frame's samples and (l + 1) · scale · their largest."""

    def __init__(self, name="plain", scale=1.0, layers=2, **changes):
        super().__init__()
        self.settings = Scaled(scale=scale)
        known = {"sample_rate": RATE, "frame_rate": RATE / STRIDE, "dim": 2, "cnn_dim": 1, "weights": "none"}
        self.card = Card(name=name, num_layers=layers, **{**known, **changes})
        self.heard = []

    def frames(self, samples):
        return max(samples // STRIDE, 1)

    def _pieces(self, samples_BT, lengths_B):
        lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        frames = self.frames(samples_BT.shape[1])
        out_BF = torch.zeros(len(samples_BT), frames, 2)
        for row, (samples_T, length) in enumerate(zip(samples_BT, lengths)):
            for frame in range(self.frames(length)):
                piece = samples_T[:length][frame * STRIDE : (frame + 1) * STRIDE]
                out_BF[row, frame, 0], out_BF[row, frame, 1] = piece.mean(), piece.max()
        return out_BF

    def forward(self, samples_BT, lengths_B=None):
        self.heard.append(tuple(samples_BT.shape))
        pieces_BFD = self._pieces(samples_BT, lengths_B) * self.settings.scale
        return torch.stack([(layer + 1) * pieces_BFD for layer in range(self.card.num_layers + 1)], dim=1)

    def cnn(self, samples_BT, lengths_B=None):
        return self._pieces(samples_BT, lengths_B)[..., :1] * 10


@pytest.fixture
def plain():
    return Plain


@pytest.fixture
def clips(tmp_path):
    """Return clips of noise of different lengths, each with its file."""

    def make(*seconds, folder=tmp_path / "sounds", rate=RATE):
        folder.mkdir(exist_ok=True)
        made = []
        for place, length in enumerate(seconds):
            path = folder / f"{place:03d}.wav"
            noise = np.random.default_rng([place, round(length * 1000)]).uniform(-0.5, 0.5, round(length * rate))
            soundfile.write(path, noise, rate, subtype="FLOAT")
            made.append(Clip(f"clip-{place}", path))
        return made

    return make
