"""Multi-head self-attention: fused (SDPA), or eager with WavLM's relaxation for half precision.

Relaxation ([chen2022]; [yuan2023thesis §5.3] uses c = 32): softmax(S) = softmax(c · (S/c − max(S/c))) for logits S =
q·k/√d. It is the identity; its gain is range: q is divided by c **before** the product, so float16 holds logits c times
larger, up to 2.1e6 instead of 6.5e4. Dividing after the product, as the released MERT code does, comes too late. In
bfloat16, float32 and fused kernels (which accumulate in float32) it changes nothing, so it requires "eager".

Letters: B batch, F frames (as queries), K frames (as keys), H heads, E features of a head, D dimension.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.linear import OnednnLinear

AttentionMode = Literal["sdpa", "eager"]


def attention_weights(
    q_BHFE: Tensor, k_BHKE: Tensor, valid_BK: Tensor | None = None, relaxation: float | None = None
) -> Tensor:
    """Return softmax(q·k/√d) over the valid keys, `[batch, heads, frames, frames]`.

    Args:
        q_BHFE: queries.
        k_BHKE: keys.
        valid_BK: which keys are valid, at least one of each clip; None means all.
        relaxation: the constant c of the relaxation; None means the plain product.
    """
    q_BHFE = q_BHFE * (1 / math.sqrt(q_BHFE.shape[-1]))
    if relaxation is not None:
        q_BHFE = q_BHFE / relaxation
    logits_BHFK = q_BHFE @ k_BHKE.mT
    if valid_BK is not None:
        logits_BHFK = logits_BHFK.masked_fill(~valid_BK[:, None, None], -torch.inf)
    if relaxation is not None:
        logits_BHFK = (logits_BHFK - logits_BHFK.amax(-1, keepdim=True)) * relaxation
    return logits_BHFK.softmax(-1)


class MultiHeadAttention(nn.Module):
    """Self-attention with biased projections; attributes are named as in Hugging Face's files."""

    def __init__(
        self, dim: int, num_heads: int, dropout: float, mode: AttentionMode = "sdpa", relaxation: float | None = None
    ):
        super().__init__()
        self.num_heads, self.dropout, self.mode, self.relaxation = num_heads, dropout, mode, relaxation
        self.k_proj = OnednnLinear(dim, dim)
        self.v_proj = OnednnLinear(dim, dim)
        self.q_proj = OnednnLinear(dim, dim)
        self.out_proj = OnednnLinear(dim, dim)

    @torch.no_grad()
    def largest_logit(self, x_BFD: Tensor) -> Tensor:
        """Return the largest |q·k|/√d over these frames in single precision; float16 ends at 65,504."""
        with torch.autocast(x_BFD.device.type, enabled=False):
            q_BHFE, k_BHFE = (self._split_heads(project(x_BFD.float())) for project in (self.q_proj, self.k_proj))
            return (q_BHFE @ k_BHFE.mT).abs().max() / math.sqrt(q_BHFE.shape[-1])

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, dim]`; frames where `valid_BF` is false are not attended to."""
        q_BHFE, k_BHFE, v_BHFE = (
            self._split_heads(project(x_BFD)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        if self.mode == "sdpa":
            mask = None if valid_BF is None else valid_BF[:, None, None]
            out_BHFE = functional.scaled_dot_product_attention(q_BHFE, k_BHFE, v_BHFE, mask, dropout)
        else:
            weights_BHFK = attention_weights(q_BHFE, k_BHFE, valid_BF, self.relaxation)
            out_BHFE = functional.dropout(weights_BHFK, dropout).to(v_BHFE.dtype) @ v_BHFE
        return self.out_proj(out_BHFE.transpose(1, 2).flatten(2))

    def _split_heads(self, x_BFD: Tensor) -> Tensor:
        return x_BFD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
