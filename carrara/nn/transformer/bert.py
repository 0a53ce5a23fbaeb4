"""BERT and RoBERTa: embeddings of tokens or given vectors, then post-norm Transformer layers.

[devlin2019]; [liu2019]. RoBERTa and XLM-R count positions from `pad_token` + 1, BERT from 0. GELU is exact. Attribute
names are those of Hugging Face's `BertModel`, `RobertaModel` and `ClapTextModel`. For inference only: there is no
dropout.

Letters: B batch, F tokens, D dimension, H heads, E features of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear

INITIAL_STD = 0.02


@dataclass(frozen=True)
class BertShape:
    """The sizes of the network.

    Attributes:
        num_layers, dim, num_heads, ffn_dim: sizes of the Transformer.
        vocabulary: number of tokens.
        positions: rows of the table of positions.
        types: rows of the table of token types, of which the first is used.
        first_position: row of the first token's position: 0 for BERT, 2 for RoBERTa.
        eps: of the layer norms.
    """

    num_layers: int
    dim: int
    num_heads: int
    ffn_dim: int
    vocabulary: int
    positions: int
    types: int = 1
    first_position: int = 0
    eps: float = 1e-12


class BertEmbeddings(nn.Module):
    """The sum of a token's vector, its position's and its type's, normalised."""

    def __init__(self, shape: BertShape):
        super().__init__()
        self.first_position = shape.first_position
        # Not nn.Embedding(rows, dim), which draws weights: on the meta device that loads torch's compiler.
        self.word_embeddings, self.position_embeddings, self.token_type_embeddings = (
            nn.Embedding.from_pretrained(torch.empty(rows, shape.dim), freeze=False)
            for rows in (shape.vocabulary, shape.positions, shape.types)
        )
        self.LayerNorm = nn.LayerNorm(shape.dim, eps=shape.eps)

    def forward(self, tokens_BF: Tensor | None, vectors_BFD: Tensor | None) -> Tensor:
        """Return the input to layer 1, `[batch, tokens, dim]`, of tokens, or of vectors in their place."""
        if vectors_BFD is None:
            vectors_BFD = self.word_embeddings(tokens_BF)
        first = self.first_position
        positions_FD = self.position_embeddings.weight[first : first + vectors_BFD.shape[1]]
        return self.LayerNorm(vectors_BFD + positions_FD + self.token_type_embeddings.weight[0])


class BertLayer(nn.Module):
    """One post-norm layer."""

    def __init__(self, shape: BertShape):
        super().__init__()
        dim, self.num_heads = shape.dim, shape.num_heads
        projections = nn.ModuleDict({name: OnednnLinear(dim, dim) for name in ("query", "key", "value")})
        output = nn.ModuleDict({"dense": OnednnLinear(dim, dim), "LayerNorm": nn.LayerNorm(dim, eps=shape.eps)})
        self.attention = nn.ModuleDict({"self": projections, "output": output})
        self.intermediate = nn.ModuleDict({"dense": OnednnLinear(dim, shape.ffn_dim)})
        self.output = nn.ModuleDict(
            {"dense": OnednnLinear(shape.ffn_dim, dim), "LayerNorm": nn.LayerNorm(dim, eps=shape.eps)}
        )

    def forward(self, x_BFD: Tensor, valid_BF: Tensor) -> Tensor:
        """Return `[batch, tokens, dim]`; tokens where `valid_BF` is false are not attended to."""
        q_BHFE, k_BHFE, v_BHFE = (
            self.get_submodule(f"attention.self.{name}")(x_BFD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        out_BHFE = functional.scaled_dot_product_attention(q_BHFE, k_BHFE, v_BHFE, valid_BF[:, None, None])
        out_BFD = self.get_submodule("attention.output.dense")(out_BHFE.transpose(1, 2).flatten(2))
        x_BFD = self.get_submodule("attention.output.LayerNorm")(x_BFD + out_BFD)
        hidden = functional.gelu(self.intermediate["dense"](x_BFD))
        return self.output["LayerNorm"](x_BFD + self.output["dense"](hidden))


class Bert(nn.Module):
    """Embeddings, layers and, with `pooler`, a layer over the first token, which CLAP uses."""

    def __init__(self, shape: BertShape, has_pooler: bool = True):
        super().__init__()
        self.embeddings = BertEmbeddings(shape)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(shape) for _ in range(shape.num_layers))})
        self.pooler = nn.ModuleDict({"dense": OnednnLinear(shape.dim, shape.dim)} if has_pooler else {})

    def forward(self, tokens_BF: Tensor | None, valid_BF: Tensor, vectors_BFD: Tensor | None = None) -> Tensor:
        """Return the last layer's output, `[batch, tokens, dim]`; undefined where `valid_BF` is false.

        Args:
            tokens_BF: numbers of the tokens; None with `vectors_BFD`.
            valid_BF: which tokens are a text's own; the others follow them.
            vectors_BFD: vectors in the place of the tokens' own.
        """
        x_BFD = self.embeddings(tokens_BF, vectors_BFD)
        for layer in self.encoder["layer"].children():
            x_BFD = layer(x_BFD, valid_BF)
        return x_BFD

    def pool(self, x_BFD: Tensor) -> Tensor:
        """Return the pooler's output for the first token, `[batch, dim]`."""
        return torch.tanh(self.pooler["dense"](x_BFD[:, 0]))


@torch.no_grad()
def init_normal(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all linear maps, convolutions and tables from N(0, 0.02); biases are zero, norms the identity."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            module.weight.normal_(0, INITIAL_STD, generator=generator)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_parameters()
