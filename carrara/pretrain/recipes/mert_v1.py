"""MERT v1: EnCodec's eight codebooks and a CQT at 24 kHz, with mixup; 95M in 5-s and 330M in 5.12-s crops.

[li2024] [yuan2023thesis §5] and the released configurations [notes/pretraining §1.7, §3]. Batches of 1.48 h for 95M and
of 5.3 to 5.5 h for 330M, mixed among the 16 and 7 crops of a GPU; here 1,024 crops (1.42 h) and 3,584 (5.1 h), which
divide into such pools on any usual number of GPUs. 400,000 steps, AdamW, learning rate 5e-4 and 1.5e-3 with 32,000
steps of warm-up, gradient norm 10 and 1. 330M is pre-LN, without dropout, with attention relaxation 32; the relaxation
matters only where attention computes in float16 without fused kernels, and the released code's cannot run, so
`attention` stays fused here and the precision is bfloat16 [notes/pretraining §0.1, §6.1].

Ablations: which codebook (all eight 66.9, the first 60.5, the last 57.6, a random one each step 65.8)
[yuan2023thesis table 5.3], mixup (without 66.9, at .5 68.8) [yuan2023thesis table 5.4]. The released configurations mix
at .5.

`…-as-released` also does what the released code does where Carrara's default differs on purpose: trimmed masks, four
special classes a codebook, the CQT centred 200 samples earlier, a first step of rate 0. docs/differences.md has the
reasons and the measurements.

The codes are those of EnCodec's official weights. Without these, `--set targets.codes.source=residual-k-means` takes
codes that are fitted on the corpus, as `small` and `tiny` do by themselves, `tiny` with codebooks of 64.
"""

from __future__ import annotations

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
    "mert-v1-330m": "MERT v1, 330M: the same on 24 pre-LN layers of 1024, 160,000 h, gradient norm 1",
    "mert-v1-95m-as-released": "MERT v1, 95M, as the released code computes it (docs/differences.md)",
    "mert-v1-330m-as-released": "MERT v1, 330M, as the released code computes it (docs/differences.md)",
}


def _recipe(
    encoder: str,
    use: str | int = "all",
    mixup: float = 0.5,
    pool: int = 16,
    longest: float = 1.0,
    **changes: object,
) -> Recipe:
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
            "batch": 1024,
            "steps": 400_000,
            "checkpoint_every": 5000,
            "log_every": 100,
            **changes,
        }
    )


_LARGE = _recipe(
    "mert-v1-330m",
    mixup=0.5,
    pool=7,
    longest=1.5,
    objective={"final_dim": 128},
    optimiser={"learning_rate": 1.5e-3, "warmup_fraction": 0.08, "max_grad_norm": 1.0},
    crop_seconds=5.12,
    batch=3584,
    precision="bfloat16",
    activation_checkpointing=True,
)
_AS_RELEASED = {
    "masking.same_masks": True,
    "objective.special_classes": 4,
    "optimiser.warmup_from_zero": True,
    "targets.cqt.centre": "hop",
}
_LOCAL = {"targets.codes.source": "residual-k-means", "targets.codes.whole_files": False}

RECIPE = RecipeFamily(
    variants={
        "mert-v1-95m": _recipe("mert-v1-95m"),
        "mert-v1-95m-no-mixup": _recipe("mert-v1-95m", mixup=0.0),
        "mert-v1-95m-codebook-0": _recipe("mert-v1-95m", use=0, mixup=0.0),
        "mert-v1-95m-codebook-7": _recipe("mert-v1-95m", use=7, mixup=0.0),
        "mert-v1-95m-random-codebook": _recipe("mert-v1-95m", use="random", mixup=0.0),
        "mert-v1-330m": _LARGE,
        "mert-v1-95m-as-released": replace(_recipe("mert-v1-95m"), _AS_RELEASED),
        # A pool is the seven crops of a GPU.
        "mert-v1-330m-as-released": replace(_LARGE, {**_AS_RELEASED, "masking.pool": 7}),
    },
    scales={
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
            "precision": "float32",
            "activation_checkpointing": False,
        },
    },
)
