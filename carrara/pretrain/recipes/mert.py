"""MERT: masked prediction of acoustic cluster numbers, and reconstruction of a CQT, from 5-s crops of music.

`mert-v0` [li2024] [yuan2023thesis §5]: 16 kHz, k-means of log-mel (229 bands, 300 clusters) and of chroma (264 bins,
200 clusters), CQT of 336 bins with weight 1; learning rate 5e-4, 1.5 hours a batch (1,088 crops of 5 s, 17 on each of
64 GPUs), half precision. Where v0's setting is not stated, that of v1-95M's published configuration is taken: warm-up
32k of 400k steps, linear decay, gradient norm 10, p = .8, masks of 5, final_dim 64, feature penalty 10.

`mert-v0-iter2` is the second iteration of `mert-v0-no-cqt`: 500 clusters of a layer of that model
(`--set targets.layer.encoder=FOLDER`), without a CQT (60.7, the first 62.1 [yuan2023thesis table 5.3]). Which layer is
not stated, HuBERT's sixth is taken.

Scales: `base` is as published. `small` takes some hours on one GPU: half the dimensions and layers, a sixteenth of the
batch. `tiny` takes four minutes on a CPU. What differs there, and why:

- Three convolutions instead of seven, the first one long (40 ms, every 5 ms): the published ones take thousands of
  steps to resolve semitones, since their first kernel is 0.6 ms. After 300 steps a linear map from the long ones
  explains 54 % of the CQT, from the published 22 %, in two thirds of the time. The frame rate stays the same.
- Pre-norm layers: post-norm ones only predict class frequencies for the first hundreds of steps.
- Unmasked frames are predicted too, fewer are masked, no dropout, unscaled gradients of the convolutions.
- Crops of 1.28 s, eight a step, because many small steps teach more than few large ones. All have the same level, which
  the network's first norm removes anyway. CQT as 84 logarithms, chroma folded from a CQT, fewer clusters.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import Recipe, RecipeFamily, times
from carrara.pretrain.recipes._tiny import SMALL, TINY

VARIANTS = {
    "mert-v0": "MERT v0: k-means of log-mel (300) and chroma (200) plus CQT, 16 kHz, 5-s crops",
    "mert-v0-public": "MERT v0 for public music alone (music4all, 910 h); the same settings",
    "mert-v0-no-cqt": "MERT v0 without the CQT ([yuan2023thesis table 5.3]: 62.1, with it 67.3)",
    "mert-v0-cqt2": "MERT v0 with the CQT at twice its weight [yuan2023thesis table 5.4]",
    "mert-v0-cqt5": "MERT v0 with the CQT at five times its weight [yuan2023thesis table 5.4]",
    "mert-v0-mixup25": "MERT v0 with a quarter of the crops mixed [yuan2023thesis table 5.4]",
    "mert-v0-mixup50": "MERT v0 with half of the crops mixed ([yuan2023thesis table 5.4]: 65.2, without 67.3)",
    "mert-v0-iter2": "MERT v0's second iteration: 500 clusters of a layer of mert-v0-no-cqt [yuan2023thesis table 5.3]",
}


FIRST_ITERATION: dict[str, Any] = {
    "log-mel": {"target": "clusters", "feature": "log-mel-229", "k": 300},
    "chroma": {"target": "clusters", "feature": "chroma-264", "k": 200},
}
SECOND_ITERATION: dict[str, Any] = {
    "layer": {"target": "clusters", "feature": "layer", "encoder": "mert-v0", "layer": 6, "k": 500}
}


def _recipe(cqt: float = 1.0, mixup: float = 0.0, clusters: dict[str, Any] = FIRST_ITERATION) -> Recipe:
    return Recipe.model_validate(
        {
            "encoder": "mert-v0",
            "network": {"standardise": False},  # training took raw waveforms, MARBLE's probes did not
            "targets": {**clusters, **({"cqt": {"target": "cqt", "weight": cqt}} if cqt else {})},
            "masking": {"mask_prob": 0.8, "mask_length": 5},
            "mixup": {"probability": mixup, "pool": 17},
            "objective": {"final_dim": 64},
            "crop_seconds": 5.0,
            "precision": "float16",
            "loss_scale": {"double_after": 2**14 // 64},
            "batch": 1088,
            "steps": 400_000,
            "checkpoint_every": 5000,
            "log_every": 100,
        }
    )


RECIPE = RecipeFamily(
    variants={
        "mert-v0": _recipe(),
        "mert-v0-public": _recipe(),
        "mert-v0-no-cqt": _recipe(cqt=0.0),
        "mert-v0-cqt2": _recipe(cqt=2.0),
        "mert-v0-cqt5": _recipe(cqt=5.0),
        "mert-v0-mixup25": _recipe(mixup=0.25),
        "mert-v0-mixup50": _recipe(mixup=0.5),
        "mert-v0-iter2": _recipe(cqt=0.0, clusters=SECOND_ITERATION),
    },
    scales={
        "base": {},
        "small": SMALL,
        "tiny": {
            **TINY,
            "targets.log-mel.k": 100,
            "targets.chroma.feature": "chroma-cqt",
            "targets.chroma.k": 60,
            "targets.layer.k": 100,
            "targets.layer.layer": 2,
            "targets.cqt.form": "log",
            "targets.cqt.bins": 84,
            "targets.cqt.bins_per_octave": 12,
            "targets.cqt.weight": times(3.0),
        },
    },
)
