"""Convolutional positions over time, the two published kinds; their output is added to the frames.

"hubert" (wav2vec 2.0, HuBERT, MERT): one wide grouped convolution (kernel 128, 16 groups), weight-normalized with one
gain for each kernel tap, then GELU. "data2vec" ([baevski2022]; Music2Vec): a chain of narrow convolutions (five of
kernel 19), each followed by a layer norm without weights and GELU. An even kernel gives one frame too many; the last is
dropped.

Frames after a clip's end are zero at the input. In the data2vec chain each block's bias would fill them again and the
next block would carry that into the clip, so they are zeroed between blocks; without a mask (the published behaviour)
they are not.

Letters: B batch, F frames, D dimension.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _TapNorm(nn.Module):
    """Weight normalization of a convolution with one gain for each tap, as `weight_norm(conv, dim=2)`.

    PyTorch sums the squares in as many parts as there are threads, which moved MERT's features by rounding. Where no
    gradient is needed the sum is in double precision, whose rounding does not reach the weights.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        if (torch.is_grad_enabled() and direction.requires_grad) or direction.device.type == "mps":
            return torch._weight_norm(direction, gain, 2)
        ratio_11K = gain.double() / direction.double().norm(dim=(0, 1), keepdim=True)
        weight = torch.empty_like(direction)
        for own_OIK, direction_OIK in zip(weight.split(64), direction.split(64)):  # in double precision all are 38 MB
            own_OIK.copy_(direction_OIK * ratio_11K)
        return weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if weight.is_meta:  # whose norm loads torch's compiler, 110 MB of it
            return weight.new_empty(1, 1, weight.shape[2]), weight
        return torch.norm_except_dim(weight, 2, 2), weight


class HubertPositions(nn.Module):
    """One weight-normalized convolution; keys `conv.bias` and `conv.parametrizations.weight.original{0,1}`."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.utils.parametrize.register_parametrization(conv, "weight", _TapNorm(), unsafe=True)
        self.conv: Any = conv

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return the positions, `[batch, frames, dim]`; `x_BFD` counts as zero where `valid_BF` is false."""
        x_BDF = self.conv(_zero_invalid(x_BFD, valid_BF).mT)[..., : x_BFD.shape[1]]
        return functional.gelu(x_BDF).mT

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the kernel from N(0, 4 / (kernel · dim)); the gains are its norms, the bias is zero."""
        gain, direction = self.conv.parametrizations.weight.original0, self.conv.parametrizations.weight.original1
        direction.normal_(0, math.sqrt(4 / (direction.shape[2] * direction.shape[0])), generator=generator)
        gain.copy_(direction.norm(dim=(0, 1), keepdim=True))
        nn.init.zeros_(self.conv.bias)


class _Data2vecBlock(nn.Module):
    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x_BFD: Tensor) -> Tensor:
        frames, dim = x_BFD.shape[1:]
        x_BDF = self.conv(x_BFD.mT)[..., :frames]
        return functional.gelu(functional.layer_norm(x_BDF.mT.float(), (dim,)).to(x_BDF.dtype))


class Data2vecPositions(nn.Module):
    """A chain of convolutions; keys `layers.i.conv.{weight,bias}`."""

    def __init__(self, dim: int, kernel: int, groups: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(_Data2vecBlock(dim, kernel, groups) for _ in range(depth))
        self.bound = 1 / math.sqrt(dim // groups * kernel)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return the positions, `[batch, frames, dim]`; where `valid_BF` is false every block gets zeros."""
        for layer in self.layers:
            x_BFD = layer(_zero_invalid(x_BFD, valid_BF))
        return x_BFD

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw weights and biases as PyTorch does by default: uniform within one over the root of the fan-in."""
        for parameter in self.parameters():
            parameter.uniform_(-self.bound, self.bound, generator=generator)


def _zero_invalid(x_BFD: Tensor, valid_BF: Tensor | None) -> Tensor:
    return x_BFD if valid_BF is None else x_BFD.masked_fill(~valid_BF[..., None], 0)
