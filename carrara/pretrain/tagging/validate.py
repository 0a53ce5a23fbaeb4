"""The validation side heard by a network, middle crop by middle crop, and how well it tells its tags."""

from __future__ import annotations

import numpy as np
import torch

from carrara.pretrain.tagging.crops import MiddleCrops
from carrara.pretrain.tagging.network import Tagger, answers, heard
from carrara.pretrain.tagging.scores import scores


@torch.no_grad()
def validation(encoder: Tagger, middles: MiddleCrops, device: torch.device) -> dict[str, float]:
    """Return the scores of a network on clips that can be read; none where there are no clips.

    Nothing is left out of the crops: patchout, mixup and masks are for training.
    """
    encoder.eval()
    items: list[int] = []
    told = []
    for batch in middles.batches(0, middles.steps):
        if batch.items:
            items += batch.items
            mel_BFM = heard(encoder, batch.samples_BT.to(device))
            told.append(answers(encoder, mel_BFM)[0].float().cpu().numpy())
    return scores(middles.tagged.tags_NC[items], np.concatenate(told)) if told else {}
