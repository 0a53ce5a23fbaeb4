"""MAEST: tags from 5, 10, 20 or 30 s of music, by a patch Transformer that trains on half of its patches.

[alonso2023] [notes/encoders §1.2–1.5]. The corpus is a dataset with tags or a folder with labels.csv:
`carrara pretrain maest-30s --corpus magnatagatune`. Weights are random by default; `-dw` and `-pw` start from DeiT's
and PaSST's official files (`--set initial.weights=PATH`), as the authors' published networks do; `-ts` has a tagger of
30 s as teacher (`--set teacher.weights=FOLDER`). An epoch draws 200,000 clips, balanced over tags; 48 crops a step,
AdamW at 2e-5, mixup 0.3, 15, 30, 60, 90 columns of patches left out, weights averaged every 5 epochs from epoch 50. 130
epochs; 76 from DeiT's weights and 74 with a teacher (the last epoch in the names of the authors' files is 129, 75, 73).

Scales: `base` is as published. `small` takes some hours on one GPU: half the dimensions and layers, a tenth of the
clips an epoch, ten times the learning rate. `tiny` takes minutes on a CPU: 4 layers of 128, two fifths of the epochs
and of their schedule, 240 clips an epoch, 12 a step, learning rate 1e-3; crops and patchout stay as published.
"""

from __future__ import annotations

from typing import Any

from carrara.pretrain.recipes._base import RecipeFamily, times
from carrara.pretrain.tagging.settings import TaggingRecipe

VARIANTS = {
    "maest-5s": "MAEST over 5 s: tags by a patch Transformer, 15 of 30 columns of patches left out",
    "maest-10s": "MAEST over 10 s: 30 of 61 columns left out",
    "maest-20s": "MAEST over 20 s: 60 of 124 columns left out",
    "maest-30s": "MAEST over 30 s: 90 of 186 columns left out",
    "maest-10s-dw": "MAEST over 10 s from DeiT's weights ([maest-poster]: 22.7 on Discogs20, from scratch 20.5)",
    "maest-5s-pw": "MAEST over 5 s from PaSST's weights ([maest-poster]: 21.1 on Discogs20)",
    "maest-10s-pw": "MAEST over 10 s from PaSST's weights ([maest-poster]: 22.8)",
    "maest-20s-pw": "MAEST over 20 s from PaSST's weights ([maest-poster]: 24.8)",
    "maest-30s-pw": "MAEST over 30 s from PaSST's weights ([maest-poster]: 26.1; averaged 27.0)",
    "maest-30s-ts": "MAEST over 30 s from PaSST's weights, with another MAEST as teacher",
}

PATCHOUT = {5: 15, 10: 30, 20: 60, 30: 90}


def _recipe(seconds: int, kind: str = "random", **changes: Any) -> TaggingRecipe:
    return TaggingRecipe.model_validate(
        {
            "encoder": f"maest-{seconds}s",
            "patchout": PATCHOUT[seconds],
            "crop_seconds": seconds,
            "initial": {"kind": kind},
            **changes,
        }
    )


_SCHEDULE = (
    "optimiser.warmup_epochs",
    "optimiser.hold_until",
    "optimiser.ramp_down",
    "swa.first",
    "swa.every",
)
# Changes of the scales whatever the network is.
SMALL: dict[str, Any] = {"epoch_clips": 20_000}
TINY: dict[str, Any] = {
    "epochs": times(0.4),
    **{name: times(0.4) for name in _SCHEDULE},
    "epoch_clips": 240,
    "batch": 12,
    "precision": "float32",
    "validate_every": 2,
    "checkpoint_every": 100,
    "log_every": 20,
}

RECIPE = RecipeFamily(
    variants={
        **{f"maest-{seconds}s": _recipe(seconds) for seconds in PATCHOUT},
        "maest-10s-dw": _recipe(10, "deit", epochs=76),
        **{f"maest-{seconds}s-pw": _recipe(seconds, "passt") for seconds in PATCHOUT},
        "maest-30s-ts": _recipe(30, "passt", epochs=74, network={"distilled": "separated"}),
    },
    scales={
        "base": {},
        "small": {
            **SMALL,
            "network.dim": 384,
            "network.num_layers": 6,
            "network.num_heads": 6,
            "network.ffn_dim": 1536,
            "optimiser.learning_rate": times(10),
        },
        "tiny": {
            **TINY,
            "network.dim": 128,
            "network.num_layers": 4,
            "network.num_heads": 4,
            "network.ffn_dim": 512,
            "optimiser.learning_rate": 1e-3,
        },
    },
)
