"""Two paths through a spectrogram, one slow with many channels and one fast with few, made of NFNet blocks.

The slow path keeps every 16th frame and many channels, the fast path every fourth frame and few; before each of the
four stages the fast path's map is reduced to the slow path's rate and concatenated to its channels. As in MULE's
SF-NFNet-F0 ([mccallum2022]; [notes/encoders §2.4]), which follows [wang2021] with its axes exchanged and other kernels
and channels.

Expected variances [notes/encoders §2.4]: 1 before the first stage and 1.04 before each other one; every block after a
stage's first expects 0.04 more than the block before it.

Letters: N slices in a batch, C channels, M mel bands, F frames, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import model_validator
from torch import Tensor, nn

from carrara.core.settings import Settings
from carrara.nn.conv.nfnet import RESIDUAL_SCALE, NfnetBlock, StandardizedConv, scaled_gelu

SLOW_KERNELS, SLOW_STRIDES = ((3, 1), (3, 1), (3, 1), (3, 3)), ((2, 8), (1, 1), (1, 1), (2, 2))
FAST_KERNELS, FAST_STRIDES = ((3, 3), (3, 3), (3, 3), (3, 3)), ((2, 2), (1, 1), (1, 1), (2, 2))
LATERAL_KERNEL, LATERAL_STRIDE = (1, 7), (1, 4)


class SlowFastSettings(Settings):
    """Sizes of the network, stage by stage; the defaults are F0's.

    Attributes:
        blocks: number of blocks of each stage, the same in both paths.
        slow_stem, fast_stem: channels of the four convolutions before the stages.
        slow_channels, fast_channels: channels of each stage's output.
        slow_group, fast_group: channels of a group of the middle convolutions.
        lateral_channels, lateral_outputs: channels of the two convolutions from the fast path into the slow one.
    """

    blocks: tuple[int, ...] = (1, 2, 6, 3)
    slow_stem: tuple[int, int, int, int] = (16, 32, 64, 128)
    fast_stem: tuple[int, int, int, int] = (2, 4, 8, 16)
    slow_channels: tuple[int, ...] = (256, 512, 1536, 1536)
    fast_channels: tuple[int, ...] = (32, 64, 192, 192)
    slow_group: int = 128
    fast_group: int = 16
    lateral_channels: tuple[int, ...] = (32, 32, 64, 192)
    lateral_outputs: tuple[int, ...] = (128, 256, 512, 3072)

    @model_validator(mode="after")
    def _check(self) -> SlowFastSettings:
        stages = (self.slow_channels, self.fast_channels, self.lateral_channels, self.lateral_outputs)
        if {len(stage) for stage in stages} != {len(self.blocks)} or min(self.blocks, default=0) < 1:
            raise ValueError("blocks, channels and laterals need one number, at least 1, for each stage")
        for channels, group in ((self.slow_channels, self.slow_group), (self.fast_channels, self.fast_group)):
            if group < 1 or any(size % (2 * group) for size in channels):
                raise ValueError("channels of a path must be multiples of twice its group")
        return self

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.slow_channels[-1] + self.fast_channels[-1]


class _Stem(nn.Sequential):
    """Four convolutions with scaled GELU between them."""

    def __init__(
        self, channels: tuple[int, ...], kernels: tuple[tuple[int, int], ...], strides: tuple[tuple[int, int], ...]
    ) -> None:
        sizes = zip((1, *channels), channels, kernels, strides)
        super().__init__(*[StandardizedConv(*size) for size in sizes])

    def forward(self, x_NCMF: Tensor) -> Tensor:
        for index, convolution in enumerate(self):
            x_NCMF = convolution(scaled_gelu(x_NCMF) if index else x_NCMF)
        return x_NCMF


class SlowFast(nn.Module):
    """The network: slices of a spectrogram `[N, M, F]` to features `[N, D]`, the slow path's first."""

    def __init__(self, settings: SlowFastSettings) -> None:
        super().__init__()
        self.slow_stem = _Stem(settings.slow_stem, SLOW_KERNELS, SLOW_STRIDES)
        self.fast_stem = _Stem(settings.fast_stem, FAST_KERNELS, FAST_STRIDES)
        fast = (settings.fast_stem[-1], *settings.fast_channels)
        slow = (settings.slow_stem[-1], *settings.slow_channels)
        fused = [outputs + extra for outputs, extra in zip(slow, settings.lateral_outputs)]
        self.laterals = nn.ModuleList(
            nn.Sequential(
                StandardizedConv(inputs, middle, LATERAL_KERNEL, LATERAL_STRIDE),
                StandardizedConv(middle, outputs, (1, 1)),
            )
            for inputs, middle, outputs in zip(fast, settings.lateral_channels, settings.lateral_outputs)
        )
        self.slow_stages = _build_stages(settings.blocks, fused, settings.slow_channels, settings.slow_group)
        self.fast_stages = _build_stages(settings.blocks, fast, settings.fast_channels, settings.fast_group)

    def forward(self, slices_NMF: Tensor) -> Tensor:
        """Return the features, `[N, D]`: scaled GELU of the mean over both paths' last maps."""
        slow_NCMF, fast_NCMF = self.feature_maps(slices_NMF)[-1]
        return scaled_gelu(torch.cat([slow_NCMF.mean(dim=(2, 3)), fast_NCMF.mean(dim=(2, 3))], dim=1))

    def feature_maps(self, slices_NMF: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the slow and the fast path's maps after the stems and after each stage."""
        slow_NCMF, fast_NCMF = self.slow_stem(slices_NMF[:, None]), self.fast_stem(slices_NMF[:, None])
        maps = [(slow_NCMF, fast_NCMF)]
        for lateral, slow_stage, fast_stage in zip(self.laterals, self.slow_stages, self.fast_stages):
            slow_NCMF = slow_stage(torch.cat([slow_NCMF, lateral(fast_NCMF)], dim=1))
            fast_NCMF = fast_stage(fast_NCMF)
            maps.append((slow_NCMF, fast_NCMF))
        return maps


def _build_stages(
    blocks: tuple[int, ...], inputs: Sequence[int], outputs: tuple[int, ...], group: int
) -> nn.ModuleList:
    stages = nn.ModuleList()
    for stage, (count, before, after) in enumerate(zip(blocks, inputs, outputs)):
        first_variance = 1.0 if stage == 0 else 1.0 + RESIDUAL_SCALE**2
        transition_stride = 2 if stage else 1
        first = NfnetBlock(before, after, group, math.sqrt(first_variance), True, transition_stride)
        variances = [first_variance + index * RESIDUAL_SCALE**2 for index in range(1, count)]
        stages.append(nn.Sequential(first, *(NfnetBlock(after, after, group, math.sqrt(v)) for v in variances)))
    return stages
