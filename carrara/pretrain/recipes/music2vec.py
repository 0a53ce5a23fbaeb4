"""Music2Vec: data2vec on music at 16 kHz; the student predicts features of its own moving average at masked frames.

[li2022] after data2vec [baevski2022] [notes/pretraining §3.7]. As published: 30-s crops of 1,000 h, masks of 10 frames
at .65, the top 8 layers averaged, 400,000 steps, learning rate 5e-4, batches of 63 minutes, no clipping. Ablations
[yuan2023thesis table 4.3] (averages of nine tasks): as published 57.8, 5-s crops 61.8, top 12 layers 60.6, masks of 5
frames 49.7 and of 15 55.2, masks at .5 56.3 and at .8 55.1, 800,000 steps 55.0; and [music2vec-poster]: 10-s and 15-s
crops, masks at .7. `music2vec-crop5s-250k` is the training of [ma2023-poster]: 5-s crops, 250,000 steps. A batch has
the same duration whatever the crop, as there.

Below `base`, crops, masks, layers and steps shrink in proportion, so that every variant stays distinct; `tiny` has 15 s
of audio a step: twelve crops of 1.28 s, or two of 7.68 s. The learning rate rises over 3 % of the steps, holds for 90 %
and falls over 7 %. The run stops where targets or predictions no longer vary.
"""

from __future__ import annotations

import math

from carrara.pretrain.recipes._base import Recipe, RecipeFamily, times
from carrara.pretrain.recipes._tiny import SMALL, TINY

VARIANTS = {
    "music2vec": "Music2Vec as published: 30-s crops, masks of 10 frames at .65, top 8 layers, 400,000 steps",
    "music2vec-crop5s": "Music2Vec in 5-s crops ([yuan2023thesis table 4.3]: the best)",
    "music2vec-crop10s": "Music2Vec in 10-s crops [music2vec-poster]",
    "music2vec-crop15s": "Music2Vec in 15-s crops [music2vec-poster]",
    "music2vec-span5": "Music2Vec with masks of 5 frames",
    "music2vec-span15": "Music2Vec with masks of 15 frames",
    "music2vec-prob50": "Music2Vec with masks at .5",
    "music2vec-prob70": "Music2Vec with masks at .7 [music2vec-poster]",
    "music2vec-prob80": "Music2Vec with masks at .8",
    "music2vec-target12": "Music2Vec with the mean of all 12 layers as target",
    "music2vec-crop5s-250k": "Music2Vec in 5-s crops for 250,000 steps [ma2023-poster]",
    "music2vec-800k": "Music2Vec for 800,000 steps",
}
BATCH_SECONDS = 63 * 60


def _recipe(
    crop: float = 30.0, mask_length: int = 10, mask_prob: float = 0.65, top_layers: int = 8, steps: int = 400_000
) -> Recipe:
    return Recipe.model_validate(
        {
            "encoder": "music2vec-v1",
            "targets": {"teacher": {"target": "teacher", "top_layers": top_layers, "weight": math.sqrt(768)}},
            "masking": {"mask_prob": mask_prob, "mask_length": mask_length, "min_masks": 1},
            "objective": {"feature_penalty": 0.0},
            "optimiser": {"learning_rate": 5e-4, "warmup_fraction": 0.03, "hold_fraction": 0.9, "max_grad_norm": 0.0},
            "recovery": {"min_target_std": 0.1, "min_prediction_std": 0.01},
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
        "music2vec-span5": _recipe(mask_length=5),
        "music2vec-span15": _recipe(mask_length=15),
        "music2vec-prob50": _recipe(mask_prob=0.5),
        "music2vec-prob70": _recipe(mask_prob=0.7),
        "music2vec-prob80": _recipe(mask_prob=0.8),
        "music2vec-target12": _recipe(top_layers=12),
        "music2vec-crop5s-250k": _recipe(crop=5.0, steps=250_000),
        "music2vec-800k": _recipe(steps=800_000),
    },
    scales={
        "base": {},
        "small": {
            **SMALL,
            "batch": times(1 / 12),
            "steps": times(1 / 8),
            "targets.teacher.top_layers": times(6 / 12),
            "targets.teacher.weight": math.sqrt(384),
        },
        "tiny": {
            **TINY,
            # The average of the student gives unmasked frames away.
            "objective.unmasked_weight": 0.0,
            "objective.feature_penalty": 0.0,
            "network.norm_placement": "post",
            "crop_seconds": times(1.28 / 5),
            "batch": times(1 / 63),
            "steps": times(1 / 400),
            "masking.mask_prob": times(1),
            "targets.teacher.top_layers": times(4 / 12),
            "targets.teacher.weight": math.sqrt(128),
            "targets.teacher.decay_steps": 500,
            "targets.teacher.decay": 0.99,
            "targets.teacher.end_decay": 0.999,
            "optimiser.learning_rate": 1e-3,
            "target_rms": None,
        },
    },
)
