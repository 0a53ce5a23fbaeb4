"""HTSAT: the Swin Transformer over a mel spectrogram, folded to a square.

[chen2022htsat], [liu2021swin]. The spectrogram, stretched to a fixed length by bicubic interpolation, is cut along time
into parts, which are stacked from low to high frequency into a square image. Patches of 4 × 4 give the tokens. Layers
attend within windows of 8 × 8 tokens; every second one shifts the windows by half (cyclically, and without attention
across the edges). Between stages 2 × 2 tokens become one of twice the width. The output is the mean over the last
stage's tokens.

Attribute names are those of Hugging Face's `ClapAudioEncoder`. For inference only: no dropout, no stochastic depth.

Letters: B batch, F mel frames, M mel bands, S side in tokens, D dimension, W windows, N tokens of a window, H heads, E
features of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear, gelu

EPS = 1e-5


@dataclass(frozen=True)
class SwinShape:
    """The sizes of the network.

    Attributes:
        bands: mel bands.
        side: pixels of the image's side, a multiple of `bands`.
        patch: side of a patch in pixels.
        window: side of a window in tokens.
        dim: width of the first stage; each further one has twice that of the last.
        depths, heads: layers and heads of each stage.
    """

    bands: int = 64
    side: int = 256
    patch: int = 4
    window: int = 8
    dim: int = 128
    depths: tuple[int, ...] = (2, 2, 12, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)


class SwinLayer(nn.Module):
    """One pre-norm layer over the tokens of a square, `[batch, side, side, dim]`."""

    def __init__(self, dim: int, num_heads: int, side: int, window: int, is_shifted: bool):
        super().__init__()
        self.num_heads, self.window = num_heads, min(window, side)
        # A window as large as the square is not shifted.
        self.shift = window // 2 if is_shifted and side > window else 0
        self.layernorm_before = nn.LayerNorm(dim, eps=EPS)
        attention = nn.ModuleDict({name: OnednnLinear(dim, dim) for name in ("query", "key", "value")})
        # Published tables have the configured window, although the last stage may be smaller than that.
        attention.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.table_side = 2 * window - 1
        self.attention = nn.ModuleDict({"self": attention, "output": nn.ModuleDict({"dense": OnednnLinear(dim, dim)})})
        self.layernorm_after = nn.LayerNorm(dim, eps=EPS)
        self.intermediate = nn.ModuleDict({"dense": OnednnLinear(dim, 4 * dim)})
        self.output = nn.ModuleDict({"dense": OnednnLinear(4 * dim, dim)})

    def forward(self, x_BSSD: Tensor) -> Tensor:
        """Return `[batch, side, side, dim]`."""
        batch, side, _, dim = x_BSSD.shape
        normed_BSSD = torch.roll(self.layernorm_before(x_BSSD), (-self.shift, -self.shift), (1, 2))
        parts = side // self.window
        windows_WND = (
            normed_BSSD.view(batch, parts, self.window, parts, self.window, dim)
            .transpose(2, 3)
            .reshape(-1, self.window**2, dim)
        )
        q_WHNE, k_WHNE, v_WHNE = (
            self.get_submodule(f"attention.self.{name}")(windows_WND)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        bias_WHNN = self._bias(side).repeat(batch, 1, 1, 1)
        out_WHNE = functional.scaled_dot_product_attention(q_WHNE, k_WHNE, v_WHNE, bias_WHNN.to(q_WHNE.dtype))
        out_WND = self.get_submodule("attention.output.dense")(out_WHNE.transpose(1, 2).flatten(2))
        out_BSSD = (
            out_WND.view(batch, parts, parts, self.window, self.window, dim)
            .transpose(2, 3)
            .reshape(batch, side, side, dim)
        )
        del normed_BSSD, windows_WND, q_WHNE, k_WHNE, v_WHNE, bias_WHNN, out_WHNE, out_WND  # a third of the memory
        x_BSSD = x_BSSD + torch.roll(out_BSSD, (self.shift, self.shift), (1, 2))
        hidden = gelu(self.intermediate["dense"](self.layernorm_after(x_BSSD)))
        return x_BSSD + self.output["dense"](hidden)

    def _bias(self, side: int) -> Tensor:
        """Return what is added to the attention logits in each window of a clip, `[windows, heads, tokens, tokens]`."""
        table = self.get_parameter("attention.self.relative_position_bias_table")
        axis = torch.arange(self.window, device=table.device)
        distance = axis[:, None] - axis + self.table_side // 2
        index = distance[:, None, :, None] * self.table_side + distance[None, :, None, :]
        bias_HNN = table[index.reshape(self.window**2, self.window**2)].permute(2, 0, 1)
        if not self.shift:
            return bias_HNN.expand((side // self.window) ** 2, -1, -1, -1)
        # After the cyclic shift a window may hold tokens from opposite edges, which do not attend to each other.
        place = torch.arange(side, device=table.device)
        region = (place >= side - self.window).int() + (place >= side - self.shift).int()
        parts = side // self.window
        region_WN = (
            (3 * region[:, None] + region)
            .view(parts, self.window, parts, self.window)
            .transpose(1, 2)
            .reshape(-1, self.window**2)
        )
        apart_WNN = (region_WN[:, :, None] != region_WN[:, None]).to(bias_HNN.dtype) * -100.0
        return bias_HNN + apart_WNN[:, None]


class SwinMerging(nn.Module):
    """Four tokens become one of twice the width."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = OnednnLinear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim, eps=EPS)

    def forward(self, x_BSSD: Tensor) -> Tensor:
        """Return `[batch, side / 2, side / 2, 2 · dim]`."""
        quarters = [x_BSSD[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class Htsat(nn.Module):
    """From decibels of mel bands, `[batch, frames, bands]`, to a vector a clip, `[batch, dim]`."""

    def __init__(self, shape: SwinShape):
        super().__init__()
        self.shape = shape
        patches = nn.Conv2d(1, shape.dim, shape.patch, shape.patch)
        self.patch_embed = nn.ModuleDict({"proj": patches, "norm": nn.LayerNorm(shape.dim, eps=EPS)})
        self.layers = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(shape.depths, shape.heads)):
            dim, side = shape.dim * 2**stage, shape.side // shape.patch // 2**stage
            blocks = nn.ModuleList(SwinLayer(dim, heads, side, shape.window, bool(i % 2)) for i in range(depth))
            parts: dict[str, nn.Module] = {"blocks": blocks}
            if stage + 1 < len(shape.depths):
                parts["downsample"] = SwinMerging(dim)
            self.layers.append(nn.ModuleDict(parts))
        self.batch_norm = nn.BatchNorm2d(shape.bands)
        self.norm = nn.LayerNorm(shape.dim * 2 ** (len(shape.depths) - 1), eps=EPS)

    def forward(self, mel_BFM: Tensor) -> Tensor:
        """Return the mean over the last stage's tokens, `[batch, dim]`."""
        shape = self.shape
        parts = shape.side // shape.bands
        # The norm is over bands, so those stand where an image has its channels.
        mel_BFM = self.batch_norm(mel_BFM.mT[:, :, :, None])[..., 0].mT
        frames = shape.side * parts
        if mel_BFM.shape[1] < frames:
            size = (frames, shape.bands)
            mel_BFM = functional.interpolate(mel_BFM[:, None], size, mode="bicubic", align_corners=True)[:, 0]
        image = mel_BFM.unflatten(1, (parts, shape.side)).mT.flatten(1, 2)
        x_BSSD = self.patch_embed["norm"](self.patch_embed["proj"](image[:, None]).permute(0, 2, 3, 1))
        for stage in self.layers:
            for block in stage.get_submodule("blocks").children():
                x_BSSD = block(x_BSSD)
            if hasattr(stage, "downsample"):
                x_BSSD = stage.get_submodule("downsample")(x_BSSD)
        return self.norm(x_BSSD).mean((1, 2))

    @torch.no_grad()
    def init_tables(self, generator: torch.Generator) -> None:
        """Draw the tables of relative positions from N(0, 0.02)."""
        for name, parameter in self.named_parameters():
            if name.endswith("relative_position_bias_table"):
                parameter.normal_(0, math.sqrt(4e-4), generator=generator)
