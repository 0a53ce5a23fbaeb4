"""Convolutional networks without normalisation layers (NFNet): the weights are standardised instead of the activations.

Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization" (ICML, arXiv 2102.06171),
with the block of Wang et al. 2021, "Towards Learning Universal Audio Representations" (arXiv 2111.12124): a bottleneck
whose middle is two grouped convolutions, one along time and one along frequency. Every convolution pads as TensorFlow's
SAME does, with the odd cell after the map and not before it.

Each kernel is standardised over its inputs to mean 0 and variance 1 / fan-in; GELU is scaled so that it keeps unit
variance; a block divides its input by the deviation that it expects, and adds 0.2 times what it makes of it, squeezed,
excited and multiplied by a learned gain.

Letters: N maps in a batch, C channels, H heights (frequency), W widths (time).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GELU_SCALE = 1.7015043497
LEAST_NORM = 0.01
RESIDUAL = 0.2
EXCITATION = 2.0


def scaled_gelu(x: Tensor) -> Tensor:
    """Return the exact GELU times 1.7015, which keeps the variance of normal numbers at 1.001."""
    return GELU_SCALE * functional.gelu(x)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the cells to add before and after an axis so that ceil(size / stride) come out, as TensorFlow does."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class StandardisedConv(nn.Module):
    """Convolution `[N, C, H, W]` with scaled weight standardisation, a gain and a bias for each output channel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), groups: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *kernel))
        self.gain = nn.Parameter(torch.empty(outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def standardised(self) -> Tensor:
        """Return the weights that are convolved with: mean 0 and norm 1 (variance 1 / fan-in), times the gain."""
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True).clamp(min=LEAST_NORM)
        return centred * (self.gain[:, None, None, None] / norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return `[N, outputs, ceil(H / stride), ceil(W / stride)]`."""
        height, width = self.weight.shape[2:]
        top, bottom = same_padding(x_NCHW.shape[2], height, self.stride[0])
        left, right = same_padding(x_NCHW.shape[3], width, self.stride[1])
        padding = (top, left)
        if (top, left) != (bottom, right):
            x_NCHW, padding = functional.pad(x_NCHW, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(x_NCHW, self.standardised(), self.bias, self.stride, padding, groups=self.groups)


class SqueezeExcite(nn.Module):
    """A factor between 0 and 1 for each channel, from the means of all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the factors, `[N, C, 1, 1]`."""
        hidden_ND = functional.relu(self.squeeze(x_NCHW.mean(dim=(2, 3))))
        return self.excite(hidden_ND).sigmoid()[:, :, None, None]


class Block(nn.Module):
    """One residual block; a transition changes the channels, and the height where it has a stride."""

    def __init__(
        self, inputs: int, outputs: int, group: int, deviation: float, transition: bool = False, stride: int = 1
    ) -> None:
        """Prepare the block.

        Args:
            inputs, outputs: channels; equal unless it is a transition.
            group: channels of one group of the two middle convolutions.
            deviation: that the input is expected to have, by which it is divided.
            transition: whether the shortcut is a convolution.
            stride: along the height, of a transition.
        """
        super().__init__()
        middle = outputs // 2
        groups = middle // group
        self.deviation, self.stride = deviation, stride
        self.narrow = StandardisedConv(inputs, middle, (1, 1))
        self.along_time = StandardisedConv(middle, middle, (1, 3), (stride, 1), groups)
        self.along_frequency = StandardisedConv(middle, middle, (3, 1), (1, 1), groups)
        self.widen = StandardisedConv(middle, outputs, (1, 1))
        self.excitation = SqueezeExcite(outputs)
        self.gain = nn.Parameter(torch.empty(()))
        self.shortcut = StandardisedConv(inputs, outputs, (1, 1)) if transition else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return `[N, outputs, ceil(H / stride), W]`."""
        active_NCHW = scaled_gelu(x_NCHW) / self.deviation
        made_NCHW = self.along_time(scaled_gelu(self.narrow(active_NCHW)))
        made_NCHW = self.widen(scaled_gelu(self.along_frequency(scaled_gelu(made_NCHW))))
        made_NCHW = made_NCHW * (self.excitation(made_NCHW) * (EXCITATION * RESIDUAL * self.gain))
        return made_NCHW + (x_NCHW if self.shortcut is None else self.shortcut(self._pooled(active_NCHW)))

    def _pooled(self, active_NCHW: Tensor) -> Tensor:
        if self.stride == 1:
            return active_NCHW
        # A last, incomplete cell is the mean of what it has, as with TensorFlow's SAME.
        return functional.avg_pool2d(active_NCHW, (self.stride, 1), ceil_mode=True)


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights: normal with variance 1 / fan-in; gains of convolutions 1, biases and gains of blocks 0.

    As published: with a gain of 0 every block starts as its shortcut.
    """
    for module in network.modules():
        if isinstance(module, StandardisedConv | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
            nn.init.zeros_(module.bias)
        if isinstance(module, StandardisedConv):
            nn.init.ones_(module.gain)
        elif isinstance(module, Block):
            nn.init.zeros_(module.gain)
