"""Early signs of a failing run: effective rank of the features and the largest attention logit.

A falling rank [garrido2023] is collapse: of the convolutions' output, which data2vec users met while all else looked
fine (fairseq issue 5239), or of a layer. Attention logits precede an overflow: float16 ends at 65,504, with a
relaxation of 32 at 2.1 million [notes/pretraining §6.2].

Letters: B batch, T samples, F frames, D dim, N frames of all crops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from carrara.nn.transformer.attention import MultiHeadAttention
from carrara.nn.transformer.conformer import RotaryAttention
from carrara.nn.transformer.vit import VitAttention
from carrara.pretrain.objectives._masked_network import MaskedPrediction

MEASURED_CROPS = 4
RANK_FRAMES = 1024


@torch.no_grad()
def measure(model: MaskedPrediction, samples_BT: Tensor) -> dict[str, float]:
    """Return `rank/cnn`, `rank/0` …, `rank/last` and `attention_logit` of the first crops, in evaluation mode."""
    largest: list[Tensor] = []

    def record_logit(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, RotaryAttention):
            largest.append(module.largest_logit(*inputs[:2]))
        elif isinstance(module, MultiHeadAttention | VitAttention):
            largest.append(module.largest_logit(inputs[0]))

    kinds = MultiHeadAttention | RotaryAttention | VitAttention
    attentions = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [attention.register_forward_pre_hook(record_logit) for attention in attentions]
    model.eval()
    try:
        cnn_BFC, layers = model.all_layers(samples_BT[:MEASURED_CROPS])
    finally:
        for hook in hooks:
            hook.remove()
    metrics = {"rank/cnn": effective_rank(cnn_BFC)}
    for index, layer_BFD in enumerate(layers):
        metrics["rank/last" if index == len(layers) - 1 else f"rank/{index}"] = effective_rank(layer_BFD)
    logits = torch.stack(largest)
    if bool(logits.isfinite().all()):
        metrics["attention_logit"] = float(logits.max())
    return metrics


def effective_rank(features_BFD: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of the centred frames [garrido2023].

    Frames that are not finite are left out; the rank is 0 where none is left.
    """
    features_ND = features_BFD.detach().flatten(0, -2).float()
    features_ND = features_ND[features_ND.isfinite().all(dim=1)]
    if not len(features_ND):
        return 0.0
    features_ND = features_ND[:: max(len(features_ND) // RANK_FRAMES, 1)]
    values_D = torch.linalg.svdvals(features_ND - features_ND.mean(dim=0))
    fraction_D = values_D / values_D.sum().clamp(min=1e-12)
    return float(torch.exp(-(fraction_D * fraction_D.clamp(min=1e-12).log()).sum()))
