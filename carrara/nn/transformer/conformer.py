"""The conformer: each layer attends, convolves along time, and has half a feed-forward network before and after.

[gulati2020] in two designs:

- "wav2vec2" (MusicFM, MuQ), as built in Hugging Face's wav2vec2-conformer with rotary positions, whose attribute names
  these are. The rotation is applied to the layer's normalized input **before** the projections to queries and keys, in
  blocks of a head's features; the swish of the feed-forward networks is also that of the convolution, which has batch
  norm; a norm follows the stack.
- "mert2" (MERT-v2): queries and keys are rotated after their projections, GELU in the place of swish, layer norm in the
  place of batch norm, no norm after the stack.

Layer outputs: index 0 is the input to layer 1, i the output of layer i, but the last of "wav2vec2" is taken after the
stack's norm, as in the authors' `hidden_states` and every number published for them.

Padding is masked three times: it is not attended to, it is zero where the convolution along time would reach it, and
neither norm of the convolution depends on it in evaluation mode. So a clip has the same output in a batch as alone.

Attention is PyTorch's fused one with at most a mask over keys, so that no matrix of frames times frames is kept. The
table of rotations is computed in single precision for every input: no file holds it.

Letters: B batch, F frames, D dimension, H heads, E features of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear
from carrara.nn.recompute import forward_and_recompute

EPS = 1e-5
INITIAL_STD = 0.02
ROTARY_BASE = 10_000
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"wav2vec2": functional.silu, "mert2": functional.gelu}


@dataclass(frozen=True)
class ConformerShape:
    """The sizes of a stack.

    Attributes:
        num_layers, dim, num_heads, ffn_dim: sizes; a head has an even number of features.
        kernel: frames of the convolution along time, odd.
        dropout: dropout in training, on the input, attention weights, and inside and after every part of a layer.
        design: which of the two designs.
    """

    num_layers: int
    dim: int
    num_heads: int
    ffn_dim: int
    kernel: int
    dropout: float = 0.0
    design: Literal["wav2vec2", "mert2"] = "wav2vec2"


def rotary_frequencies(features: int) -> Tensor:
    """Return the angle by which each pair of a head's features turns per frame, `[E / 2]` [su2021]."""
    return 1.0 / ROTARY_BASE ** (torch.arange(0, features, 2).float() / features)


