"""MERT: masked prediction of acoustic cluster numbers, and reconstruction of a CQT, from 5-s crops of music.

Li et al. 2024 (ICLR, arXiv 2306.00107) and the thesis, chapter 5. `mert-v0`: 16 kHz, k-means of log-mel (229 bands, 300
clusters) and of chroma (264 bins, 200 clusters), CQT of 336 bins with weight 1. Learning rate 5e-4, 1.5 hours a batch
[thesis 5.2]; warm-up 32k of 400k steps, straight decay, clip 10, p = .8, span 5, feature penalty 10 [published
configuration of v1-95M, taken over where v0's is not stated: span 5 or 10, final width]. 1080 crops of 5 s are 1.5 h.

Scales. `base` is the published one. `small` is for one GPU and some hours: half the width and depth, a sixteenth of the
batch. `tiny` is for a CPU and four minutes, in which a raw waveform has to become music. What differs, and why:

- Three convolutions instead of seven, the first one long (40 ms, every 5 ms): the published take thousands of steps
  to tell semitones apart, since their first kernel is 0.6 ms. After 300 steps a linear map from the long ones explains
  54 % of the CQT, from the published 22 %, in two thirds of the time. Stride, and so the frame rate, stay the same.
- Norms before the layers: after them, the first hundreds of steps stay at naming each class by its frequency.
- Frames that are seen are asked for too, fewer are masked, no dropout, gradients of the convolutions whole.
- Crops of 1.28 s, eight a step: many small steps teach more than few large ones. Each is brought to one loudness, which
  the network's first norm takes away anyway. CQT as 84 logarithms, chroma folded from a CQT, fewer clusters.
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
            "network.conv_channels": 256,
            "network.conv_kernels": (640, 4, 2),
            "network.conv_strides": (80, 2, 2),
            "network.conv_gradient": 1.0,
            "network.norm_placement": "pre",
            "network.width": 128,
            "network.layers": 4,
            "network.heads": 4,
            "network.feed_forward": 512,
            "targets.log-mel.k": 100,
            "targets.chroma.feature": "chroma-cqt",
            "targets.chroma.k": 60,
            "targets.cqt.form": "log",
            "targets.cqt.bins": 84,
            "targets.cqt.bins_per_octave": 12,
            "targets.cqt.weight": 3.0,
            "masking.probability": 0.5,
            "objective.final_width": 32,
            "objective.feature_penalty": 0.1,
            "objective.unmasked_weight": 1.0,
            "optimiser.learning_rate": 3e-3,
            "optimiser.warmup": 0.02,
            "optimiser.clip": 1.0,
            "crop_seconds": 1.28,
            "level": 0.1,
            "batch": 8,
            "steps": 1500,
            "checkpoint_every": 150,
            "journal_every": 20,
        },
    },
)
