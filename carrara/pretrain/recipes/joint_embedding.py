"""Joint embedding: the representation of masked mel patches is predicted from the visible ones (M2D, JEPA).

The encoder sees the visible patches only; a predictor, given their representations and the positions of the masked
ones, predicts what a target encoder, whose weights are a moving average of the encoder's, makes of the masked patches.

- `m2d` [niizumi2023]: the target encoder sees the masked patches only, so that it too must model its input. A random
  70 % of the patches is masked (`m2d-mask60`: 60 %), prediction and target have norm 1 under squared error, the decay
  rises from .99995 to .99999; ViT-B, predictor of 8 layers of 512; AdamW at 3e-4 · batch / 256, gradient norm 3, 20 of
  300 epochs of warm-up, cosine decay, batches of 2,048 crops of 6.08 s: 300 epochs of AudioSet's 2,005,132 clips are
  293,700 steps.
- `a-jepa` [assran2023] [fei2023]: the target encoder sees all patches, rectangles of 15 to 20 % are masked (in
  all 60 %, about four), the error is squared, the decay rises from .996 to 1, the predictor is 384 wide.

docs/joint-embedding.md has the source of each number, and says what is ours.

Scales: `base` as published. `small` takes a night on one GPU: half the dimensions and layers, an eighth of the batch
and, by the same rule, of the learning rate, a sixth of the steps. `tiny` takes minutes on a CPU: 4 layers of 128,
batches of 16, 1,000 steps; the encoder sees 57 of a crop's 190 patches, so a crop of 6 s costs little. The decay is
lower there, because it averages over the last 1 / (1 − decay) steps.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from carrara.core.settings import Settings
from carrara.pretrain.recipes._base import AdamWSettings, RecipeFamily, TrainingSettings, fill_network, times

VARIANTS = {
    "m2d": "M2D: visible mel patches predict what a moving average makes of the masked 70 %, which alone it sees",
    "m2d-mask60": "M2D with 60 % of the patches masked",
    "a-jepa": "I-JEPA on mel patches (A-JEPA): masked blocks, and a target encoder that sees the whole crop",
}


class PatchMaskSettings(Settings):
    """Which patches of a crop are masked; as many in every crop (carrara/pretrain/patch_masks.py).

    Attributes:
        ratio: fraction of the patches.
        shape: single patches at random, or rectangles.
        min_area, max_area: of a rectangle, as a fraction of the patches.
    """

    ratio: float = Field(default=0.7, gt=0, lt=1)
    shape: Literal["patches", "rectangles"] = "patches"
    min_area: float = Field(default=0.15, gt=0, le=1)
    max_area: float = Field(default=0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _check_areas(self) -> PatchMaskSettings:
        if self.min_area > self.max_area:
            raise ValueError("min_area must not be above max_area")
        return self


class PredictorSettings(Settings):
    """The Transformer that predicts the masked patches: its sizes."""

    dim: int = Field(default=512, ge=4, multiple_of=4)
    num_layers: int = Field(default=8, ge=1)
    num_heads: int = Field(default=16, ge=1)
    ffn_dim: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _check_heads(self) -> PredictorSettings:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        return self


class TargetEncoderSettings(Settings):
    """The moving average of the encoder, and what is predicted of it.

    Attributes:
        sees: which patches it is given: the masked ones alone, or all.
        error: squared error of vectors of norm 1 (`normalized`, from 0 to 4), or of each value of the target, which has
            mean 0 and variance 1 (`squared`).
        decay, end_decay: of the average, at the first and at the last step; linear between.
    """

    sees: Literal["masked", "all"] = "masked"
    error: Literal["normalized", "squared"] = "normalized"
    decay: float = Field(default=0.99995, ge=0, le=1)
    end_decay: float = Field(default=0.99999, ge=0, le=1)


class CosineSettings(AdamWSettings):
    """AdamW with a linear warm-up and a cosine decay to 0.

    Attributes:
        warmup_fraction: fraction of the steps of the warm-up.
    """

    warmup_fraction: float = Field(default=20 / 300, ge=0, lt=1)


class JointEmbeddingRecipe(TrainingSettings):
    """Everything that determines a training by joint embedding except the corpus.

    Attributes:
        encoder: name of the encoder, one of mel patches.
        network: its settings.
        masking: which patches are masked.
        predictor: its sizes.
        target: the moving average of the encoder.
        optimiser: AdamW and its learning rate.
        steps: of the whole run.

    The length of a crop is that of the network's columns (`crop_seconds` must be it). The other settings are those of
    `TrainingSettings`.
    """

    encoder: str = "mel-patch"
    network: SerializeAsAny[Settings]
    masking: PatchMaskSettings = PatchMaskSettings()
    predictor: PredictorSettings = PredictorSettings()
    target: TargetEncoderSettings = TargetEncoderSettings()
    optimiser: CosineSettings = CosineSettings()
    steps: int = Field(default=1000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return fill_network(values)

    @property
    def pretraining_task(self) -> str:
        """See the base class."""
        return "masked prediction of the features of its own moving average"


def _recipe(ratio: float = 0.7, **changes: Any) -> JointEmbeddingRecipe:
    return JointEmbeddingRecipe.model_validate(
        {
            "encoder": "mel-patch",
            "masking": {"ratio": ratio},
            "optimiser": {"learning_rate": 3e-4 * 2048 / 256, "betas": (0.9, 0.95), "epsilon": 1e-8,
                          "weight_decay": 0.05, "max_grad_norm": 3.0},
            "recovery": {"min_target_std": 0.1, "min_prediction_std": 0.01},
            "crop_seconds": 6.08,
            "batch": 2048,
            "steps": 293_700,
            "precision": "bfloat16",
            "checkpoint_every": 5000,
            "log_every": 100,
            **changes,
        }
    )  # fmt: skip


_A_JEPA = _recipe(
    masking={"ratio": 0.6, "shape": "rectangles"},
    predictor={"dim": 384, "num_layers": 6, "num_heads": 12, "ffn_dim": 1536},
    target={"sees": "all", "error": "squared", "decay": 0.996, "end_decay": 1.0},
    optimiser={
        "learning_rate": 1e-3,
        "betas": (0.9, 0.999),
        "epsilon": 1e-8,
        "weight_decay": 0.04,
        "max_grad_norm": 0.0,
        "warmup_fraction": 40 / 300,
    },
)

RECIPE = RecipeFamily(
    variants={"m2d": _recipe(), "m2d-mask60": _recipe(0.6), "a-jepa": _A_JEPA},
    scales={
        "base": {},
        "small": {
            "network.dim": 384,
            "network.num_layers": 6,
            "network.num_heads": 6,
            "network.ffn_dim": 1536,
            "predictor.dim": times(1 / 2),
            "predictor.num_layers": times(1 / 2),
            "predictor.num_heads": times(1 / 2),
            "predictor.ffn_dim": times(1 / 2),
            "optimiser.learning_rate": times(1 / 8),
            "batch": 256,
            "steps": 50_000,
            "checkpoint_every": 1000,
        },
        "tiny": {
            "network.dim": 128,
            "network.num_layers": 4,
            "network.num_heads": 4,
            "network.ffn_dim": 512,
            "predictor.dim": 64,
            "predictor.num_layers": 2,
            "predictor.num_heads": 4,
            "predictor.ffn_dim": 256,
            "optimiser.learning_rate": 1e-3,
            "target.decay": 0.99,
            "target.end_decay": 0.999,
            "recovery.collapse_check_after": 200,
            "precision": "float32",
            "batch": 16,
            "steps": 1000,
            "checkpoint_every": 100,
            "log_every": 20,
        },
    },
)