def rotary_cos_sin(frames: int, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each frame's angles, `[F, 1, E]`; features e and e + E/2 are a pair."""
    frequencies = rotary_frequencies(features).to(device)
    angles_FE = (torch.arange(frames, device=device)[:, None] * frequencies).repeat(1, 2)[:, None]
    return angles_FE.cos(), angles_FE.sin()


def apply_rotary(x_BFHE: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Return the features of every head rotated by their frame's angles."""
    first, second = x_BFHE.chunk(2, dim=-1)
    return x_BFHE * cos_sin[0] + torch.cat([-second, first], dim=-1) * cos_sin[1]


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions of queries and keys."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.num_heads, self.dropout = shape.num_heads, shape.dropout
        self.rotates_input = shape.design == "wav2vec2"
        self.linear_q = OnednnLinear(shape.dim, shape.dim)
        self.linear_k = OnednnLinear(shape.dim, shape.dim)
        self.linear_v = OnednnLinear(shape.dim, shape.dim)
        self.linear_out = OnednnLinear(shape.dim, shape.dim)

    @torch.no_grad()
    def largest_logit(self, x_BFD: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        """Return the largest |q·k|/√d over these frames in single precision; float16 ends at 65,504."""
        with torch.autocast(x_BFD.device.type, enabled=False):
            q_BFHE, k_BFHE = self._queries_and_keys(x_BFD.float(), cos_sin)
            logits_BHFG = q_BFHE.transpose(1, 2) @ k_BFHE.permute(0, 2, 3, 1)
            return logits_BHFG.abs().max() / q_BFHE.shape[-1] ** 0.5

    def forward(self, x_BFD: Tensor, cos_sin: tuple[Tensor, Tensor], valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, dim]`; frames where `valid_BF` is false are not attended to."""
        v_BFHE = self.linear_v(x_BFD).unflatten(-1, (self.num_heads, -1))
        # The table is in single precision; under half precision the fused attention takes one type only.
        q_BFHE, k_BFHE = (y_BFHE.to(v_BFHE.dtype) for y_BFHE in self._queries_and_keys(x_BFD, cos_sin))
        q_BHFE, k_BHFE, v_BHFE = (y_BFHE.transpose(1, 2) for y_BFHE in (q_BFHE, k_BFHE, v_BFHE))
        mask = None if valid_BF is None else valid_BF[:, None, None]
        dropout = self.dropout if self.training else 0.0
        out_BHFE = functional.scaled_dot_product_attention(q_BHFE, k_BHFE, v_BHFE, mask, dropout)
        return self.linear_out(out_BHFE.transpose(1, 2).flatten(2))

    def _queries_and_keys(self, x_BFD: Tensor, cos_sin: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        heads = (self.num_heads, -1)
        if self.rotates_input:
            rotated_BFD = apply_rotary(x_BFD.unflatten(-1, heads), cos_sin).flatten(2)
            return self.linear_q(rotated_BFD).unflatten(-1, heads), self.linear_k(rotated_BFD).unflatten(-1, heads)
        q_BFHE = apply_rotary(self.linear_q(x_BFD).unflatten(-1, heads), cos_sin)
        return q_BFHE, apply_rotary(self.linear_k(x_BFD).unflatten(-1, heads), cos_sin)


class ConformerFeedForward(nn.Module):
    """Linear, swish or GELU, Linear."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.dropout = shape.dropout
        self.activation = _ACTIVATIONS[shape.design]
        self.intermediate_dense = OnednnLinear(shape.dim, shape.ffn_dim)
        self.output_dense = OnednnLinear(shape.ffn_dim, shape.dim)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """Return `[batch, frames, dim]`."""
        hidden = functional.dropout(self.activation(self.intermediate_dense(x_BFD)), self.dropout, self.training)
        return functional.dropout(self.output_dense(hidden), self.dropout, self.training)


class ConformerConvolution(nn.Module):
    """Norm, gated pointwise convolution, depthwise convolution along time, norm, activation, pointwise convolution."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        dim, kernel = shape.dim, shape.kernel
        self.dropout = shape.dropout
        self.activation = _ACTIVATIONS[shape.design]
        self.layer_norm = nn.LayerNorm(dim, eps=EPS)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        # The attribute's name is that of its keys.
        if shape.design == "wav2vec2":
            self.batch_norm = nn.BatchNorm1d(dim, eps=EPS)
        else:
            self.depthwise_layer_norm = nn.LayerNorm(dim, eps=EPS)
        self.has_batch_norm = shape.design == "wav2vec2"
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, dim]`; frames where `valid_BF` is false count as zeros beyond a clip's end."""
        x_BDF = functional.glu(self.pointwise_conv1(self.layer_norm(x_BFD).transpose(1, 2)), dim=1)
        if valid_BF is not None:
            x_BDF = x_BDF.masked_fill(~valid_BF[:, None], 0)
        x_BDF = self.depthwise_conv(x_BDF)
        x_BDF = self.batch_norm(x_BDF) if self.has_batch_norm else self.depthwise_layer_norm(x_BDF.mT).mT
        x_BDF = self.activation(x_BDF)
        return functional.dropout(self.pointwise_conv2(x_BDF).transpose(1, 2), self.dropout, self.training)


class ConformerLayer(nn.Module):
    """One layer; attributes are named as in Hugging Face's `Wav2Vec2ConformerEncoderLayer`."""

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.dropout = shape.dropout
        self.ffn1_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.ffn1 = ConformerFeedForward(shape)
        self.self_attn_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.self_attn = RotaryAttention(shape)
        self.conv_module = ConformerConvolution(shape)
        self.ffn2_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.ffn2 = ConformerFeedForward(shape)
        self.final_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)

    def forward(self, x_BFD: Tensor, cos_sin: tuple[Tensor, Tensor], valid_BF: Tensor | None = None) -> Tensor:
        """Return the layer's output, `[batch, frames, dim]`."""
        x_BFD = x_BFD + 0.5 * self.ffn1(self.ffn1_layer_norm(x_BFD))
        attention_BFD = self.self_attn(self.self_attn_layer_norm(x_BFD), cos_sin, valid_BF)
        x_BFD = x_BFD + functional.dropout(attention_BFD, self.dropout, self.training)
        x_BFD = x_BFD + self.conv_module(x_BFD, valid_BF)
        x_BFD = x_BFD + 0.5 * self.ffn2(self.ffn2_layer_norm(x_BFD))
        return self.final_layer_norm(x_BFD)


class Conformer(nn.Module):
    """The layers and the stack's norm; attributes are named as in Hugging Face's `Wav2Vec2ConformerEncoder`.

    Attributes:
        activation_checkpointing: whether, in training, the activations inside a layer are recomputed in the backward
            pass instead of being kept [chen2016]; the same result in less memory.
    """

    def __init__(self, shape: ConformerShape):
        super().__init__()
        self.activation_checkpointing = False
        self.shape = shape
        self.layers = nn.ModuleList(ConformerLayer(shape) for _ in range(shape.num_layers))
        self.layer_norm = nn.LayerNorm(shape.dim, eps=EPS) if shape.design == "wav2vec2" else None

    def forward(
        self, x_BFD: Tensor, valid_BF: Tensor | None = None, keep: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Return num_layers + 1 tensors `[batch, frames, dim]`; the values after a clip's frames mean nothing.

        Args:
            x_BFD: outputs of the front end.
            valid_BF: which frames are valid; None means all.
            keep: what is returned of an output, made as soon as it is there; None means all of it.
        """
        shape = self.shape
        cos_sin = rotary_cos_sin(x_BFD.shape[1], shape.dim // shape.num_heads, x_BFD.device)
        x_BFD = functional.dropout(x_BFD, shape.dropout, self.training)
        outputs = [keep(x_BFD) if keep else x_BFD]
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.layers, 1):
            arguments = (x_BFD, cos_sin, valid_BF)
            x_BFD = forward_and_recompute(layer, *arguments) if recompute else layer(*arguments)
            if self.layer_norm is not None and index == len(self.layers):
                x_BFD = self.layer_norm(x_BFD)
            outputs.append(keep(x_BFD) if keep else x_BFD)
        return outputs

    def feed_forwards(self) -> list[nn.Module]:
        """Return the last feed-forward network of each layer."""
        return [layer.get_submodule("ffn2") for layer in self.layers]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw linear weights from N(0, 0.02), convolutions as [he2015]; biases are zero, norms the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, INITIAL_STD, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
                module.reset_parameters()
