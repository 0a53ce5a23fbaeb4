"""The patch Transformer of MAEST and PaSST: a distilled ViT over a mel spectrogram, time and frequency told apart.

A convolution of 16 × 16 patches at stride 10, without padding, gives 9 rows (frequency) of columns (time); each patch
gets the vector of its row plus the vector of its column (Koutini et al. 2022, PaSST; Alonso-Jiménez et al. 2023,
MAEST). Then come pre-norm layers over [cls, dist, patches row by row]. Rows of output: index 0 is the input to layer 1,
i the raw output of layer i; `norm` is applied to none of them, but is here because its weights are the network's.

The table of columns has one more place than the training length gives patches (its size is frames // stride), so
sound a little longer fits. Shorter sound takes a slice of it, from the start or, in training, from anywhere.

Patchout leaves out whole columns (in training) or rows and columns (when hearing) after positions are added, the same
ones for the whole batch. Parameter names are those of the published MAEST files.

Letters: B batch, F frames, M mel bands, D width, R rows and C columns of patches, N tokens, H heads, E features a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from carrara.core.errors import UsageError

EPS = 1e-6
INITIAL_STD = 0.02
EXTRA = 2  # tokens before the patches: cls and dist


@dataclass(frozen=True)
class VitShape:
    """What the network is made of.

    Attributes:
        frames: mel frames of the training length (312, 625, 1250, 1875 for 5, 10, 20, 30 s of MAEST).
        bands: mel bands.
        patch, stride: side of a patch, and from one patch to the next, in frames and bands.
        width, layers, heads, feed_forward: sizes of the Transformer.
    """

    frames: int
    bands: int = 96
    patch: int = 16
    stride: int = 10
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072

    @property
    def rows(self) -> int:
        """Rows of patches: 9 for 96 bands."""
        return (self.bands - self.patch) // self.stride + 1

    @property
    def columns(self) -> int:
        """Columns that the table of positions has; the most that can be heard at once."""
        return self.frames // self.stride

    def time_patches(self, frames: int) -> int:
        """Return how many columns so many mel frames give; 0 where not even one patch fits."""
        return max((frames - self.patch) // self.stride + 1, 0)


class Attention(nn.Module):
    """Self-attention with queries, keys and values from one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None) -> Tensor:
        """Return `[batch, tokens, width]`; no token looks at those where `valid_BN` is false."""
        q_BHNE, k_BHNE, v_BHNE = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keep = None if valid_BN is None else valid_BN[:, None, None]
        out_BHNE = functional.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE, keep)
        return self.proj(out_BHNE.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return `[batch, tokens, width]`."""
        return self.fc2(functional.gelu(self.fc1(x_BND)))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, shape: VitShape):
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim, eps=EPS)
        self.attn = Attention(shape.dim, shape.num_heads)
        self.norm2 = nn.LayerNorm(shape.dim, eps=EPS)
        self.mlp = FeedForward(shape.dim, shape.ffn_dim)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None) -> Tensor:
        """Return the layer's output, `[batch, tokens, width]`."""
        x_BND = x_BND + self.attn(self.norm1(x_BND), valid_BN)
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchTransformer(nn.Module):
    """Patches, positions and layers.

    Attributes:
        recompute: whether, in training, what happens inside a layer is computed again in the backward pass instead of
            being kept; the same result in less memory.
    """

    def __init__(self, shape: VitShape):
        super().__init__()
        self.recompute = False
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, EXTRA, shape.dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, shape.dim, shape.rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, shape.dim, 1, shape.columns))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, shape.dim, shape.patch, shape.stride)})
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.dim, eps=EPS)

    def time_patches(self, frames: int) -> int:
        """Return how many columns so many mel frames give; 0 where not even one patch fits."""
        return self.shape.time_patches(frames)

    def forward(
        self,
        mel_BFM: Tensor,
        frame_lengths_B: Tensor | None = None,
        keep_columns: Tensor | None = None,
        random_offset: int = 0,
        keep_rows: Tensor | None = None,
    ) -> list[Tensor]:
        """Return layers + 1 tensors `[batch, 2 + rows · columns, width]`: cls, dist, then the patches row by row.

        Args:
            mel_BFM: normalised log-mel frames.
            frame_lengths_B: how many frames of each clip are sound; none: all. Patches that reach past them are never
                attended, and what stands in their place means nothing.
            keep_columns, keep_rows: sorted indices of the columns and rows that stay; none: all.
            random_offset: where in the table of columns the clip begins.

        Raises:
            UsageError: sound shorter than a patch or longer than the table, or nothing kept.
        """
        x_BDRC = self._placed(mel_BFM, random_offset)
        columns_C = torch.arange(x_BDRC.shape[3], device=mel_BFM.device)
        if keep_rows is not None:
            x_BDRC = x_BDRC[:, :, keep_rows.to(mel_BFM.device)]
        if keep_columns is not None:
            columns_C = keep_columns.to(mel_BFM.device)
            x_BDRC = x_BDRC[..., columns_C]
        batch, rows = len(mel_BFM), x_BDRC.shape[2]
        if not x_BDRC.numel():
            raise UsageError("patchout would leave no patch at all; drop fewer rows or columns")
        cls_11D, dist_11D = self.cls_token + self.new_pos_embed[:, :1], self.dist_token + self.new_pos_embed[:, 1:]
        x_BND = torch.cat(
            [cls_11D.expand(batch, -1, -1), dist_11D.expand(batch, -1, -1), x_BDRC.flatten(2).mT.to(cls_11D.dtype)], 1
        )
        valid_BN = self._valid(frame_lengths_B, mel_BFM.shape[1], columns_C, rows)
        tokens = [x_BND]
        for block in self.blocks:
            x_BND = self._through(block, x_BND, valid_BN)
            tokens.append(x_BND)
        return tokens

    def _placed(self, mel_BFM: Tensor, offset: int) -> Tensor:
        """Return patches with their positions, `[batch, width, rows, columns]`."""
        shape, frames = self.shape, mel_BFM.shape[1]
        columns = shape.time_patches(frames)
        if not columns:
            raise UsageError(f"{frames} frames are less than one patch of {shape.patch}; give longer sound")
        if offset + columns > shape.columns:
            most = (shape.columns - offset - 1) * shape.stride + shape.patch
            raise UsageError(f"{frames} frames, but the table of positions ends after {most}; hear it in windows")
        x_BDRC = self.patch_embed["proj"](mel_BFM.mT[:, None])
        return x_BDRC + self.freq_new_pos_embed + self.time_new_pos_embed[..., offset : offset + columns]

    def _valid(self, lengths_B: Tensor | None, frames: int, columns_C: Tensor, rows: int) -> Tensor | None:
        """Return which tokens are sound, `[batch, tokens]`; none where all are."""
        if lengths_B is None or bool((lengths_B >= frames).all()):
            return None
        shape = self.shape
        patches_B = (lengths_B.to(columns_C.device) - shape.patch).div(shape.stride, rounding_mode="floor") + 1
        valid_BC = columns_C < patches_B[:, None]
        return functional.pad(valid_BC.repeat(1, rows), (EXTRA, 0), value=True)

    def _through(self, block: nn.Module, x_BND: Tensor, valid_BN: Tensor | None) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(block, x_BND, valid_BN, use_reentrant=False)
        return block(x_BND, valid_BN)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw tokens, tables and linear weights from N(0, 0.02), cut at ±2; convolution as PyTorch; biases zero."""
        tables = (self.cls_token, self.dist_token, self.new_pos_embed, self.freq_new_pos_embed, self.time_new_pos_embed)
        for table in tables:
            draw(table, generator)
        bound = 1 / self.shape.patch  # PyTorch's for a convolution: 1 / √(values of a patch)
        for parameter in self.patch_embed.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
        initialise_linear(self, generator)


def draw(tensor: Tensor, generator: torch.Generator) -> None:
    """Draw a tensor's values, as ViT does for weights and tables."""
    nn.init.trunc_normal_(tensor, std=INITIAL_STD, generator=generator)


@torch.no_grad()
def initialise_linear(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear maps in a module, with zero biases, and reset its norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            draw(part.weight, generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
