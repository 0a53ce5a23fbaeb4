"""ConvNeXt v2 over time: the front end of MERT-v2, from mel frames to a quarter of them.

[woo2023], in one dimension. A layer: depthwise convolution of 7 frames, layer norm, linear to four times the channels,
GELU, global response norm, linear back, plus the layer's input. A stage whose channels or stride change opens with a
layer norm and a convolution of 2 frames without padding, so a last odd frame is dropped.

Global response norm pools over a whole clip and the depthwise convolution reaches over its end, so both get zeros in
the place of padding, and a clip has the same output in a batch as alone. The pool is summed in double precision: in
single precision the sum depends on the number of zeros after the clip.

Attributes are named as in the official files, whose digits are indices in a sequence; a `ModuleDict` has those names
without the modules between, which have no parameters.

Letters: B batch, F frames, M mel bands, C channels, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear
from carrara.nn.spectral.framing import no_autocast

EPS = 1e-6
INITIAL_STD = 0.02
KERNEL, RESAMPLING_KERNEL, EXPANSION = 7, 2, 4


@dataclass(frozen=True)
class ConvNextShape:
    """The sizes of the stages.

    Attributes:
        bands: mel bands of the input.
        channels, depths, strides: channels, number of layers and stride of each stage.
    """

    bands: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def resampling_strides(self) -> list[int]:
        """Strides of the stages that open with a convolution."""
        pairs = zip(pairwise((self.bands, *self.channels)), self.strides)
        return [stride for (inputs, channels), stride in pairs if inputs != channels or stride > 1]

    def num_frames(self, frames: int) -> int:
        """Return the number of output frames (0 or less if there are too few for one)."""
        for stride in self.resampling_strides:
            frames = (frames - RESAMPLING_KERNEL) // stride + 1
        return frames

    @property
    def min_frames(self) -> int:
        """Number of input frames that give one output frame."""
        frames = 1
        for stride in reversed(self.resampling_strides):
            frames = (frames - 1) * stride + RESAMPLING_KERNEL
        return frames


class GlobalResponseNorm(nn.Module):
    """x · (1 + weight · n) + bias, n the L2 norm of each channel over time, over the mean of all channels' norms."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, x_BFC: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, channels]`; frames where `valid_BF` is false do not count."""
        pooled_BFC = _zero_invalid(x_BFC, valid_BF)
        precise = torch.float32 if x_BFC.device.type == "mps" else torch.float64  # MPS has no float64
        with no_autocast(x_BFC):
            norm_B1C = torch.linalg.vector_norm(pooled_BFC, dim=1, keepdim=True, dtype=precise)
            relative_B1C = (norm_B1C / (norm_B1C.mean(dim=-1, keepdim=True) + EPS)).to(self.weight.dtype)
            gain_B1C = (1 + self.weight * relative_B1C).to(x_BFC.dtype)
            return torch.addcmul(self.bias.to(x_BFC.dtype), x_BFC, gain_B1C)


class ConvNextLayer(nn.Module):
    """One layer."""

    def __init__(self, channels: int):
        super().__init__()
        wide = EXPANSION * channels
        conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.depthwise_block = nn.ModuleDict({"1": conv})
        self.pointwise_block = nn.ModuleDict(
            {
                "0": nn.LayerNorm(channels, eps=EPS),
                "1": OnednnLinear(channels, wide),
                "3": GlobalResponseNorm(wide),
                "4": OnednnLinear(wide, channels),
            }
        )

    def forward(self, x_BFC: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, channels]`; frames where `valid_BF` is false count as zeros beyond a clip's end."""
        block = self.pointwise_block
        hidden = self.depthwise_block["1"](_zero_invalid(x_BFC, valid_BF).mT).mT
        hidden = functional.gelu(block["1"](block["0"](hidden)))
        return x_BFC + block["4"](block["3"](hidden, valid_BF))


class ConvNextStage(nn.Module):
    """Layer norm and convolution if channels or stride change, then the layers."""

    def __init__(self, inputs: int, channels: int, depth: int, stride: int):
        super().__init__()
        self.stride = stride
        self.resampling_layer: nn.ModuleDict | None = None
        if inputs != channels or stride > 1:
            conv = nn.Conv1d(inputs, channels, RESAMPLING_KERNEL, stride)
            self.resampling_layer = nn.ModuleDict({"0": nn.LayerNorm(inputs, eps=EPS), "2": conv})
        self.convnext_layers = nn.ModuleList(ConvNextLayer(channels) for _ in range(depth))

    def forward(self, x_BFC: Tensor, counts_B: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the output and each clip's number of frames in it; `counts_B` is that of the input."""
        if self.resampling_layer is not None:
            x_BFC = self.resampling_layer["2"](self.resampling_layer["0"](x_BFC).mT).mT
            counts_B = None if counts_B is None else (counts_B - RESAMPLING_KERNEL) // self.stride + 1
        valid_BF = None
        if counts_B is not None:
            valid_BF = torch.arange(x_BFC.shape[1], device=x_BFC.device) < counts_B[:, None]
        for layer in self.convnext_layers:
            x_BFC = layer(x_BFC, valid_BF)
        return x_BFC, counts_B


class ConvNextSubsampling(nn.ModuleList):
    """The stages, one after the other."""

    def __init__(self, shape: ConvNextShape):
        inputs = (shape.bands, *shape.channels)
        super().__init__(map(ConvNextStage, inputs, shape.channels, shape.depths, shape.strides))

    def forward(self, mel_BFM: Tensor, counts_B: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, dim]`; the values after a clip's own frames mean nothing.

        Args:
            mel_BFM: normalized spectrogram of at least `ConvNextShape.min_frames` frames.
            counts_B: frames of each clip; None means all.
        """
        x_BFC = mel_BFM
        for stage in self:
            x_BFC, counts_B = stage(x_BFC, counts_B)
        return x_BFC

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw weights from N(0, 0.02) as [woo2023]; biases and global response norms are zero, norms the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                module.weight.normal_(0, INITIAL_STD, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.weight)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)


def _zero_invalid(x_BFC: Tensor, valid_BF: Tensor | None) -> Tensor:
    return x_BFC if valid_BF is None else x_BFC.masked_fill(~valid_BF[..., None], 0)
