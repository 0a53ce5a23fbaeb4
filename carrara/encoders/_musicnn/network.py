"""The two networks of the musicnn library: musically shaped convolutions, and a VGG of square ones.

[pons2018] and [pons2019]; shapes and order of operations as in [notes/encoders §2.1]: everywhere convolution, ReLU,
then batch norm (eps 0.001).

MusiCNN applies timbral filters to a window, tall ones slid over the bands and reduced to their maximum over frequency,
and temporal filters one band high, also reduced. Three dense convolutions over time with skips follow; the outputs of
the front and of all three are concatenated, and their mean and their maximum over the window are the features. The
VGG's are its last, flattened pooling. Each network also has its authors' head: logits of 50 tags.

Letters: N windows, F frames of a window, M mel bands, C channels, D features of a window, G tags.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings

WINDOW_FRAMES, NUM_BANDS, NUM_TAGS = 187, 96, 50
TIMBRAL_CHANNELS, TIMBRAL_KERNELS = 204, ((7, 38), (7, 67))
TEMPORAL_CHANNELS, TEMPORAL_KERNELS = 51, (128, 64, 32)
FRONT_CHANNELS = len(TIMBRAL_KERNELS) * TIMBRAL_CHANNELS + len(TEMPORAL_KERNELS) * TEMPORAL_CHANNELS
VGG_CHANNELS, VGG_DIM = 128, 256
# Windows of pooling, over frames and bands, and their strides. The graph in MSD_vgg's .meta file has other ones than
# MTT_vgg's; the authors' software uses MTT_vgg's for both, and so runs MSD_vgg differently than in training.
VGG_POOLS = {
    "mtt": (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
    "msd": (((4, 1), (4, 1)), ((1, 4), (1, 4)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
}


class MusicnnSettings(Settings):
    """Settings of a musicnn; the defaults are those of the small one trained on MagnaTagATune.

    Attributes:
        network: "musicnn" or "vgg".
        dataset: whose 50 tags it predicts: MagnaTagATune's or the Million Song Dataset's; their VGGs pool differently.
        middle_channels: channels of each of the three dense convolutions (musicnn).
        dense_dim: size of the layer before the tags (musicnn).
    """

    network: Literal["musicnn", "vgg"] = "musicnn"
    dataset: Literal["mtt", "msd"] = "mtt"
    middle_channels: int = 64
    dense_dim: int = 200

    @property
    def dim(self) -> int:
        """Number of features."""
        return VGG_DIM if self.network == "vgg" else 2 * (FRONT_CHANNELS + 3 * self.middle_channels)


class _ConvReluNorm(nn.Module):
    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        norm = nn.BatchNorm1d if isinstance(conv, nn.Conv1d) else nn.BatchNorm2d
        self.norm = norm(conv.out_channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.relu(self.conv(x)))


class Musicnn(nn.Module):
    """Front of timbral and temporal filters, dense middle, pooling over the window, and the head."""

    def __init__(self, settings: MusicnnSettings) -> None:
        super().__init__()
        channels, dim = settings.middle_channels, settings.dim
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3, momentum=0.01)
        self.timbral = nn.ModuleList(
            _ConvReluNorm(nn.Conv2d(1, TIMBRAL_CHANNELS, kernel, padding=(kernel[0] // 2, 0)))
            for kernel in TIMBRAL_KERNELS
        )
        self.temporal = nn.ModuleList(
            _ConvReluNorm(nn.Conv2d(1, TEMPORAL_CHANNELS, (kernel, 1))) for kernel in TEMPORAL_KERNELS
        )
        self.middle = nn.ModuleList(
            _ConvReluNorm(nn.Conv1d(inputs, channels, 7, padding=3)) for inputs in (FRONT_CHANNELS, channels, channels)
        )
        self.pool_norm = nn.BatchNorm1d(dim, eps=1e-3, momentum=0.01)
        self.dense = nn.Linear(dim, settings.dense_dim)
        self.dense_norm = nn.BatchNorm1d(settings.dense_dim, eps=1e-3, momentum=0.01)
        self.tags = nn.Linear(settings.dense_dim, NUM_TAGS)

    def forward(self, mel_NFM: Tensor) -> Tensor:
        """Return the features of each window, `[N, D]`: means over time, then maxima."""
        image_N1FM = self.input_norm(mel_NFM[:, None])
        # An even kernel has one zero frame more after the window than before it.
        padded = [functional.pad(image_N1FM, (0, 0, (size - 1) // 2, size // 2)) for size in TEMPORAL_KERNELS]
        inputs = zip((*self.timbral, *self.temporal), (image_N1FM, image_N1FM, *padded))
        front_NCF = torch.cat([block(x).amax(dim=-1) for block, x in inputs], dim=1)
        first_NCF = self.middle[0](front_NCF)
        second_NCF = first_NCF + self.middle[1](first_NCF)
        third_NCF = second_NCF + self.middle[2](second_NCF)
        all_NCF = torch.cat([front_NCF, first_NCF, second_NCF, third_NCF], dim=1)
        return torch.cat([all_NCF.mean(dim=-1), all_NCF.amax(dim=-1)], dim=1)

    def logits(self, features_ND: Tensor) -> Tensor:
        """Return the logits of the tags, `[N, G]`."""
        mean_NC, maximum_NC = features_ND.chunk(2, dim=1)
        # The head was trained on pairs of both, the maximum first.
        pairs_ND = torch.stack([maximum_NC, mean_NC], dim=-1).flatten(1)
        return self.tags(self.dense_norm(functional.relu(self.dense(self.pool_norm(pairs_ND)))))


class Vgg(nn.Module):
    """Five square convolutions with pooling, and the head."""

    def __init__(self, settings: MusicnnSettings) -> None:
        super().__init__()
        self.pools = VGG_POOLS[settings.dataset]
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3, momentum=0.01)
        self.blocks = nn.ModuleList(
            _ConvReluNorm(nn.Conv2d(inputs, VGG_CHANNELS, 3, padding=1)) for inputs in (1, *[VGG_CHANNELS] * 4)
        )
        self.tags = nn.Linear(VGG_DIM, NUM_TAGS)

    def forward(self, mel_NFM: Tensor) -> Tensor:
        """Return the last pooling of each window, `[N, D]`: all channels of its first half, then of its second."""
        x_NCFM = self.input_norm(mel_NFM[:, None])
        for block, (window, stride) in zip(self.blocks, self.pools):
            x_NCFM = functional.max_pool2d(block(x_NCFM), window, stride)
        return x_NCFM.permute(0, 2, 3, 1).flatten(1)

    def logits(self, features_ND: Tensor) -> Tensor:
        """Return the logits of the tags, `[N, G]`."""
        return self.tags(features_ND)


NETWORKS: dict[str, type[Musicnn] | type[Vgg]] = {"musicnn": Musicnn, "vgg": Vgg}


@torch.no_grad()
def init_musicnn_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw uniform weights [glorot2010]; biases are zero, norms the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
