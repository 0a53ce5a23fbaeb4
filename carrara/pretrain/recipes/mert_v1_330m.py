"""MERT v1, 330M: the 95M's targets on 24 layers of 1024 in 5.12-s crops, and the four runs until one was stable.

[li2024] [yuan2023thesis §5.2, §A.0.1] and the released configuration [notes/pretraining §1.7, §3]: 160,000 hours,
batches of 5.5 hours (3,840 crops, 60 on each of 64 GPUs, in micro-batches; the configuration's 7 crops in each of 8
micro-batches are 5.1 h), learning rate 1.5e-3, no dropout, mixup of .5 to 1.5 s, half precision. The thesis tried, in
float16:

- `mert-v1-330m-pre-ln-clip10`: pre-LN as HuBERT's largest, gradient norm 10; crashed at 50,000 steps.
- `mert-v1-330m-pre-ln-clip1`: gradient norm 1, from the former's step 40,000 (there: `--resume --set
  optimiser.max_grad_norm=1`); at the smallest loss scale after 40,000 more.
- `mert-v1-330m-deepnorm`: post-LN with DeepNorm; collapsed at 20,000. The gradient norm is not stated, 1 is taken.
- `mert-v1-330m`: pre-LN, gradient norm 1, attention relaxation with c = 32, therefore eager attention; stable beyond
  100,000.

The released code's relaxation cannot run [notes/pretraining §0.1]; here it is WavLM's. `mert-v1-330m-bf16` is ours:
fused attention in bfloat16, where relaxation changes nothing, and steps of ten times the usual gradient norm are left
out. All recompute activations in the backward pass.

Below `base` the network shrinks as the 95M's does and stays larger; norms, clipping and attention stay as each variant
has them. `tiny` computes in float32; `--set precision=float16` shows what overflows.
"""

from __future__ import annotations

from typing import Any

from carrara.core.settings import replace
from carrara.pretrain.recipes._base import Recipe, RecipeFamily
from carrara.pretrain.recipes.mert_v1 import AS_RELEASED, MERT_V1_SCALES, mert_v1_recipe

VARIANTS = {
    "mert-v1-330m": "MERT v1, 330M, final: pre-LN, gradient norm 1, attention relaxation 32, float16, 160,000 h",
    "mert-v1-330m-pre-ln-clip10": "MERT v1, 330M, first run: pre-LN, gradient norm 10 [yuan2023thesis §A.0.1]",
    "mert-v1-330m-pre-ln-clip1": "MERT v1, 330M, second run: pre-LN, gradient norm 1 [yuan2023thesis §A.0.1]",
    "mert-v1-330m-deepnorm": "MERT v1, 330M, third run: post-LN with DeepNorm [yuan2023thesis §A.0.1]",
    "mert-v1-330m-bf16": "MERT v1, 330M, ours: fused attention in bfloat16, spikes left out",
    "mert-v1-330m-as-released": "MERT v1, 330M, as the released code computes it (docs/differences.md)",
}


def _recipe(max_grad_norm: float = 1.0, network: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    changes = {
        "network": {"standardise": False, "attention": "eager", **(network or {})},
        "objective": {"final_dim": 128},
        "optimiser": {"learning_rate": 1.5e-3, "warmup_fraction": 0.08, "max_grad_norm": max_grad_norm},
        "crop_seconds": 5.12,
        "loss_scale": {"double_after": 2**14 // 64 // 8},
        "batch": 3840,
        "activation_checkpointing": True,
        **changes,
    }
    return mert_v1_recipe("mert-v1-330m", longest=1.5, **{"pool": 6, **changes})


_FINAL = _recipe(network={"relaxation": 32.0})
_DEEPNORM = {"norm_placement": "post", "deepnorm": True}
_SKIP_SPIKES = {"spike_norm": 10.0, "max_consecutive_skips": 16}

RECIPE = RecipeFamily(
    variants={
        "mert-v1-330m": _FINAL,
        "mert-v1-330m-pre-ln-clip10": _recipe(max_grad_norm=10.0),
        "mert-v1-330m-pre-ln-clip1": _recipe(),
        "mert-v1-330m-deepnorm": _recipe(network=_DEEPNORM),
        "mert-v1-330m-bf16": _recipe(network={"attention": "sdpa"}, precision="bfloat16", recovery=_SKIP_SPIKES),
        "mert-v1-330m-as-released": replace(
            _recipe(network={"relaxation": 32.0}, batch=3584, pool=7), {**AS_RELEASED, "masking.pool": 7}
        ),
    },
    scales=MERT_V1_SCALES
    | {
        "tiny": {
            **MERT_V1_SCALES["tiny"],
            "network.norm_placement": lambda own: own,
            "optimiser.max_grad_norm": lambda own: own,
        }
    },
)
