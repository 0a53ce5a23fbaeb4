"""EfficientNet-B0 on a log-mel spectrogram: the convolutional baseline of MAEST and the body of EfficientNet-Discogs.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML, arXiv 1905.11946),
table 1, with a first convolution of one channel: 16 inverted bottlenecks in 7 stages, each a widening 1×1 convolution,
a convolution of each channel by itself, squeeze and excitation, and a narrowing 1×1 convolution; batch norm with
TensorFlow's constants after every convolution but those of the squeeze; SiLU. Stochastic depth and the dropout before
the classifier belong to a training run and are left to it, as is the classifier.

Five convolutions take every second frame and band. TensorFlow's "SAME" puts the odd zero behind, ports to PyTorch put
as many in front: the same weights with the other rule see everything one step aside, which nothing betrays. So the rule
travels with the weights, as the buffer `symmetric`. (With an odd number of frames both rules agree.)

Letters: B batch, F frames, M mel bands (both halved five times, rounded up, in a map), C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON, MOMENTUM = 1e-3, 0.01
STEM, TOP = 32, 1280
MULTIPLE = 8
SQUEEZE = 4


class Stage(NamedTuple):
    """Blocks of one width; the first of them takes the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


def scaled(channels: int, width: float) -> int:
    """Return so many channels times `width`, as the nearest multiple of 8 that takes away at most a tenth."""
    wanted = channels * width
    nearest = max(MULTIPLE, int(wanted + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return nearest + MULTIPLE if nearest < 0.9 * wanted else nearest


def zeros_around(size: int, kernel: int, symmetric: bool) -> tuple[int, int]:
    """Return how many zeros stand before and after an axis, for a convolution with stride 2 to give half, rounded up.

    Args:
        size: length of the axis.
        kernel: length of the convolution's kernel.
        symmetric: whether kernel // 2 zeros stand in front, or as many as behind or one less (TensorFlow's "SAME").
    """
    total = max((math.ceil(size / 2) - 1) * 2 + kernel - size, 0)
    before = kernel // 2 if symmetric else total // 2
    return before, max(total - before, 0)


class NormedConvolution(nn.Module):
    """A convolution without bias, batch norm, and SiLU where `active`; half of each axis, rounded up, with stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        self.active = active
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, map_BCFM: Tensor, symmetric: bool = False) -> Tensor:
        """Return the convolved map; `symmetric` says where the zeros of a stride stand (see `zeros_around`)."""
        if self.conv.stride[0] == 2:
            frames, bands = (zeros_around(size, self.conv.kernel_size[0], symmetric) for size in map_BCFM.shape[2:])
            map_BCFM = functional.pad(map_BCFM, (*bands, *frames))
        map_BCFM = self.norm(self.conv(map_BCFM))
        return functional.silu(map_BCFM) if self.active else map_BCFM


class Squeeze(nn.Module):
    """Squeeze and excitation: each channel times a gate that is computed from the means of all."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, map_BCFM: Tensor) -> Tensor:
        """Return the gated map."""
        means = map_BCFM.mean(dim=(2, 3), keepdim=True)
        return map_BCFM * self.expand(functional.silu(self.reduce(means))).sigmoid()


class Block(nn.Module):
    """An inverted bottleneck, added to its input where the shapes agree; its parts are named in the order they run."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.widen = NormedConvolution(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = NormedConvolution(inner, inner, kernel, stride, groups=inner)
        self.squeeze = Squeeze(inner, max(1, inputs // SQUEEZE))
        self.narrow = NormedConvolution(inner, outputs, 1, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, map_BCFM: Tensor, symmetric: bool = False) -> Tensor:
        """Return the block's output."""
        inner_BCFM = self.squeeze(self.depthwise(self.widen(map_BCFM), symmetric))
        narrow_BCFM = self.narrow(inner_BCFM)
        return map_BCFM + narrow_BCFM if self.residual else narrow_BCFM


class EfficientNet(nn.Module):
    """EfficientNet-B0's features; its modules are registered in the order in which they run.

    Attributes:
        channels: of the features, 1280 times the width.
        symmetric: a buffer, whether the zeros of the strides stand as in ports to PyTorch (see the file's paragraph).
    """

    symmetric: Tensor

    def __init__(self, width: float = 1.0):
        """Prepare the network; `width` scales the channels of every part, 1 for B0."""
        super().__init__()
        channels = scaled(STEM, width)
        self.stem = NormedConvolution(1, channels, 3, stride=2)
        self.blocks = nn.ModuleList()
        for stage in STAGES:
            for number in range(stage.blocks):
                outputs, stride = scaled(stage.channels, width), stage.stride if number == 0 else 1
                self.blocks.append(Block(channels, outputs, stage.expansion, stage.kernel, stride))
                channels = outputs
        self.channels = scaled(TOP, width)
        self.top = NormedConvolution(channels, self.channels, 1)
        self.register_buffer("symmetric", torch.tensor(False))

    def forward(self, mel_BFM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before and after pooling, `[B, C, F / 32, M / 32]` (rounded up) and their mean `[B, C]`.

        Args:
            mel_BFM: log-mel spectrograms of any length.
        """
        symmetric = bool(self.symmetric)
        map_BCFM = self.stem(mel_BFM[:, None], symmetric)
        for block in self.blocks:
            map_BCFM = block(map_BCFM, symmetric)
        map_BCFM = self.top(map_BCFM)
        return map_BCFM, map_BCFM.mean(dim=(2, 3))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights as the paper's authors did: normal, with variance 2 / (kernel's area × outputs a group).

        The narrowing convolutions get twice that deviation: the gates, which start at one half, would otherwise bring
        the features of an untrained network to 1e-5. In training the norm that follows takes the factor out again.
        """
        self.symmetric.fill_(False)
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                deviation = math.sqrt(2 / fan_out) * (2 if name.endswith("narrow.conv") else 1)
                module.weight.normal_(0.0, deviation, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
