"""The conformer: each layer attends, convolves along time, and has half a feed-forward network before and after.

Gulati et al. 2020, "Conformer: Convolution-augmented Transformer for Speech Recognition" (arXiv 2005.08100), as built
in Hugging Face's wav2vec2-conformer with rotary positions, whose attribute names these are. Two things there differ
from the papers: positions turn the layer's normalised input **before** the maps to queries and keys, in blocks of a
head's width; and the swish of the feed-forward networks is also that of the convolution.

Rows: index 0 is the input to layer 1, i the output of layer i, but the last is taken after the stack's norm, as in the
authors' `hidden_states` and every number published for them.

Padding is masked three times: it is not attended, it is zero where the convolution along time would reach into it, and
batch norm is not touched by it outside training. So a clip gives in a batch what it gives alone.

Letters: B batch, F frames, D width, H heads, E features a head, K kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-5
INITIAL_STD = 0.02
ROTARY_BASE = 10_000


@dataclass(frozen=True)
class ConformerShape:
    """What a stack is made of.

    Attributes:
        layers, width, heads, feed_forward: sizes; a head's features are even in number.
        kernel: frames that the convolution along time sees, odd.
        dropout: in training, on the input, attention weights, and inside and after every part of a layer.
    """

    num_layers: int
    dim: int
    num_heads: int
    ffn_dim: int
    kernel: int
    dropout: float = 0.0


def rotary_frequencies(features: int) -> Tensor:
    """Return by what angle each pair of a head's features turns from frame to frame, `[E / 2]` (Su et al. 2021)."""
    return 1.0 / ROTARY_BASE ** (torch.arange(0, features, 2).float() / features)


def rotations(frames: int, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each frame's angles, `[F, 1, E]`; feature e and e + E/2 are a pair."""
    frequencies = rotary_frequencies(features).to(device)
    angles_FE = (torch.arange(frames, device=device)[:, None] * frequencies).repeat(1, 2)[:, None]
    return angles_FE.cos(), angles_FE.sin()


def rotated(x_BFHE: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return the features of every head turned by their frame's angles."""
    first, second = x_BFHE.chunk(2, dim=-1)
    return x_BFHE * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are maps of the turned input, values of the input as it is."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.heads, self.dropout = shape.num_heads, shape.dropout
        self.linear_q = nn.Linear(shape.dim, shape.dim)
        self.linear_k = nn.Linear(shape.dim, shape.dim)
        self.linear_v = nn.Linear(shape.dim, shape.dim)
        self.linear_out = nn.Linear(shape.dim, shape.dim)

    def forward(self, x_BFD: Tensor, turn: tuple[Tensor, Tensor], valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, width]`; no frame looks at those where `valid_BF` is false."""
        turned_BFD = rotated(x_BFD.unflatten(-1, (self.heads, -1)), turn).flatten(2)
        q_BHFE, k_BHFE, v_BHFE = (
            project(given_BFD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, given_BFD in ((self.linear_q, turned_BFD), (self.linear_k, turned_BFD), (self.linear_v, x_BFD))
        )
        keep = None if valid_BF is None else valid_BF[:, None, None]
        dropout = self.dropout if self.training else 0.0
        out_BHFE = functional.scaled_dot_product_attention(q_BHFE, k_BHFE, v_BHFE, keep, dropout)
        return self.linear_out(out_BHFE.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, swish, Linear."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.dropout = shape.dropout
        self.intermediate_dense = nn.Linear(shape.dim, shape.ffn_dim)
        self.output_dense = nn.Linear(shape.ffn_dim, shape.dim)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """Return `[batch, frames, width]`."""
        hidden = functional.dropout(functional.silu(self.intermediate_dense(x_BFD)), self.dropout, self.training)
        return functional.dropout(self.output_dense(hidden), self.dropout, self.training)


class TimeConvolution(nn.Module):
    """Norm, gated pointwise map, one filter a channel along time, batch norm, swish, pointwise map."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        width, kernel = shape.dim, shape.kernel
        self.dropout = shape.dropout
        self.layer_norm = nn.LayerNorm(width, eps=EPS)
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width, eps=EPS)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1, bias=False)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, width]`; frames where `valid_BF` is false count as zeros beyond a clip's end."""
        x_BDF = functional.glu(self.pointwise_conv1(self.layer_norm(x_BFD).transpose(1, 2)), dim=1)
        if valid_BF is not None:
            x_BDF = x_BDF.masked_fill(~valid_BF[:, None], 0)
        x_BDF = functional.silu(self.batch_norm(self.depthwise_conv(x_BDF)))
        return functional.dropout(self.pointwise_conv2(x_BDF).transpose(1, 2), self.dropout, self.training)


class ConformerLayer(nn.Module):
    """One layer; attribute names give the keys of Hugging Face's `Wav2Vec2ConformerEncoderLayer`."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.dropout = shape.dropout
        self.ffn1_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.ffn1 = FeedForward(shape)
        self.self_attn_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.self_attn = RotaryAttention(shape)
        self.conv_module = TimeConvolution(shape)
        self.ffn2_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.ffn2 = FeedForward(shape)
        self.final_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)

    def forward(self, x_BFD: Tensor, turn: tuple[Tensor, Tensor], valid_BF: Tensor | None = None) -> Tensor:
        """Return the layer's output, `[batch, frames, width]`."""
        x_BFD = x_BFD + 0.5 * self.ffn1(self.ffn1_layer_norm(x_BFD))
        attended_BFD = self.self_attn(self.self_attn_layer_norm(x_BFD), turn, valid_BF)
        x_BFD = x_BFD + functional.dropout(attended_BFD, self.dropout, self.training)
        x_BFD = x_BFD + self.conv_module(x_BFD, valid_BF)
        x_BFD = x_BFD + 0.5 * self.ffn2(self.ffn2_layer_norm(x_BFD))
        return self.final_layer_norm(x_BFD)


class Conformer(nn.Module):
    """The layers and the stack's norm; attribute names give the keys of Hugging Face's `Wav2Vec2ConformerEncoder`."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(ConformerLayer(shape) for _ in range(shape.num_layers))
        self.layer_norm = nn.LayerNorm(shape.dim, eps=EPS)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> list[Tensor]:
        """Return layers + 1 tensors `[batch, frames, width]`; what stands after a clip's frames means nothing.

        Args:
            x_BFD: what the front end gives.
            valid_BF: which frames are sound; none: all.
        """
        shape = self.shape
        turn = rotations(x_BFD.shape[1], shape.dim // shape.num_heads, x_BFD.device)
        rows = [functional.dropout(x_BFD, shape.dropout, self.training)]
        for layer in self.layers:
            rows.append(layer(rows[-1], turn, valid_BF))
        rows[-1] = self.layer_norm(rows[-1])
        return rows

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw linear weights from N(0, 0.02), convolutions after He et al. (2015); biases zero, norms the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, INITIAL_STD, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
                module.reset_parameters()
