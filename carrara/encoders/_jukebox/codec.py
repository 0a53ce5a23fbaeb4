"""Jukebox's top VQ-VAE encoder: sound in, one of 2048 codes for every 128 samples.

Dhariwal et al. 2020, section 3 and appendix B.1. Three levels halve the rate three, two and two times: 8 · 4 · 4 = 128.
Each halving is a convolution (kernel 4, stride 2) and a stack of residual blocks whose dilation grows threefold; each
level ends in a convolution to the codes' width. The nearest code by squared distance is the token. The codes are
discrete, so all of this stays in single precision.

Letters: B batch, T samples, C channels, N tokens, K codes, D width of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.nn.spectral.framing import float32

HALVINGS = (3, 2, 2)
STRIDE = 2 ** sum(HALVINGS)  # samples a token
DILATION_GROWTH = 3


class Residual(nn.Sequential):
    """ReLU, a dilated convolution of kernel 3, ReLU, one of kernel 1; added to what comes in."""

    def __init__(self, width: int, dilation: int) -> None:
        dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        super().__init__(nn.ReLU(), dilated, nn.ReLU(), nn.Conv1d(width, width, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return the same shape."""
        return x_BCT + super().forward(x_BCT)


class Codec(nn.Module):
    """From samples to tokens; `codes_KD` is no parameter, because its authors moved it by running means.

    Args:
        width: channels.
        depth: residual blocks after each halving.
        codes: how many.
        code_width: of a code, and of what lies between the levels.
    """

    codes_KD: Tensor

    def __init__(self, width: int, depth: int, codes: int, code_width: int) -> None:
        super().__init__()
        inputs = (1, *[code_width] * (len(HALVINGS) - 1))
        self.levels = nn.Sequential(
            *(_level(channels, width, depth, code_width, halvings) for channels, halvings in zip(inputs, HALVINGS))
        )
        self.register_buffer("codes_KD", torch.zeros(codes, code_width))

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the tokens `[B, T // 128]`, int64, of samples whose number is a multiple of 128."""
        with float32(samples_BT):
            x_BND = self.levels(samples_BT[:, None].float()).mT
            # |x|² is the same for every code.
            distances_BNK = self.codes_KD.square().sum(dim=-1) - 2 * x_BND @ self.codes_KD.mT
            return distances_BNK.argmin(dim=-1)


def _level(inputs: int, width: int, depth: int, outputs: int, halvings: int) -> nn.Sequential:
    stages = [
        nn.Sequential(
            nn.Conv1d(width if i else inputs, width, 4, stride=2, padding=1),
            nn.Sequential(*(Residual(width, DILATION_GROWTH**j) for j in range(depth))),
        )
        for i in range(halvings)
    ]
    return nn.Sequential(*stages, nn.Conv1d(width, outputs, 3, padding=1))
