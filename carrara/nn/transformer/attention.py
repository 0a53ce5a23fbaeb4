"""Multi-head self-attention: fused (SDPA), or eager with WavLM's relaxation for half precision.

Relaxation (Chen et al. 2022, WavLM; the thesis uses c = 32): softmax(S) = softmax(c · (S/c − max(S/c))) for logits S
= q·k/√d. It is the identity; what it buys is range: q is divided by c **before** the product, so float16 holds logits
c times larger, up to 2.1e6 in place of 6.5e4. Dividing after the product, as the released MERT code does, comes too
late. In bfloat16, float32 and fused kernels (which accumulate in float32) it changes nothing, so it needs "eager".

Letters: B batch, F frames (as queries), K frames (as keys), H heads, E features a head, D width.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mode = Literal["sdpa", "eager"]


def attention_weights(
    q_BHFE: Tensor, k_BHKE: Tensor, valid_BK: Tensor | None = None, relaxation: float | None = None
) -> Tensor:
    """Return softmax(q·k/√d) over the valid keys, `[batch, heads, frames, frames]`.

    Args:
        q_BHFE: queries.
        k_BHKE: keys.
        valid_BK: which keys count; none: all. Every clip needs one.
        relaxation: c of the head note; none: the plain product.
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
    """Self-attention with biased projections; attribute names give Hugging Face's keys."""

    def __init__(self, width: int, heads: int, dropout: float, mode: Mode = "sdpa", relaxation: float | None = None):
        super().__init__()
        self.heads, self.dropout, self.mode, self.relaxation = heads, dropout, mode, relaxation
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    @torch.no_grad()
    def largest_logit(self, x_BFD: Tensor) -> Tensor:
        """Return the largest |q·k|/√d over these frames in single precision; float16 ends at 65,504."""
        with torch.autocast(x_BFD.device.type, enabled=False):
            q_BHFE, k_BHFE = (
                project(x_BFD.float()).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for project in (self.q_proj, self.k_proj)
            )
            return (q_BHFE @ k_BHFE.mT).abs().max() / math.sqrt(q_BHFE.shape[-1])

    def forward(self, x_BFD: Tensor, valid_BF: Tensor | None = None) -> Tensor:
        """Return `[batch, frames, width]`; no frame looks at those where `valid_BF` is false."""
        q_BHFE, k_BHFE, v_BHFE = (
            project(x_BFD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        if self.mode == "sdpa":
            keep = None if valid_BF is None else valid_BF[:, None, None]
            out_BHFE = functional.scaled_dot_product_attention(q_BHFE, k_BHFE, v_BHFE, keep, dropout)
        else:
            weights_BHFK = attention_weights(q_BHFE, k_BHFE, valid_BF, self.relaxation)
            out_BHFE = functional.dropout(weights_BHFK, dropout).to(v_BHFE.dtype) @ v_BHFE
        return self.out_proj(out_BHFE.transpose(1, 2).flatten(2))
