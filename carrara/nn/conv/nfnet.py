"""Parts of convolutional networks without normalization layers (NFNet), which standardize the weights instead.

[brock2021], with the block of [wang2021]: a bottleneck whose middle is two grouped convolutions, one along time and one
along frequency. Every convolution pads as TensorFlow's SAME does, with the odd cell after the map.

Each kernel is standardized over its inputs to mean 0 and variance 1 / fan-in; GELU is scaled to keep unit variance; a
block divides its input by the expected std, and adds 0.2 times its output, squeezed, excited and multiplied by a
learned gain.

Letters: N maps in a batch, C channels, H heights (frequency), W widths (time).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.conv.same_padding import same_padding

GELU_SCALE = 1.7015043497
MIN_NORM = 0.01
RESIDUAL_SCALE = 0.2
EXCITATION_SCALE = 2.0


def scaled_gelu(x: Tensor) -> Tensor:
    """Return the exact GELU times 1.7015, which keeps the variance of normal numbers at 1.001."""
    return GELU_SCALE * functional.gelu(x)


class StandardizedConv(nn.Module):
    """Convolution `[N, C, H, W]` with scaled weight standardization, a gain and a bias for each output channel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), groups: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *kernel))
        self.gain = nn.Parameter(torch.empty(outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def standardized_weight(self) -> Tensor:
        """Return the effective weight: mean 0 and norm 1 (variance 1 / fan-in), times the gain."""
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True).clamp(min=MIN_NORM)
        return centred * (self.gain[:, None, None, None] / norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return `[N, outputs, ceil(H / stride), ceil(W / stride)]`."""
        height, width = self.weight.shape[2:]
        top, bottom = same_padding(x_NCHW.shape[2], height, self.stride[0])
        left, right = same_padding(x_NCHW.shape[3], width, self.stride[1])
        padding = (top, left)
        if (top, left) != (bottom, right):
            x_NCHW, padding = functional.pad(x_NCHW, (left, right, top, bottom)), (0, 0)
        weight = self.standardized_weight()
        return functional.conv2d(x_NCHW, weight, self.bias, self.stride, padding, groups=self.groups)


class _SqueezeExcitation(nn.Module):
    """Computes a gate between 0 and 1 for each channel, `[N, C, 1, 1]`, from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        hidden_ND = functional.relu(self.squeeze(x_NCHW.mean(dim=(2, 3))))
        return self.excite(hidden_ND).sigmoid()[:, :, None, None]


class NfnetBlock(nn.Module):
    """One residual block; a transition changes the channels, and the height where it has a stride."""

    def __init__(
        self, inputs: int, outputs: int, group: int, expected_std: float, transition: bool = False, stride: int = 1
    ) -> None:
        """Build the block.

        Args:
            inputs, outputs: channels; equal unless the block is a transition.
            group: channels of a group of the two middle convolutions.
            expected_std: std that the input is expected to have and is divided by.
            transition: whether the shortcut is a convolution.
            stride: stride of a transition along the height.
        """
        super().__init__()
        middle = outputs // 2
        groups = middle // group
        self.expected_std, self.stride = expected_std, stride
        self.narrow = StandardizedConv(inputs, middle, (1, 1))
        self.along_time = StandardizedConv(middle, middle, (1, 3), (stride, 1), groups)
        self.along_frequency = StandardizedConv(middle, middle, (3, 1), (1, 1), groups)
        self.widen = StandardizedConv(middle, outputs, (1, 1))
        self.excitation = _SqueezeExcitation(outputs)
        self.gain = nn.Parameter(torch.empty(()))
        self.shortcut = StandardizedConv(inputs, outputs, (1, 1)) if transition else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return `[N, outputs, ceil(H / stride), W]`."""
        active_NCHW = scaled_gelu(x_NCHW) / self.expected_std
        out_NCHW = self.along_time(scaled_gelu(self.narrow(active_NCHW)))
        out_NCHW = self.widen(scaled_gelu(self.along_frequency(scaled_gelu(out_NCHW))))
        out_NCHW = out_NCHW * (self.excitation(out_NCHW) * (EXCITATION_SCALE * RESIDUAL_SCALE * self.gain))
        if self.shortcut is None:
            return out_NCHW + x_NCHW
        if self.stride > 1:
            # A last, incomplete cell is the mean of its own values, as with TensorFlow's SAME.
            active_NCHW = functional.avg_pool2d(active_NCHW, (self.stride, 1), ceil_mode=True)
        return out_NCHW + self.shortcut(active_NCHW)


@torch.no_grad()
def init_nfnet_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from a normal distribution of variance 1 / fan-in; gains of convolutions are 1, of blocks 0.

    As published: with a gain of 0 every block starts as its shortcut. Biases are 0.
    """
    for module in network.modules():
        if isinstance(module, StandardizedConv | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
            nn.init.zeros_(module.bias)
        if isinstance(module, StandardizedConv):
            nn.init.ones_(module.gain)
        elif isinstance(module, NfnetBlock):
            nn.init.zeros_(module.gain)
