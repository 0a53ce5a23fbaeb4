"""MAEST's patch Transformer from random-projection or Mel-RVQ codes of masked columns, without any tags.

Ours: no paper trains this network so. Targets, head, optimiser and steps are those of the conformers (_mel.py), after
BEST-RQ [chiu2022], MusicFM [won2024] and MuQ [zhu2025]; the network and its input are MAEST's over 10 s [alonso2023],
without patchout and without heads for tags. A frame is a column of patches, 6.25 a second; its code is that of the 16
mel frames of 10 ms around its centre. Noise replaces the samples of masked columns, in blocks of 5 (0.8 s): the first
and the last of a block show 3 of 16 mel frames of their neighbours, those between nothing of the clip. More in
docs/mel-conformer.md.

Afterwards `carrara pretrain maest-10s --from FOLDER` trains the network on tags.

Scales: `small` takes a night on one GPU: 6 layers of 384, batches of 64. `tiny` takes minutes on two cores: 4 layers of
128, crops of 5.12 s, blocks of 3 columns.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import Recipe, RecipeFamily
from carrara.pretrain.recipes._mel import MEL_SMALL, MEL_TINY, RANDOM, RVQ, TRAINING

VARIANTS = {
    "mel-transformer-random": "MAEST's patch Transformer (85M) from random-projection codes of masked columns, 16 kHz",
    "mel-transformer-rvq": "MAEST's patch Transformer (85M) from Mel-RVQ codes of masked columns, 16 kHz",
}


def _recipe(codes: dict[str, Any]) -> Recipe:
    changes = {
        "encoder": "maest-10s",
        "network": {"tokens": "frames", "classes": 0},
        "targets": {"codes": codes},
        "masking": {**TRAINING["masking"], "mask_length": 5},
        "crop_seconds": 10.0,
    }
    return Recipe.model_validate({**TRAINING, **changes})


RECIPE = RecipeFamily(
    variants={"mel-transformer-random": _recipe(RANDOM), "mel-transformer-rvq": _recipe(RVQ)},
    scales={
        "base": {},
        "small": {
            **MEL_SMALL,
            "network.dim": 384,
            "network.num_layers": 6,
            "network.num_heads": 6,
            "network.ffn_dim": 1536,
        },
        "tiny": {
            **{path: value for path, value in MEL_TINY.items() if path != "network.dropout"},
            "network.dim": 128,
            "network.num_layers": 4,
            "network.num_heads": 4,
            "network.ffn_dim": 512,
            "masking.mask_length": 3,
        },
    },
)
