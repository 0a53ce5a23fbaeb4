"""The two networks of the musicnn library: musically shaped convolutions, and a VGG of square ones.

Pons et al. 2018, "End-to-end learning for music audio tagging at scale" (ISMIR), and Pons and Serra 2019, "musicnn";
shapes and order of operations as in spec encoders.md 2.1: everywhere convolution, ReLU, then batch norm (eps 0.001).

MusiCNN hears a window with timbral filters, tall ones slid over the bands and reduced to their largest value over
frequency, and with temporal filters one band high, also reduced. Three dense convolutions over time with skips follow;
the front's and all three's outputs stand side by side, and their mean and their largest value over the window are the
features. The VGG's are its last, flattened pooling. Each network also has its authors' head: logits of 50 tags.

Letters: N windows, F frames of a window, M mel bands, C channels, D features of a window, G tags.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings

WINDOW, BANDS, TAGS = 187, 96, 50
TIMBRAL, TIMBRAL_KERNELS = 204, ((7, 38), (7, 67))
TEMPORAL, TEMPORAL_KERNELS = 51, (128, 64, 32)
FRONT = len(TIMBRAL_KERNELS) * TIMBRAL + len(TEMPORAL_KERNELS) * TEMPORAL
VGG_CHANNELS, VGG_FLAT = 128, 256
# Windows of pooling, over frames and bands, and their strides. The graph in MSD_vgg's .meta file has other ones than
# MTT_vgg's; the authors' software gives both MTT_vgg's, and so runs MSD_vgg otherwise than it was trained.
VGG_POOLS = {
    "mtt": (((4, 1), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
    "msd": (((4, 1), (4, 1)), ((1, 4), (1, 4)), ((2, 2), (2, 2)), ((2, 2), (2, 2)), ((4, 4), (4, 4))),
}


class MusicnnSettings(Settings):
    """Settings of a musicnn; the defaults are those of the small one trained on MagnaTagATune.

    Attributes:
        network: "musicnn" or "vgg".
        taught: whose 50 tags it tells: MagnaTagATune's or the Million Song Dataset's; their VGGs pool differently.
        middle: channels of each of the three dense convolutions (musicnn).
        dense: width of the layer before the tags (musicnn).
    """

    network: Literal["musicnn", "vgg"] = "musicnn"
    taught: Literal["mtt", "msd"] = "mtt"
    middle: int = 64
    dense: int = 200

    @property
    def dim(self) -> int:
        """Number of features."""
        return VGG_FLAT if self.network == "vgg" else 2 * (FRONT + 3 * self.middle)


class Block(nn.Module):
    """Convolution, ReLU, batch norm."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        norm = nn.BatchNorm1d if isinstance(conv, nn.Conv1d) else nn.BatchNorm2d
        self.norm = norm(conv.out_channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes of `[N, channels, …]`."""
        return self.norm(functional.relu(self.conv(x)))


class Musicnn(nn.Module):
    """Front of timbral and temporal filters, dense middle, pooling over the window, and the head."""

    def __init__(self, settings: MusicnnSettings) -> None:
        super().__init__()
        channels, width = settings.middle, settings.dim
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3, momentum=0.01)
        self.timbral = nn.ModuleList(
            Block(nn.Conv2d(1, TIMBRAL, kernel, padding=(kernel[0] // 2, 0))) for kernel in TIMBRAL_KERNELS
        )
        self.temporal = nn.ModuleList(Block(nn.Conv2d(1, TEMPORAL, (kernel, 1))) for kernel in TEMPORAL_KERNELS)
        self.middle = nn.ModuleList(
            Block(nn.Conv1d(size, channels, 7, padding=3)) for size in (FRONT, channels, channels)
        )
        self.pool_norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)
        self.dense = nn.Linear(width, settings.dense)
        self.dense_norm = nn.BatchNorm1d(settings.dense, eps=1e-3, momentum=0.01)
        self.tags = nn.Linear(settings.dense, TAGS)

    def forward(self, mel_NFM: Tensor) -> Tensor:
        """Return the features of each window, `[N, D]`: means over time, then largest values."""
        image_N1FM = self.input_norm(mel_NFM[:, None])
        # An even kernel has one zero frame more after the window than before it.
        padded = [functional.pad(image_N1FM, (0, 0, (size - 1) // 2, size // 2)) for size in TEMPORAL_KERNELS]
        heard = zip((*self.timbral, *self.temporal), (image_N1FM, image_N1FM, *padded))
        front_NCF = torch.cat([block(x).amax(dim=-1) for block, x in heard], dim=1)
        first_NCF = self.middle[0](front_NCF)
        second_NCF = first_NCF + self.middle[1](first_NCF)
        third_NCF = second_NCF + self.middle[2](second_NCF)
        all_NCF = torch.cat([front_NCF, first_NCF, second_NCF, third_NCF], dim=1)
        return torch.cat([all_NCF.mean(dim=-1), all_NCF.amax(dim=-1)], dim=1)

    def logits(self, features_ND: Tensor) -> Tensor:
        """Return the logits of the tags, `[N, G]`."""
        mean_NC, largest_NC = features_ND.chunk(2, dim=1)
        # The head was trained on pairs of both, the largest value first.
        pairs_ND = torch.stack([largest_NC, mean_NC], dim=-1).flatten(1)
        return self.tags(self.dense_norm(functional.relu(self.dense(self.pool_norm(pairs_ND)))))


class Vgg(nn.Module):
    """Five square convolutions with pooling, and the head."""

    def __init__(self, settings: MusicnnSettings) -> None:
        super().__init__()
        self.pools = VGG_POOLS[settings.taught]
        self.input_norm = nn.BatchNorm2d(1, eps=1e-3, momentum=0.01)
        self.blocks = nn.ModuleList(
            Block(nn.Conv2d(size, VGG_CHANNELS, 3, padding=1)) for size in (1, *[VGG_CHANNELS] * 4)
        )
        self.tags = nn.Linear(VGG_FLAT, TAGS)

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
def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw uniform weights (Glorot and Bengio 2010); biases are zero, norms the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
