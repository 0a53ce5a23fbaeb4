"""The patch Transformer of MAEST and PaSST: a distilled ViT over a mel spectrogram, with separate time and frequency.

A convolution of 16 × 16 patches at stride 10, without padding, gives 9 rows (frequency) of columns (time); each patch
is added the vector of its row and that of its column ([koutini2022]; [alonso2023]). Pre-norm layers follow, over the
tokens [cls, dist, patches row by row]. Layer outputs: index 0 is the input to layer 1, i the raw output of layer i;
`norm` is applied to none of them; it exists because published files hold its weights.

The table of columns has one more entry than the training length gives patches (its size is frames // stride), so
slightly longer audio fits. Shorter audio takes a slice of it, from the start or, in training, from anywhere.

Patchout drops whole columns (in training) or rows and columns (at inference) after positions are added, the same ones
for the whole batch. Parameter names are those of the published MAEST files.

Letters: B batch, F frames, M mel bands, D dimension, R rows and C columns of patches, N tokens, H heads, E features of
a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError
from carrara.nn.linear import OnednnLinear, gelu
from carrara.nn.recompute import forward_and_recompute

EPS = 1e-6
INITIAL_STD = 0.02
NUM_PREFIX_TOKENS = 2  # cls and dist, before the patches


@dataclass(frozen=True)
class VitShape:
    """The sizes of the network.

    Attributes:
        frames: mel frames of the training length (312, 625, 1250, 1875 for 5, 10, 20, 30 s of MAEST).
        bands: mel bands.
        patch, stride: side of a patch, and distance from one patch to the next, in frames and bands.
        dim, num_layers, num_heads, ffn_dim: sizes of the Transformer.
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
        """Columns of the table of positions, the most that one input may have."""
        return self.frames // self.stride

    def num_columns(self, frames: int) -> int:
        """Return the columns of patches of `frames` mel frames; 0 where not even one patch fits."""
        return max((frames - self.patch) // self.stride + 1, 0)


class VitAttention(nn.Module):
    """Self-attention with queries, keys and values from one projection."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = OnednnLinear(dim, 3 * dim)
        self.proj = OnednnLinear(dim, dim)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None) -> Tensor:
        """Return `[batch, tokens, dim]`; tokens where `valid_BN` is false are not attended to."""
        q_BHNE, k_BHNE, v_BHNE = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if valid_BN is None else valid_BN[:, None, None]
        out_BHNE = functional.scaled_dot_product_attention(q_BHNE, k_BHNE, v_BHNE, mask)
        return self.proj(out_BHNE.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def largest_logit(self, x_BND: Tensor) -> Tensor:
        """Return the largest |q·k|/√d over these tokens in single precision; float16 ends at 65,504."""
        with torch.autocast(x_BND.device.type, enabled=False):
            q_BHNE, k_BHNE, _ = self.qkv(x_BND.float()).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            return (q_BHNE @ k_BHNE.mT).abs().max() / q_BHNE.shape[-1] ** 0.5


class VitFeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.fc1 = OnednnLinear(dim, ffn_dim)
        self.fc2 = OnednnLinear(ffn_dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return `[batch, tokens, dim]`."""
        return self.fc2(gelu(self.fc1(x_BND)))


class VitBlock(nn.Module):
    """One pre-norm layer."""

    def __init__(self, shape: VitShape):
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.dim, eps=EPS)
        self.attn = VitAttention(shape.dim, shape.num_heads)
        self.norm2 = nn.LayerNorm(shape.dim, eps=EPS)
        self.mlp = VitFeedForward(shape.dim, shape.ffn_dim)

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None) -> Tensor:
        """Return the layer's output, `[batch, tokens, dim]`."""
        x_BND = x_BND + self.attn(self.norm1(x_BND), valid_BN)
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchTransformer(nn.Module):
    """Patches, positions and layers.

    Attributes:
        activation_checkpointing: whether, in training, the activations inside a layer are recomputed in the backward
            pass instead of being kept; the same result in less memory.
    """

    def __init__(self, shape: VitShape):
        super().__init__()
        self.activation_checkpointing = False
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, NUM_PREFIX_TOKENS, shape.dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, shape.dim, shape.rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, shape.dim, 1, shape.columns))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, shape.dim, shape.patch, shape.stride)})
        self.blocks = nn.ModuleList(VitBlock(shape) for _ in range(shape.num_layers))
        self.norm = nn.LayerNorm(shape.dim, eps=EPS)

    def forward(
        self,
        mel_BFM: Tensor,
        frame_lengths_B: Tensor | None = None,
        keep_columns: Tensor | None = None,
        random_offset: int = 0,
        keep_rows: Tensor | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return num_layers + 1 tensors `[batch, 2 + rows · columns, dim]`: cls, dist, then the patches row by row.

        Args:
            mel_BFM: normalized log-mel frames.
            frame_lengths_B: valid frames of each clip; None means all. Patches that reach past them are never attended
                to, and their outputs mean nothing.
            keep_columns, keep_rows: sorted indices of the columns and rows that stay; None means all.
            random_offset: column of the table of positions at which the clip begins.
            keep: what is returned of an output, made as soon as it is there; None means all of it.

        Raises:
            UsageError: audio shorter than a patch or longer than the table, or no patch left.
        """
        valid_BC = None
        if frame_lengths_B is not None and not bool((frame_lengths_B >= mel_BFM.shape[1]).all()):
            shape, lengths_B = self.shape, frame_lengths_B.to(mel_BFM.device)
            patches_B = (lengths_B - shape.patch).div(shape.stride, rounding_mode="floor") + 1
            columns = shape.num_columns(mel_BFM.shape[1])
            valid_BC = torch.arange(columns, device=mel_BFM.device) < patches_B[:, None]
        return self.encode(self.embed(mel_BFM), valid_BC, keep_columns, random_offset, keep_rows, keep)

    def embed(self, mel_BFM: Tensor) -> Tensor:
        """Return the patches of normalized log-mel frames, `[batch, dim, rows, columns]`, before their positions.

        Raises:
            UsageError: audio shorter than a patch.
        """
        frames = mel_BFM.shape[1]
        if not self.shape.num_columns(frames):
            raise UsageError(f"{frames} frames are less than one patch of {self.shape.patch}; give longer audio")
        return self.patch_embed["proj"](mel_BFM.mT[:, None])

    def encode(
        self,
        patches_BDRC: Tensor,
        valid_BC: Tensor | None = None,
        keep_columns: Tensor | None = None,
        random_offset: int = 0,
        keep_rows: Tensor | None = None,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return what `forward` does, from patches.

        Args:
            patches_BDRC: from `embed`.
            valid_BC: which columns may be attended to; None means all.
            keep_columns, random_offset, keep_rows, keep: as for `forward`.

        Raises:
            UsageError: more columns than the table has, or no patch left.
        """
        shape, device = self.shape, patches_BDRC.device
        batch, columns = len(patches_BDRC), patches_BDRC.shape[3]
        if random_offset + columns > shape.columns:
            frames, longest = (
                (count - 1) * shape.stride + shape.patch for count in (columns, shape.columns - random_offset)
            )
            raise UsageError(
                f"{frames} frames, but the table of positions ends after {longest}; split the audio into windows"
            )
        positions_1D1C = self.time_new_pos_embed[..., random_offset : random_offset + columns]
        x_BDRC = patches_BDRC + self.freq_new_pos_embed + positions_1D1C
        if keep_rows is not None:
            x_BDRC = x_BDRC[:, :, keep_rows.to(device)]
        if keep_columns is not None:
            x_BDRC = x_BDRC[..., keep_columns.to(device)]
            valid_BC = None if valid_BC is None else valid_BC[:, keep_columns.to(device)]
        if not x_BDRC.numel():
            raise UsageError("patchout would leave no patch at all; drop fewer rows or columns")
        cls_11D, dist_11D = self.cls_token + self.new_pos_embed[:, :1], self.dist_token + self.new_pos_embed[:, 1:]
        x_BND = torch.cat(
            [cls_11D.expand(batch, -1, -1), dist_11D.expand(batch, -1, -1), x_BDRC.flatten(2).mT.to(cls_11D.dtype)], 1
        )
        valid_BN = None
        if valid_BC is not None:
            valid_BN = functional.pad(valid_BC.repeat(1, x_BDRC.shape[2]), (NUM_PREFIX_TOKENS, 0), value=True)
        outputs = [keep(x_BND) if keep else x_BND]
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x_BND = forward_and_recompute(block, x_BND, valid_BN) if recompute else block(x_BND, valid_BN)
            outputs.append(keep(x_BND) if keep else x_BND)
        return outputs

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks, by the name that other stacks give their layers."""
        return self.blocks

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw tokens, tables and linear weights from N(0, 0.02) cut at ±2, the convolution as PyTorch; biases zero."""
        tables = (self.cls_token, self.dist_token, self.new_pos_embed, self.freq_new_pos_embed, self.time_new_pos_embed)
        for table in tables:
            nn.init.trunc_normal_(table, std=INITIAL_STD, generator=generator)
        bound = 1 / self.shape.patch  # PyTorch's for a convolution: 1 / √(values of a patch)
        for parameter in self.patch_embed.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
        init_linear_layers(self, generator)


@torch.no_grad()
def init_linear_layers(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear weights of a module from N(0, 0.02) cut at ±2, with zero biases, and reset its norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=INITIAL_STD, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
