"""The convolutional baseline of MAEST: EfficientNet-B0 taught the same tags by the same recipe.

Alonso-Jiménez et al. 2023 compare MAEST with EfficientNet-B0 on the same spectrograms (encoders.md, section 1.5: on
MagnaTagATune 90.2 ROC-AUC and 37.4 mAP, where MAEST over 30 s has 92.0 and 41.9). Sampling, mixup, masks, schedule and
averaging are those of maest-10s, crops of 10 s heard in 4 whole patches of 2.05 s, the rest not at all; there are no
patches to leave out. Ours, because no one states it: learning rate 1e-3, for weights drawn at random.

Scales. `base` is B0. `small`: half the channels, a tenth of the clips an epoch. `tiny` is for a CPU and minutes:
0.15 of the channels, so that a step over 9 s costs as many operations as that of maest-30s at the same scale in the
study maest-segment (15.3 and 15.5 billion, 12 crops), and epochs, schedule and batch as there.
"""

from __future__ import annotations

from typing import Any, cast

from carrara.pretrain.recipes._base import RecipeFamily
from carrara.pretrain.recipes.maest import SMALL, TINY
from carrara.pretrain.tagging.settings import TaggingOptimiserSettings, TaggingRecipe

VARIANTS = {"effnet-tagger": "EfficientNet-B0 taught tags by MAEST's recipe over 10 s: the convolutional baseline"}

_BASE = TaggingRecipe.model_validate(
    {"encoder": "effnet-discogs", "crop_seconds": 10.0, "optimiser": TaggingOptimiserSettings(learning_rate=1e-3)}
)

RECIPE = RecipeFamily(
    variants={"effnet-tagger": cast(Any, _BASE)},
    scales={
        "base": {},
        "small": {**SMALL, "network.dim": 0.5},
        "tiny": {**TINY, "network.dim": 0.15},
    },
)
