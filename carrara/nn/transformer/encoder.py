"""The Transformer of HuBERT-shaped networks: positions, a norm, and layers; the output of every layer is returned.

Post-LN (base sizes): the stack's norm comes before the layers, each layer is x = LN(x + f(x)). Pre-LN (MERT-330M): each
layer is x = x + f(LN(x)), and the stack's norm comes after the last layer. Layer outputs: index 0 is the input to layer
1, i the output of layer i. For pre-LN, `final_norm` decides whether the last output is taken after the stack's norm
(the input of pre-training heads, and what transformers 4.38 to 4.57 gave to probes) or before it (transformers 5).
Post-LN ignores it.

DeepNorm ([wang2022]; post-LN only): x = LN(α·x + f(x)) with α = (2N)^¼, and the weights of v, out and both feed-forward
layers scaled at initialization by β = (8N)^-¼. Here they are BERT's N(0, 0.02) times β, as in MERT.

LayerDrop [fan2020] skips a layer in training; the output of a skipped layer repeats its input, so the number of outputs
never changes. Like dropout it draws from torch's global CPU generator, which a training loop seeds and saves.

Letters: B batch, F frames, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear, gelu
from carrara.nn.recompute import forward_and_recompute
from carrara.nn.transformer.attention import AttentionMode, MultiHeadAttention
from carrara.nn.transformer.positions import Data2vecPositions, HubertPositions

EPS = 1e-5
INITIAL_STD = 0.02
SCALED_BY_DEEPNORM = {"v_proj", "out_proj", "intermediate_dense", "output_dense"}


def deepnorm_constants(num_layers: int) -> tuple[float, float]:
    """Return residual gain α and initial weight gain β of a stack: 2.2134 and 0.3195 for 12 layers."""
    return (2 * num_layers) ** 0.25, (8 * num_layers) ** -0.25


@dataclass(frozen=True)
class TransformerShape:
    """The sizes and options of a stack.

    Attributes:
        num_layers, dim, num_heads, ffn_dim: sizes.
        norm_placement: post or pre.
        deepnorm: whether residuals are scaled; post only.
        final_norm: whether the last output of a pre-LN stack is normalized.
        attention, relaxation: form of the attention (see carrara.nn.transformer.attention).
        dropout: after attention, after the feed-forward network, and on the input to layer 1.
        attention_dropout, activation_dropout: on attention weights; inside the feed-forward network.
        layerdrop: probability of skipping a layer in training.
    """

    num_layers: int
    dim: int
    num_heads: int
    ffn_dim: int
    norm_placement: Literal["post", "pre"] = "post"
    deepnorm: bool = False
    final_norm: bool = True
    attention: AttentionMode = "sdpa"
    relaxation: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    layerdrop: float = 0.0


class TransformerFeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.intermediate_dense = OnednnLinear(dim, ffn_dim)
        self.output_dense = OnednnLinear(ffn_dim, dim)

    def forward(self, x_BFD: Tensor) -> Tensor:
        """Return `[batch, frames, dim]`."""
        hidden = gelu(self.intermediate_dense(x_BFD))
        return self.output_dense(functional.dropout(hidden, self.dropout, self.training))


class TransformerLayer(nn.Module):
    """One layer; `layer_norm` belongs to the attention, `final_layer_norm` to the feed-forward network."""

    def __init__(self, shape: TransformerShape):
        super().__init__()
        self.pre = shape.norm_placement == "pre"
        self.dropout = shape.dropout
        self.alpha = deepnorm_constants(shape.num_layers)[0] if shape.deepnorm else 1.0
        self.attention = MultiHeadAttention(
            shape.dim, shape.num_heads, shape.attention_dropout, shape.attention, shape.relaxation
        )
        self.layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.feed_forward = TransformerFeedForward(shape.dim, shape.ffn_dim, shape.activation_dropout)
        self.final_layer_norm = nn.LayerNorm(shape.dim, eps=EPS)

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return the layer's output, `[batch, frames, dim]`."""
        if self.pre:
            x_BFD = x_BFD + self._dropout(self.attention(self.layer_norm(x_BFD), valid_BF))
            return x_BFD + self._dropout(self.feed_forward(self.final_layer_norm(x_BFD)))
        x_BFD = self.layer_norm(self._residual(x_BFD) + self._dropout(self.attention(x_BFD, valid_BF)))
        return self.final_layer_norm(self._residual(x_BFD) + self._dropout(self.feed_forward(x_BFD)))

    def _residual(self, x_BFD: Tensor) -> Tensor:
        return x_BFD if self.alpha == 1.0 else self.alpha * x_BFD

    def _dropout(self, x_BFD: Tensor) -> Tensor:
        return functional.dropout(x_BFD, self.dropout, self.training)


class Transformer(nn.Module):
    """Positions, norm and layers; attributes are named as in Hugging Face's `encoder`.

    Attributes:
        activation_checkpointing: whether, in training, the activations inside a layer are recomputed in the backward
            pass instead of being kept [chen2016]; the same result in less memory.
    """

    def __init__(self, shape: TransformerShape, positions: HubertPositions | Data2vecPositions):
        super().__init__()
        self.activation_checkpointing = False
        self.shape = shape
        self.pos_conv_embed: HubertPositions | Data2vecPositions = positions
        self.layer_norm = nn.LayerNorm(shape.dim, eps=EPS)
        self.layers = nn.ModuleList(TransformerLayer(shape) for _ in range(shape.num_layers))

    def forward(
        self,
        x_BFD: Tensor,
        valid_BF: Tensor | None = None,
        mask_positions: bool = True,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return num_layers + 1 tensors `[batch, frames, dim]`; values after a clip's own frames are undefined.

        Args:
            x_BFD: projected frames.
            valid_BF: which frames are valid; None means all.
            mask_positions: whether padding is zeroed inside the positions; false as published.
            keep: what is returned of an output, made as soon as it is there; None means all of it.
        """
        shape = self.shape
        if valid_BF is not None:
            x_BFD = x_BFD.masked_fill(~valid_BF[..., None], 0)
        x_BFD = x_BFD + self.pos_conv_embed(x_BFD, valid_BF if mask_positions else None)
        if shape.norm_placement == "post":
            x_BFD = self.layer_norm(x_BFD)
        x_BFD = functional.dropout(x_BFD, shape.dropout, self.training)
        is_normed = shape.norm_placement == "pre" and shape.final_norm
        outputs = [keep(x_BFD) if keep else x_BFD]
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.layers, 1):
            if not (self.training and shape.layerdrop and torch.rand(()).item() < shape.layerdrop):
                x_BFD = forward_and_recompute(layer, x_BFD, valid_BF) if recompute else layer(x_BFD, valid_BF)
            if is_normed and index == len(self.layers):
                x_BFD = self.layer_norm(x_BFD)
            outputs.append(keep(x_BFD) if keep else x_BFD)
        return outputs

    def feed_forwards(self) -> list[nn.Module]:
        """Return the feed-forward network of each layer."""
        return [layer.get_submodule("feed_forward") for layer in self.layers]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every linear weight from N(0, 0.02) with zero bias, as BERT; under DeepNorm times β."""
        self.pos_conv_embed.init_weights(generator)
        beta = deepnorm_constants(self.shape.num_layers)[1] if self.shape.deepnorm else 1.0
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                gain = beta if name.rpartition(".")[2] in SCALED_BY_DEEPNORM else 1.0
                module.weight.normal_(0, INITIAL_STD * gain, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
