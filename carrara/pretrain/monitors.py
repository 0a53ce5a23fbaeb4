"""Is the student well? Effective rank of its features and the largest attention logit, of a few crops heard whole.

Rank (RankMe, Garrido et al. 2023) tells collapse: of the convolutions' output, where users of data2vec met it while all
else looked fine (fairseq #5239), and of every row of the encoder. Attention logits tell an overflow before it comes:
float16 ends at 65,504, with a relaxation of 32 at 2.1 million (pretraining.md, section 6.2).

Letters: B batch, T samples, F frames, C channels, D width, N frames of all crops.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from carrara.nn.transformer.attention import MultiHeadAttention
from carrara.pretrain.objective import MaskedPrediction

CROPS = 4
RANK_FRAMES = 1024


@torch.no_grad()
def look(model: MaskedPrediction, samples_BT: Tensor) -> dict[str, float]:
    """Return `rank/cnn`, `rank/0` and so on, `rank/last` and `attention_logit`, of these crops without dropout."""
    largest: list[Tensor] = []

    def hear(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, MultiHeadAttention)
        largest.append(module.largest_logit(given[0]))

    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    hooks = [attention.register_forward_pre_hook(hear) for attention in attentions]
    model.eval()
    try:
        cnn_BFC, rows = model.features(samples_BT[:CROPS])
    finally:
        for hook in hooks:
            hook.remove()
    names = [*map(str, range(len(rows) - 1)), "last"]
    ranks = {f"rank/{name}": effective_rank(row_BFD) for name, row_BFD in zip(names, rows)}
    logits = torch.stack(largest)
    seen = {"rank/cnn": effective_rank(cnn_BFC), **ranks}
    return seen | ({"attention_logit": float(logits.max())} if bool(logits.isfinite().all()) else {})


def effective_rank(features_BFD: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023) of the centred frames.

    Frames that are not finite are left out; 0 where none is.
    """
    rows_ND = features_BFD.detach().flatten(0, -2).float()
    rows_ND = rows_ND[rows_ND.isfinite().all(dim=1)]
    if not len(rows_ND):
        return 0.0
    rows_ND = rows_ND[:: max(len(rows_ND) // RANK_FRAMES, 1)]
    values_D = torch.linalg.svdvals(rows_ND - rows_ND.mean(dim=0))
    shares_D = values_D / values_D.sum().clamp(min=1e-12)
    return float(torch.exp(-(shares_D * shares_D.clamp(min=1e-12).log()).sum()))
