"""Contrastive pairs: two views of one recording are recognised among views of others (COLA's pairs, SimCLR's loss).

COLA [saeed2021] takes two random segments of one clip as a pair and all other clips of the batch as negatives; the loss
is SimCLR's cross-entropy of cosines over a temperature [chen2020]. What two segments share is key, instruments, mood
and tempo, so a whole song's properties are learnt, and within few steps. Ours: the network on several spectra
(carrara/encoders/cqt_mel.py); the loss on the mean over time of the last layer, which is what probes see; and on
request the crop is played at a random speed (pitch and tempo change together), so that a song in another key is another
song.

Scales: `tiny` takes three minutes on a core and is what `carrara demo` trains; `small` and `base` are not tuned and
were not run. docs/contrastive.md has the measurements.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, SerializeAsAny, model_validator

from carrara.core.settings import Settings
from carrara.pretrain.recipes._base import RecipeFamily, TrainingSettings, fill_network
from carrara.pretrain.recipes.joint_embedding import CosineSettings

VARIANTS = {
    "contrastive": "two views of a recording among those of others (COLA, SimCLR), CQT, mel and chroma, 24 kHz",
}


class PairSettings(Settings):
    """The pairs of views and how they are compared.

    Attributes:
        view_seconds: length of a view; the two of a crop do not overlap.
        max_semitones: largest change of a crop's speed, up or down, drawn in whole semitones; 0 for none.
        group: crops whose views are compared with one another; a micro-batch holds whole groups.
        projection_dim: of the space in which views are compared.
        temperature: divisor of the cosines.
    """

    view_seconds: float = Field(default=2.0, gt=0)
    max_semitones: int = Field(default=6, ge=0, le=24)
    group: int = Field(default=32, ge=2)
    projection_dim: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.1, gt=0)


class ContrastiveRecipe(TrainingSettings):
    """Everything that determines a training by contrastive pairs except the corpus.

    Attributes:
        encoder: name of the encoder, one of several spectra.
        network: its settings.
        pairs: views and loss.
        optimiser: AdamW and its learning rate.
        crop_seconds: read of a file; two views must fit into it at the highest speed.
        steps: of the whole run.

    The other settings are those of `TrainingSettings`.
    """

    encoder: str = "cqt-mel-tiny"
    network: SerializeAsAny[Settings]
    pairs: PairSettings = PairSettings()
    optimiser: CosineSettings = CosineSettings()
    steps: int = Field(default=1000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return fill_network(values)

    @model_validator(mode="after")
    def _check_pairs(self) -> ContrastiveRecipe:
        needed = 2 * self.pairs.view_seconds * 2 ** (self.pairs.max_semitones / 12)
        if self.crop_seconds < needed:
            raise ValueError(
                f"crop_seconds {self.crop_seconds:g} is too short for two views at any speed; give --set "
                f"crop_seconds={math.ceil(100 * needed) / 100:g}"
            )
        if self.batch % self.pairs.group:
            multiple = math.ceil(self.batch / self.pairs.group) * self.pairs.group
            raise ValueError(
                f"batch {self.batch} is no multiple of pairs.group {self.pairs.group}; give --set batch={multiple}"
            )
        return self

    @property
    def pretraining_task(self) -> str:
        """See the base class."""
        return "recognising a view of the same recording among others"


RECIPE = RecipeFamily(
    variants={
        "contrastive": ContrastiveRecipe.model_validate(
            {
                "encoder": "cqt-mel-small",
                "pairs": {"view_seconds": 4.0, "group": 256, "projection_dim": 128},
                "optimiser": {"learning_rate": 1e-3, "warmup_fraction": 0.05, "max_grad_norm": 1.0},
                "crop_seconds": 16.0,
                "batch": 256,
                "steps": 50_000,
                "checkpoint_every": 1000,
                "log_every": 100,
            }
        )
    },
    scales={
        "base": {},
        "small": {
            "encoder": "cqt-mel-tiny",
            "network.dim": 512,
            "network.num_layers": 4,
            "network.num_heads": 8,
            "network.hidden": 512,
            "pairs.view_seconds": 3.0,
            "pairs.group": 128,
            "crop_seconds": 10.0,
            "batch": 128,
            "steps": 5000,
            "checkpoint_every": 200,
            "log_every": 20,
        },
        "tiny": {
            "encoder": "cqt-mel-tiny",
            "network.dim": 384,
            "network.num_layers": 3,
            "network.num_heads": 4,
            "network.hidden": 192,
            "pairs.view_seconds": 2.0,
            "pairs.group": 64,
            "pairs.projection_dim": 64,
            "pairs.max_semitones": 0,
            "crop_seconds": 6.0,
            "batch": 64,
            "steps": 160,
            "checkpoint_every": 20,
            "log_every": 10,
        },
    },
)
