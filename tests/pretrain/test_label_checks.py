"""Wrong labels are refused before the first step, each for its reason; right ones pass."""

import numpy as np
import pytest
import torch

from carrara.core.errors import DataError
from carrara.encoders._frame_encoder import FrameGrid
from carrara.pretrain.label_checks import check_labels
from carrara.pretrain.targets import REGISTRY

GRID = FrameGrid(16_000, 320, 200)
FRAMES = 99


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    time = np.arange(32_320) / 16_000
    steps = 2 ** (rng.integers(24, size=(4, 9)).repeat(3600, axis=1)[:, : len(time)] / 12)
    return torch.from_numpy(0.3 * np.sin(2 * np.pi * 220 * np.cumsum(steps, axis=1) / 16_000)).float()


@pytest.fixture(scope="module")
def clusters(crops):
    kind = REGISTRY.get("clusters")
    target = kind(kind.settings_type(feature="log-mel-229", k=8), GRID)
    target.fit([crops], 0)
    return target


class Wrong:
    """A target whose labels are changed on the way out."""

    causal = False

    def __init__(self, target, change):
        self.target, self.change = target, change
        self.grid = target.grid
        self.num_classes, self.num_values = target.num_classes, target.num_values

    def labels(self, samples, frames):
        return self.change(self.target.labels(samples, frames))


def test_right_labels_pass(clusters, crops):
    kind = REGISTRY.get("cqt")
    cqt = kind(kind.settings_type(bins=84, bins_per_octave=12), GRID)
    cqt.fit([crops], 0)
    check_labels({"clusters": clusters, "cqt": cqt}, crops, FRAMES)
    check_labels({"clusters": clusters}, crops[:1], FRAMES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda codes: torch.full_like(codes, 3), "gives class 3 everywhere"),
        (lambda codes: codes + 4, "gives classes from .* of which it has 8"),
        (lambda codes: codes - 1, "gives classes from -1"),
        (lambda codes: codes.float(), "where class numbers are expected"),
        (lambda codes: codes[:, ::2], "its frame rate is not the network's"),
        (lambda codes: codes.squeeze(-1), "expected .4, 99, 1."),
        (lambda codes: codes.roll(12, dims=1), r"lie \+1[12]\.\d frames off the audio"),
        (lambda codes: codes[:, : FRAMES // 2].repeat_interleave(2, dim=1)[:, :FRAMES], "off the audio|do not change"),
        (lambda codes: torch.arange(8).repeat(4, 13)[:, :FRAMES, None], "do not change when the audio does"),
    ],
)
def test_wrong_codes_are_refused(clusters, crops, change, reason):
    with pytest.raises(DataError, match=f"target x: .*{reason}"):
        check_labels({"x": Wrong(clusters, change)}, crops, FRAMES)


def test_wrong_values_are_refused(crops):
    kind = REGISTRY.get("cqt")
    cqt = kind(kind.settings_type(bins=84, bins_per_octave=12), GRID)
    with pytest.raises(DataError, match="same value everywhere; is the corpus silent"):
        check_labels({"x": cqt}, torch.zeros_like(crops), FRAMES)
    with pytest.raises(DataError, match="not finite"):
        check_labels({"x": Wrong(cqt, lambda values: values / 0)}, crops, FRAMES)
