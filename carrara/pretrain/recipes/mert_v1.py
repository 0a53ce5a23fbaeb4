"""MERT v1, 95M: EnCodec's eight codebooks and a CQT at 24 kHz, with mixup, in 5-s crops; 330M is in mert_v1_330m.py.

[li2024] [yuan2023thesis §5.2] and the released configuration [notes/pretraining §1.7, §3]. Batches of 1.5 hours: 1,088
crops, 17 on each of 64 GPUs, among which they are mixed (the configuration's 2 million samples a GPU hold 16, 1.42 h).
400,000 steps, AdamW, learning rate 5e-4 with 32,000 steps of warm-up, gradient norm 10, half precision;
`mert-v1-95m-bf16` is the same in bfloat16, which needs no loss scale.

Ablations: which codebook (all eight 66.9, the first 60.5, the last 57.6, a random one each step 65.8)
[yuan2023thesis table 5.3], mixup (without 66.9, at .5 68.8) [yuan2023thesis table 5.4]. The released configurations mix
at .5.

`mert-v1-95m-as-released` also does what the released code does where Carrara's default differs on purpose: 16 crops a
GPU, trimmed masks, four special classes a codebook, the CQT centred 200 samples earlier, a first step of rate 0.
docs/differences.md has the reasons and the measurements.

The codes are those of EnCodec's official weights. Without these, `--set targets.codes.source=residual-k-means` takes
codes that are fitted on the corpus, as `small` and `tiny` do by themselves, `tiny` with codebooks of 64.
"""

from __future__ import annotations

from typing import Any

from carrara.core.settings import replace
from carrara.pretrain.recipes._base import Recipe, RecipeFamily, times
from carrara.pretrain.recipes._tiny import SMALL, TINY
from carrara.pretrain.targets.codes import HUB

VARIANTS = {
    "mert-v1-95m": "MERT v1, 95M: EnCodec's eight codebooks plus CQT, mixup .5, 24 kHz, 5-s crops",
    "mert-v1-95m-no-mixup": "MERT v1, 95M, without mixup [yuan2023thesis table 5.4]",
    "mert-v1-95m-codebook-0": "MERT v1, 95M, from the first codebook alone [yuan2023thesis table 5.3]",
    "mert-v1-95m-codebook-7": "MERT v1, 95M, from the last codebook alone [yuan2023thesis table 5.3]",
    "mert-v1-95m-random-codebook": "MERT v1, 95M, one random codebook each step [yuan2023thesis table 5.3]",
    "mert-v1-95m-bf16": "MERT v1, 95M, in bfloat16",
    "mert-v1-95m-as-released": "MERT v1, 95M, as the released code computes it (docs/differences.md)",
}


def mert_v1_recipe(
    encoder: str = "mert-v1-95m",
    use: str | int = "all",
    mixup: float = 0.5,
    pool: int = 17,
    longest: float = 1.0,
    **changes: object,
) -> Recipe:
    """Return the 95M's recipe with changes.

    Args:
        encoder: name of the encoder.
        use: which codebooks a step predicts.
        mixup: probability that a crop is mixed.
        pool: crops that are mixed with one another.
        longest: excerpt, in seconds.
        changes: other settings of `Recipe`.
    """
    return Recipe.model_validate(
        {
            "encoder": encoder,
            "network": {"standardise": False},  # training took raw waveforms, MARBLE's probes did not
            "targets": {
                "codes": {"target": "codes", "source": "encodec", "weights": HUB, "use": use, "whole_files": True},
                "cqt": {"target": "cqt"},
            },
            "masking": {"mask_prob": 0.8, "mask_length": 5},
            "mixup": {"probability": mixup, "shortest": 0.5, "longest": longest, "pool": pool},
            "objective": {"final_dim": 64},
            "optimiser": {"learning_rate": 5e-4, "warmup_fraction": 0.08, "max_grad_norm": 10.0},
            "crop_seconds": 5.0,
            "precision": "float16",
            "loss_scale": {"double_after": 2**14 // 64},
            "batch": 1088,
            "steps": 400_000,
            "checkpoint_every": 5000,
            "log_every": 100,
            **changes,
        }
    )


# What the released code computes otherwise than Carrara by default.
AS_RELEASED = {
    "masking.same_masks": True,
    "objective.special_classes": 4,
    "optimiser.warmup_from_zero": True,
    "targets.cqt.centre": "hop",
}
_LOCAL = {"targets.codes.source": "residual-k-means", "targets.codes.whole_files": False}
MERT_V1_SCALES: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {**SMALL, **_LOCAL},
    "tiny": {
        **TINY,
        **_LOCAL,
        "targets.codes.num_codebooks": 8,
        "targets.codes.codebook_size": 64,
        "targets.cqt.form": "log",
        "targets.cqt.bins": 84,
        "targets.cqt.bins_per_octave": 12,
        "targets.cqt.weight": times(3.0),
        "mixup.shortest": 0.1,
        "mixup.longest": 0.3,
        "mixup.pool": 4,
        "masking.pool": 4,
    },
}

RECIPE = RecipeFamily(
    variants={
        "mert-v1-95m": mert_v1_recipe(),
        "mert-v1-95m-no-mixup": mert_v1_recipe(mixup=0.0),
        "mert-v1-95m-codebook-0": mert_v1_recipe(use=0, mixup=0.0),
        "mert-v1-95m-codebook-7": mert_v1_recipe(use=7, mixup=0.0),
        "mert-v1-95m-random-codebook": mert_v1_recipe(use="random", mixup=0.0),
        "mert-v1-95m-bf16": mert_v1_recipe(precision="bfloat16"),
        "mert-v1-95m-as-released": replace(mert_v1_recipe(pool=16, batch=1024), AS_RELEASED),
    },
    scales=MERT_V1_SCALES,
)
