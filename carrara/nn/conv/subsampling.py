"""The front end of MusicFM and MuQ: two residual blocks of 2-D convolutions, a quarter of the frames and of the bands.

Each block is two 3 × 3 convolutions, the first with stride 2, and a third with stride 2 as shortcut, all with batch
norm ([won2024 §3] and the authors' files). A linear map then takes all channels and bands of a frame to the network's
dimension.

Beyond a clip's end the convolutions pad with zeros, so frames after a clip's own are set to zero before every
convolution, and a clip has the same output in a batch as alone. In evaluation mode, where batch norm couples nothing,
long clips are processed in blocks of frames together with the neighbouring frames within the convolutions' reach, so
that memory stays flat.

Letters: B batch, F frames of the spectrogram, M bands, C channels, G output frames, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear

STRIDE = 4  # input frames of an output frame
CONTEXT = 3  # output frames on either side of a block that its input must cover: ±9 input frames, in fours
BLOCK_FRAMES = 1024  # input frames of a block: 67 MB for each map of 512 channels, five of which exist at once


def num_subsampled_frames(frames: int) -> int:
    """Return the number of output frames: a quarter, rounded up."""
    return -(-frames // STRIDE)


class _ConvBlock(nn.Module):
    """A residual block that halves frames and bands; attributes are named as in the authors' files."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x_BCMF: Tensor, counts_B: Tensor | None) -> Tensor:
        """Return `[batch, channels, bands / 2, frames / 2]`, zero after each clip's `counts_B` output frames."""
        hidden = _zero_after(functional.relu(self.bn1(self.conv1(x_BCMF))), counts_B)
        return _zero_after(functional.relu(self.bn3(self.conv3(x_BCMF)) + self.bn2(self.conv2(hidden))), counts_B)


class ConvSubsampling(nn.Module):
    """Both blocks and the linear map; attributes named as in the authors' files.

    Attributes:
        block_frames: input frames of a block; None takes all clips at once, which a tracer can follow.
    """

    def __init__(self, bands: int, channels: int, dim: int):
        super().__init__()
        self.block_frames: int | None = BLOCK_FRAMES
        self.conv = nn.Sequential(_ConvBlock(1, channels), _ConvBlock(channels, channels))
        self.linear = OnednnLinear(channels * (bands // STRIDE), dim)

    def forward(self, mel_BFM: Tensor, counts_B: Tensor | None = None) -> Tensor:
        """Return `[batch, ⌈frames / 4⌉, dim]`; the values after a clip's own frames mean nothing.

        Args:
            mel_BFM: normalized spectrogram, zero after each clip's frames.
            counts_B: frames of each clip; None means all.
        """
        if self.training or self.block_frames is None:
            return self._forward_block(mel_BFM, counts_B)
        clips = max(self.block_frames // max(mel_BFM.shape[1], 1), 1)  # at once
        outputs = []
        for first in range(0, len(mel_BFM), clips):
            own_B = None if counts_B is None else counts_B[first : first + clips]
            outputs.append(self._forward_in_blocks(mel_BFM[first : first + clips], own_B, self.block_frames))
        return torch.cat(outputs)

    def _forward_in_blocks(self, mel_BFM: Tensor, counts_B: Tensor | None, block_frames: int) -> Tensor:
        frames, size = mel_BFM.shape[1], max(block_frames // STRIDE, 1) * STRIDE
        if frames <= size:
            return self._forward_block(mel_BFM, counts_B)
        blocks = []
        for start in range(0, frames, size):
            before = min(CONTEXT * STRIDE, start)
            block_BFM = mel_BFM[:, start - before : start + size + CONTEXT * STRIDE]
            block_B = None if counts_B is None else (counts_B - (start - before)).clamp(0, block_BFM.shape[1])
            first = before // STRIDE
            blocks.append(self._forward_block(block_BFM, block_B)[:, first : first + size // STRIDE])
        return torch.cat(blocks, dim=1)

    def _forward_block(self, mel_BFM: Tensor, counts_B: Tensor | None) -> Tensor:
        x_BCMF = mel_BFM.transpose(1, 2)[:, None]
        for block in self.conv:
            counts_B = None if counts_B is None else (counts_B + 1) // 2
            x_BCMF = block(x_BCMF, counts_B)
        return self.linear(x_BCMF.flatten(1, 2).transpose(1, 2))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw convolutions as [he2015], the linear map from U(±1/√n) of its n inputs; biases are zero."""
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


def _zero_after(x_BCMF: Tensor, counts_B: Tensor | None) -> Tensor:
    """Return the input with zeros after each clip's frames."""
    if counts_B is None:
        return x_BCMF
    beyond_BF = torch.arange(x_BCMF.shape[-1], device=x_BCMF.device) >= counts_B[:, None]
    return x_BCMF.masked_fill(beyond_BF[:, None, None], 0)
