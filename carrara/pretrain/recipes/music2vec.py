"""Music2Vec: data2vec taught music, 16 kHz, a student that guesses its own average's features of what it does not see.

Li et al. 2022, MAP-Music2Vec (arXiv 2212.02508), after data2vec (Baevski et al. 2022); pretraining.md 3.7. Vanilla:
30-s crops of 1,000 h, masks of 10 frames at .65, the top 8 layers averaged, 400,000 steps, learning rate 5e-4, batches
of 63 minutes, no clipping. The ablations are those of the thesis, table 4.3 (averages of nine tasks: vanilla 57.8, 5-s
crops 61.8, top 12 60.6, spans of 5 49.7 and of 15 55.2, masks at .5 56.3 and at .8 55.1, 800,000 steps 55.0) and of the
poster (10-s and 15-s crops, masks at .7). A batch holds the same seconds whatever the crop, as there.

Below `base` crops, masks, layers and steps shrink in proportion, so that every variant stays another; `tiny` has 15 s
of sound a step: twelve crops of 1.28 s, or two of 7.68 s. data2vec's rate rises over 3 % of the steps, holds for 90 %
and falls over 7 %. The run gives up where what is taught or answered no longer varies.
"""

from __future__ import annotations

import math

from carrara.pretrain.recipes._base import Recipe, RecipeFamily, times
from carrara.pretrain.recipes._tiny import SMALL, TINY

VARIANTS = {
    "music2vec": "Music2Vec as published: 30-s crops, spans of 10 at .65, top 8 layers, 400,000 steps",
    "music2vec-crop5s": "Music2Vec in 5-s crops (thesis, table 4.3: the best)",
    "music2vec-crop10s": "Music2Vec in 10-s crops (poster)",
    "music2vec-crop15s": "Music2Vec in 15-s crops (poster)",
    "music2vec-span5": "Music2Vec with masks of 5 frames",
    "music2vec-span15": "Music2Vec with masks of 15 frames",
    "music2vec-prob50": "Music2Vec with masks at .5",
    "music2vec-prob70": "Music2Vec with masks at .7 (poster)",
    "music2vec-prob80": "Music2Vec with masks at .8",
    "music2vec-target12": "Music2Vec taught by the mean of all 12 layers",
    "music2vec-800k": "Music2Vec for 800,000 steps",
}
BATCH_SECONDS = 63 * 60


def _recipe(
    crop: float = 30.0, span: int = 10, probability: float = 0.65, top: int = 8, steps: int = 400_000
) -> Recipe:
    return Recipe.model_validate(
        {
            "encoder": "music2vec-v1",
            "targets": {"teacher": {"target": "teacher", "top": top, "weight": math.sqrt(768)}},
            "masking": {"probability": probability, "span": span, "minimum": 1},
            "objective": {"feature_penalty": 0.0},
            "optimiser": {"learning_rate": 5e-4, "warmup": 0.03, "hold": 0.9, "clip": 0.0},
            "recovery": {"least_target": 0.1, "least_prediction": 0.01},
            "crop_seconds": crop,
            "batch": round(BATCH_SECONDS / crop),
            "steps": steps,
            "checkpoint_every": 5000,
            "log_every": 100,
        }
    )


RECIPE = RecipeFamily(
    variants={
        "music2vec": _recipe(),
        "music2vec-crop5s": _recipe(crop=5.0),
        "music2vec-crop10s": _recipe(crop=10.0),
        "music2vec-crop15s": _recipe(crop=15.0),
        "music2vec-span5": _recipe(span=5),
        "music2vec-span15": _recipe(span=15),
        "music2vec-prob50": _recipe(probability=0.5),
        "music2vec-prob70": _recipe(probability=0.7),
        "music2vec-prob80": _recipe(probability=0.8),
        "music2vec-target12": _recipe(top=12),
        "music2vec-800k": _recipe(steps=800_000),
    },
    scales={
        "base": {},
        "small": {
            **SMALL,
            "batch": times(1 / 12),
            "steps": times(1 / 8),
            "targets.teacher.top": times(6 / 12),
            "targets.teacher.weight": math.sqrt(384),
        },
        "tiny": {
            **TINY,
            # What is not masked has no secret to guess from an average of oneself.
            "objective.unmasked_weight": 0.0,
            "objective.feature_penalty": 0.0,
            "network.norm_placement": "post",
            "crop_seconds": times(1.28 / 5),
            "batch": times(1 / 63),
            "steps": times(1 / 400),
            "masking.mask_prob": times(1),
            "targets.teacher.top": times(4 / 12),
            "targets.teacher.weight": math.sqrt(128),
            "targets.teacher.decay_steps": 500,
            "targets.teacher.decay": 0.99,
            "targets.teacher.last_decay": 0.999,
            "optimiser.learning_rate": 1e-3,
            "target_rms": None,
        },
    },
)
