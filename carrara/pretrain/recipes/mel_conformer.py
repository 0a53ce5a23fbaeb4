"""MERT-v2's network, a ConvNeXt and a conformer on a mel spectrogram, from random-projection or from Mel-RVQ codes.

How MERT-v2 itself was trained is not published. This is our combination of its network (632M: 24 layers of 1024, 25
frames a second) with the targets, masks and optimiser of MusicFM [won2024] and of MuQ [zhu2025] (_mel.py; musicfm.py
has these on their own network). Dropout of .1 is MuQ's.

Scales: `base` is the published size, `small` and `tiny` are the networks `mel-conformer-small` (22M) and `-tiny`
(1.5M). docs/recipes/mel-conformer.md has sources, measurements and what is ours.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import Recipe, RecipeFamily
from carrara.pretrain.recipes._mel import MEL_SMALL, MEL_TINY, RANDOM, RVQ, TRAINING

VARIANTS = {
    "mel-conformer-random": "MERT v2's network (632M) from random-projection codes as BEST-RQ and MusicFM, 24 kHz",
    "mel-conformer-rvq": "MERT v2's network (632M) from Mel-RVQ codes fitted on the corpus as MuQ, 24 kHz",
}


def _recipe(codes: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {"encoder": "mert-v2-30s", "network": {"dropout": 0.1}, "targets": {"codes": codes}, **TRAINING}
    )


RECIPE = RecipeFamily(
    variants={"mel-conformer-random": _recipe(RANDOM), "mel-conformer-rvq": _recipe(RVQ)},
    scales={
        "base": {},
        "small": {
            **MEL_SMALL,
            "network.conv_channels": (128, 256, 384),
            "network.conv_depths": (2, 2, 2),
            "network.dim": 384,
            "network.num_layers": 8,
            "network.num_heads": 6,
            "network.ffn_dim": 768,
        },
        "tiny": {
            **MEL_TINY,
            "network.conv_channels": (128, 128, 128),
            "network.conv_depths": (1, 1, 1),
            "network.dim": 128,
            "network.num_layers": 4,
            "network.num_heads": 4,
            "network.ffn_dim": 256,
        },
    },
)
