"""MusicHuBERT: HuBERT on music at 16 kHz, from clusters of MFCC, then from clusters of a layer of its own.

[ma2023] [yuan2023thesis §4, table 4.2] after HuBERT [hsu2021]: 1,000 h in excerpts of 30 s, masks of 10 frames at .8,
learning rate 5e-4 with 32,000 steps of warm-up, gradient norm 10, batches of 47 minutes whatever the crop.
`musichubert-k2000-crop15s` has the 15.6 s to which HuBERT's configuration crops, `musichubert-k2000-crop5s` the 5 s and
the 250,000 steps of the poster [ma2023-poster].

Clusters of 39 MFCC: 100, 500 and 2,000 (average of nine tasks 62.4 at 500 and 64.4 at 2,000); of 60 MFCC: 500 (65.0).
The second iteration has 2,000 clusters of a layer of the first (63.8); which layer is not stated, HuBERT's sixth is
taken. `--set targets.layer.encoder=FOLDER` names the first iteration's model. `tiny` has a fifth of the clusters, and
crops of 1.28 s for 30.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import Recipe, RecipeFamily, times
from carrara.pretrain.recipes._tiny import SMALL, TINY

VARIANTS = {
    "musichubert-k100": "MusicHuBERT from 100 clusters of 39 MFCC [yuan2023thesis table 5.3]",
    "musichubert-k500": "MusicHuBERT from 500 clusters of 39 MFCC",
    "musichubert-k2000": "MusicHuBERT from 2,000 clusters of 39 MFCC",
    "musichubert-mfcc60": "MusicHuBERT from 500 clusters of 60 MFCC ([yuan2023thesis table 4.2]: the best)",
    "musichubert-k2000-crop15s": "MusicHuBERT from 2,000 clusters of 39 MFCC in crops of 15.6 s, as HuBERT's",
    "musichubert-k2000-crop5s": "MusicHuBERT from 2,000 clusters in 5-s crops, 250,000 steps [ma2023-poster]",
    "musichubert-iter2": "MusicHuBERT's second iteration: 2,000 clusters of a layer of the first",
}


BATCH_SECONDS = 47 * 60


def _recipe(name: str, crop: float = 30.0, steps: int = 400_000, **target: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "encoder": "musichubert-base",
            "network": {"standardise": False},  # training took raw waveforms, MARBLE's probes did not
            "targets": {name: {"target": "clusters", **target}},
            "masking": {"mask_prob": 0.8, "mask_length": 10},
            "objective": {"final_dim": 256},
            "optimiser": {"learning_rate": 5e-4, "warmup_fraction": 0.08, "max_grad_norm": 10.0},
            "crop_seconds": crop,
            "batch": round(BATCH_SECONDS / crop),
            "steps": steps,
            "checkpoint_every": 5000,
            "log_every": 100,
        }
    )


RECIPE = RecipeFamily(
    variants={
        "musichubert-k100": _recipe("mfcc", feature="mfcc-39", k=100),
        "musichubert-k500": _recipe("mfcc", feature="mfcc-39", k=500),
        "musichubert-k2000": _recipe("mfcc", feature="mfcc-39", k=2000),
        "musichubert-k2000-crop15s": _recipe("mfcc", crop=15.6, feature="mfcc-39", k=2000),
        "musichubert-k2000-crop5s": _recipe("mfcc", crop=5.0, steps=250_000, feature="mfcc-39", k=2000),
        "musichubert-mfcc60": _recipe("mfcc", feature="mfcc-60", k=500),
        "musichubert-iter2": _recipe("layer", feature="layer", encoder="musichubert-base", layer=6, k=2000),
    },
    scales={
        "base": {},
        "small": {**SMALL, "batch": times(1 / 3), "steps": times(1 / 8)},
        "tiny": {
            **TINY,
            "targets.mfcc.k": times(0.2),
            "targets.layer.k": times(0.2),
            "targets.layer.layer": 2,
            # Masks of 10 frames need half a second.
            "crop_seconds": lambda crop: max(1.28 / 30 * crop, 0.64),
            "batch": times(8 / 94),
            "steps": times(1 / 400),
        },
    },
)
