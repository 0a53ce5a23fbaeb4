"""EfficientNet-B0 on a log-mel spectrogram: the convolutional baseline of MAEST and the body of EfficientNet-Discogs.

[tan2019 table 1], with a first convolution of one input channel: 16 inverted bottlenecks in 7 stages, each a widening
1×1 convolution, a depthwise convolution, squeeze and excitation, and a narrowing 1×1 convolution; batch norm with
TensorFlow's constants after every convolution but those of the squeeze; SiLU. Stochastic depth, the dropout before the
classifier and the classifier belong to the training run.

Five convolutions have stride 2. TensorFlow's SAME puts the odd zero after the map, ports to PyTorch before: the same
weights under the other rule see everything one step aside, which no error reveals. So the rule is saved with the
weights, as the buffer `symmetric`. (With an odd number of frames both rules agree.)

Letters: B batch, F frames, M mel bands (both halved five times, rounded up, in a map), C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.conv.same_padding import same_padding

EPSILON, MOMENTUM = 1e-3, 0.01
STEM_CHANNELS, TOP_CHANNELS = 32, 1280
CHANNEL_MULTIPLE = 8
SQUEEZE_RATIO = 4


class _Stage(NamedTuple):
    """Blocks of the same number of channels; the first has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


_STAGES = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)


def scale_channels(channels: int, multiplier: float) -> int:
    """Return `channels` times `multiplier` as the nearest multiple of 8 that is at most a tenth lower."""
    exact = channels * multiplier
    nearest = max(CHANNEL_MULTIPLE, int(exact + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return nearest + CHANNEL_MULTIPLE if nearest < 0.9 * exact else nearest


class ConvNormSilu(nn.Module):
    """A convolution without bias, batch norm, and SiLU where `active`; a stride of 2 halves each axis, rounding up."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True):
        super().__init__()
        self.active = active
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=MOMENTUM)

    def forward(self, map_BCFM: Tensor, symmetric: bool = False) -> Tensor:
        """Return the convolved map; `symmetric` is the padding rule of a stride (see `same_padding`)."""
        if self.conv.stride[0] == 2:
            kernel = self.conv.kernel_size[0]
            frames, bands = (same_padding(size, kernel, 2, symmetric) for size in map_BCFM.shape[2:])
            map_BCFM = functional.pad(map_BCFM, (*bands, *frames))
        map_BCFM = self.norm(self.conv(map_BCFM))
        return functional.silu(map_BCFM) if self.active else map_BCFM


class _SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, map_BCFM: Tensor) -> Tensor:
        means = map_BCFM.mean(dim=(2, 3), keepdim=True)
        return map_BCFM * self.expand(functional.silu(self.reduce(means))).sigmoid()


class InvertedBottleneck(nn.Module):
    """One block, with a shortcut where the shapes agree; its modules are registered in the order they run."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.widen = ConvNormSilu(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNormSilu(inner, inner, kernel, stride, groups=inner)
        self.squeeze = _SqueezeExcitation(inner, max(1, inputs // SQUEEZE_RATIO))
        self.narrow = ConvNormSilu(inner, outputs, 1, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, map_BCFM: Tensor, symmetric: bool = False) -> Tensor:
        """Return the block's output."""
        inner_BCFM = self.squeeze(self.depthwise(self.widen(map_BCFM), symmetric))
        narrow_BCFM = self.narrow(inner_BCFM)
        return map_BCFM + narrow_BCFM if self.residual else narrow_BCFM


class EfficientNet(nn.Module):
    """The features of EfficientNet-B0; its modules are registered in the order they run.

    Attributes:
        channels: number of features, 1280 times the width multiplier.
        symmetric: buffer with the padding rule of the strides (see the head of this file).
    """

    symmetric: Tensor

    def __init__(self, width_multiplier: float = 1.0):
        """Build the network; `width_multiplier` scales the channels of every part, 1 for B0."""
        super().__init__()
        channels = scale_channels(STEM_CHANNELS, width_multiplier)
        self.stem = ConvNormSilu(1, channels, 3, stride=2)
        self.blocks = nn.ModuleList()
        for stage in _STAGES:
            for index in range(stage.blocks):
                outputs = scale_channels(stage.channels, width_multiplier)
                stride = stage.stride if index == 0 else 1
                self.blocks.append(InvertedBottleneck(channels, outputs, stage.expansion, stage.kernel, stride))
                channels = outputs
        self.channels = scale_channels(TOP_CHANNELS, width_multiplier)
        self.top = ConvNormSilu(channels, self.channels, 1)
        self.register_buffer("symmetric", torch.tensor(False))

    def forward(self, mel_BFM: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before and after pooling: `[B, C, F / 32, M / 32]` (rounded up) and their mean `[B, C]`.

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
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights as the paper's authors did: normal, with variance 2 / (kernel's area × outputs of a group).

        The narrowing convolutions get twice that std: the gates, which start at one half, would otherwise reduce the
        features of an untrained network to 1e-5. In training the norm that follows removes the factor again.
        """
        self.symmetric.fill_(False)
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                std = math.sqrt(2 / fan_out) * (2 if name.endswith("narrow.conv") else 1)
                module.weight.normal_(0.0, std, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
