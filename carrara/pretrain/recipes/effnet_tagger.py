"""EfficientNet-B0 trained on tags by MAEST's recipe: the convolutional baseline of MAEST.

[alonso2023] compares MAEST with EfficientNet-B0 on the same spectrograms: on MagnaTagATune 90.2 ROC-AUC and 37.4 mAP,
where MAEST over 30 s has 92.0 and 41.9 [notes/encoders §1.5]. Sampling, mixup, masks, schedule and weight averaging are
those of maest-10s; a crop of 10 s is 4 patches of 2.05 s without the remainder; no patch is left out. The learning rate
of 1e-3 from random weights is ours, because none is stated.

Scales: `base` is B0. `small` has half the channels and a tenth of the clips an epoch. `tiny` takes minutes on a CPU:
0.15 of the channels, so that a step over 9 s costs as many operations as one of maest-30s at the same scale in the
ablation maest-segment (15.3 and 15.5 billion, 12 crops), with the epochs, schedule and batch of that.
"""

from __future__ import annotations

from carrara.pretrain.recipes._base import RecipeFamily
from carrara.pretrain.recipes.maest import SMALL, TINY
from carrara.pretrain.tagging.settings import TaggingOptimiserSettings, TaggingRecipe

VARIANTS = {"effnet-tagger": "EfficientNet-B0 trained on tags by MAEST's recipe over 10 s: the convolutional baseline"}

_BASE = TaggingRecipe.model_validate(
    {"encoder": "effnet-discogs", "crop_seconds": 10.0, "optimiser": TaggingOptimiserSettings(learning_rate=1e-3)}
)

RECIPE = RecipeFamily(
    variants={"effnet-tagger": _BASE},
    scales={
        "base": {},
        "small": {**SMALL, "network.width_multiplier": 0.5},
        "tiny": {**TINY, "network.width_multiplier": 0.15},
    },
)
