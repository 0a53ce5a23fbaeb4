"""An encoder without a network, whose every number can be worked out by hand, and clips of noise for it."""

import numpy as np
import pytest
import soundfile
import torch

from carrara.core.clip import Clip
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder

RATE, STRIDE = 8000, 80


class Scaled(Settings):
    """A factor on all features."""

    scale: float = 1.0


class Plain(Encoder):
    """Row l, frame f holds (l + 1) · scale · the mean of the frame's samples and (l + 1) · scale · their maximum."""

    def __init__(self, name="plain", scale=1.0, layers=2, **changes):
        super().__init__()
        self.settings = Scaled(scale=scale)
        known = {"sample_rate": RATE, "frame_rate": RATE / STRIDE, "dim": 2, "cnn_dim": 1, "weights_sha256": "none"}
        self.card = Card(name=name, **{**known, "num_layers": layers, **changes})
        self.batch_shapes = []

    def num_frames(self, samples):
        return max(samples // STRIDE, 1)

    def front_end(self, samples_BT, lengths_B):
        self.batch_shapes.append(tuple(samples_BT.shape))
        lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        frames = self.num_frames(samples_BT.shape[1])
        out_BF = torch.zeros(len(samples_BT), frames, 2)
        for row, (samples_T, length) in enumerate(zip(samples_BT, lengths)):
            for frame in range(self.num_frames(length)):
                piece = samples_T[:length][frame * STRIDE : (frame + 1) * STRIDE]
                out_BF[row, frame, 0], out_BF[row, frame, 1] = piece.mean(), piece.max()
        return out_BF

    def forward(self, samples_BT, lengths_B=None):
        return self.forward_with_cnn(samples_BT, lengths_B)[0]

    def forward_with_cnn(self, samples_BT, lengths_B=None):
        frames_BFD = self.front_end(samples_BT, lengths_B)
        scaled_BFD = frames_BFD * self.settings.scale
        layers = [(layer + 1) * scaled_BFD for layer in range(self.card.num_layers + 1)]
        return torch.stack(layers, dim=1), frames_BFD[..., :1] * 10


@pytest.fixture
def plain():
    return Plain


@pytest.fixture
def clips(tmp_path):
    """Return a function that writes clips of noise of the given lengths, each to its file."""

    def write(*seconds, folder=tmp_path / "sounds", rate=RATE):
        folder.mkdir(exist_ok=True)
        written = []
        for index, length in enumerate(seconds):
            path = folder / f"{index:03d}.wav"
            noise = np.random.default_rng([index, round(length * 1000)]).uniform(-0.5, 0.5, round(length * rate))
            soundfile.write(path, noise, rate, subtype="FLOAT")
            written.append(Clip(f"clip-{index}", path))
        return written

    return write
