"""MusicFM and MuQ on their own network: convolutions and 12 conformer layers of 1024 on a mel spectrogram, 316M.

`musicfm` [won2024]: random-projection codes. `muq` [zhu2025]: Mel-RVQ codes; its second iteration, on codes of its own
features, is not built in. Targets, masks and optimiser are in _mel.py. The batch norms of this network see one
micro-batch at a time, so unlike elsewhere the weights depend on `accumulation_steps` and on the number of ranks.

Scales: `small` has 8 layers of 384, `tiny` is the network `musicfm-tiny` (1.6M).
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import Recipe, RecipeFamily
from carrara.pretrain.recipes._mel import MEL_SMALL, MEL_TINY, RANDOM, RVQ, TRAINING

VARIANTS = {
    "musicfm": "MusicFM: random-projection codes of masked mel frames, 316M, 24 kHz, 30-s crops",
    "muq": "MuQ: Mel-RVQ codes of masked mel frames, 316M, 24 kHz, 30-s crops",
}


def _recipe(encoder: str, codes: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"encoder": encoder, "targets": {"codes": codes}, **TRAINING})


RECIPE = RecipeFamily(
    variants={"musicfm": _recipe("musicfm-msd", RANDOM), "muq": _recipe("muq", RVQ)},
    scales={
        "base": {},
        "small": {
            **MEL_SMALL,
            "network.channels": 64,
            "network.dim": 384,
            "network.num_layers": 8,
            "network.num_heads": 6,
            "network.ffn_dim": 768,
        },
        "tiny": {
            **MEL_TINY,
            "network.channels": 16,
            "network.dim": 128,
            "network.num_layers": 4,
            "network.num_heads": 4,
            "network.ffn_dim": 512,
        },
    },
)
