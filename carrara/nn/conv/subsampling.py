"""The front end of MusicFM and MuQ: two residual blocks of 2-D convolutions, a quarter of the frames and of the bands.

Each block is two 3 × 3 convolutions, the first with stride 2, beside a third that shortens the input alike, all with
batch norm (Won, Hung, Le 2024, MusicFM, section 3; facts of the authors' files). A linear map then takes all channels
and bands of a frame to the network's width.

Silence beyond a clip's end is the zero that the convolutions pad with, so padding after a clip's frames is set to zero
before every convolution, and a clip gives in a batch what it gives alone. Outside training, when batch norm couples
nothing, long clips go through in blocks of frames with the frames beside them that the convolutions reach for, so that
memory stays flat.

Letters: B batch, F frames of the spectrogram, M bands, C channels, G frames that come out, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SHORTER = 4  # frames that make one
REACH = 3  # frames that come out beside a block whose input the block's own depend on: ±9 of the spectrogram, in fours
BLOCK = 4096  # frames of the spectrogram at once: a quarter of a gigabyte for 512 channels


def subsampled(frames: int) -> int:
    """Return how many frames come out of so many: a quarter, rounded up."""
    return -(-frames // SHORTER)


class ResidualBlock(nn.Module):
    """Two convolutions beside one, half the frames and bands; attribute names give the keys of the authors' files."""

    def __init__(self, given: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(given, channels, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(given, channels, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x_BCMF: Tensor, counts_B: Tensor | None = None) -> Tensor:
        """Return `[batch, channels, bands / 2, frames / 2]`, zero after each clip's half of `counts_B` frames."""
        halves_B = None if counts_B is None else (counts_B + 1) // 2
        hidden = _cleared(functional.relu(self.bn1(self.conv1(x_BCMF))), halves_B)
        return _cleared(functional.relu(self.bn3(self.conv3(x_BCMF)) + self.bn2(self.conv2(hidden))), halves_B)


class ConvSubsampling(nn.Module):
    """Both blocks and the linear map; attribute names give the keys of the authors' files."""

    def __init__(self, bands: int, channels: int, width: int):
        super().__init__()
        self.conv = nn.Sequential(ResidualBlock(1, channels), ResidualBlock(channels, channels))
        self.linear = nn.Linear(channels * (bands // SHORTER), width)

    def forward(self, mel_BFM: Tensor, counts_B: Tensor | None = None) -> Tensor:
        """Return `[batch, ⌈frames / 4⌉, width]`; what stands after a clip's own frames means nothing.

        Args:
            mel_BFM: normalised spectrogram, zero after each clip's frames.
            counts_B: frames of each clip; none: all.
        """
        frames = mel_BFM.shape[1]
        size = max(BLOCK // len(mel_BFM) // SHORTER, 1) * SHORTER
        if self.training or frames <= size:
            return self._mapped(mel_BFM, counts_B)
        blocks = []
        for begin in range(0, frames, size):
            before = min(REACH * SHORTER, begin)
            part_BFM = mel_BFM[:, begin - before : begin + size + REACH * SHORTER]
            part_B = None if counts_B is None else (counts_B - (begin - before)).clamp(0, part_BFM.shape[1])
            first = before // SHORTER
            blocks.append(self._mapped(part_BFM, part_B)[:, first : first + size // SHORTER])
        return torch.cat(blocks, dim=1)

    def _mapped(self, mel_BFM: Tensor, counts_B: Tensor | None) -> Tensor:
        x_BCMF = mel_BFM.transpose(1, 2)[:, None]
        for block in self.conv:
            x_BCMF = block(x_BCMF, counts_B)
            counts_B = None if counts_B is None else (counts_B + 1) // 2
        return self.linear(x_BCMF.flatten(1, 2).transpose(1, 2))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights after He et al. (2015), the map's from U(±1/√n) of its n inputs; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
        bound = self.linear.in_features**-0.5
        self.linear.weight.uniform_(-bound, bound, generator=generator)


def _cleared(x_BCMF: Tensor, counts_B: Tensor | None) -> Tensor:
    """Return the input with zeros after each clip's frames."""
    if counts_B is None:
        return x_BCMF
    beyond_BF = torch.arange(x_BCMF.shape[-1], device=x_BCMF.device) >= counts_B[:, None]
    return x_BCMF.masked_fill(beyond_BF[:, None, None], 0)
