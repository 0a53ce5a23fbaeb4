"""MERT: masked prediction of acoustic cluster numbers, and reconstruction of a CQT, from 5-s crops of music.

Li et al. 2024 (ICLR, arXiv 2306.00107) and the thesis, chapter 5. `mert-v0`: 16 kHz, k-means of log-mel (229 bands, 300
clusters) and of chroma (264 bins, 200 clusters), CQT of 336 bins with weight 1. Learning rate 5e-4, 1.5 hours a batch
[thesis 5.2]; warm-up 32k of 400k steps, straight decay, clip 10, p = .8, span 5, feature penalty 10 [published
configuration of v1-95M, taken over where v0's is not stated: span 5 or 10, final width]. 1080 crops of 5 s are 1.5 h.

Scales: `tiny` is for two CPU cores and some minutes: half the crop and 1/135 of the batch, so a hundred times the
audio passes a parameter; no dropout, gradients of the convolutions whole (at a tenth they hardly move in so few steps),
fewer clusters for fewer frames, and the CQT standardised, without which its weight hangs on the corpus's loudness.
`small` is for one GPU and some hours. `base` is the published one.
"""

from __future__ import annotations

from carrara.pretrain.recipes._base import MaskingSettings, ObjectiveSettings, Recipe, RecipeFamily
from carrara.pretrain.targets.clusters import ClustersSettings
from carrara.pretrain.targets.cqt import CQTSettings

VARIANTS = {"mert-v0": "MERT v0: k-means of log-mel (300) and chroma (200) plus CQT, 16 kHz, 5-s crops"}

_V0 = Recipe.model_validate(
    {
        "encoder": "mert-v0",
        "targets": {
            "log-mel": ClustersSettings(feature="log-mel-229", k=300),
            "chroma": ClustersSettings(feature="chroma-264", k=200),
            "cqt": CQTSettings(weight=1.0),
        },
        "masking": MaskingSettings(probability=0.8, span=5),
        "objective": ObjectiveSettings(final_width=64),
        "crop_seconds": 5.0,
        "batch": 1080,
        "steps": 400_000,
        "checkpoint_every": 5000,
        "journal_every": 100,
    }
)

_NO_DROPOUT = {f"network.{name}": 0.0 for name in ("dropout", "attention_dropout", "input_dropout", "layerdrop")}

RECIPE = RecipeFamily(
    variants={"mert-v0": _V0},
    scales={
        "base": {},
        "small": {
            "network.conv_channels": 256,
            "network.width": 384,
            "network.layers": 6,
            "network.heads": 6,
            "network.feed_forward": 1536,
            "batch": 64,
            "steps": 50_000,
            "checkpoint_every": 1000,
        },
        "tiny": {
            **_NO_DROPOUT,
            "network.conv_channels": 64,
            "network.conv_gradient": 1.0,
            "network.width": 128,
            "network.layers": 4,
            "network.heads": 4,
            "network.feed_forward": 512,
            "targets.log-mel.k": 100,
            "targets.log-mel.share": 0.25,
            "targets.chroma.feature": "chroma-cqt",
            "targets.chroma.k": 60,
            "targets.chroma.share": 0.25,
            "targets.cqt.form": "standardised",
            "objective.final_width": 32,
            "optimiser.learning_rate": 2e-3,
            "crop_seconds": 2.5,
            "batch": 16,
            "steps": 600,
            "checkpoint_every": 100,
            "journal_every": 10,
        },
    },
)
