"""A recipe: a whole pre-training run as one frozen setting, and the stated rules that shrink it.

A family's file names its published variants; a scale is a table of dotted paths that replaces network, batch, steps and
numbers of clusters together. `base` is what was published. Both are applied before `--set`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from carrara.core.errors import UsageError, near
from carrara.core.settings import Settings, read, replace
from carrara.encoders import SHELF as ENCODERS
from carrara.pretrain.recipes import SHELF
from carrara.pretrain.targets import SHELF as TARGETS
from carrara.pretrain.targets._base import TargetSettings


def _target(value: Any) -> Any:
    if isinstance(value, TargetSettings) or not isinstance(value, Mapping):
        return value
    if "target" not in value:
        raise UsageError(f"targets: each needs `target`, one of {', '.join(TARGETS.names())}")
    return read(TARGETS.get(str(value["target"])).kind, value, f"target {value['target']}")


AnyTarget = Annotated[SerializeAsAny[TargetSettings], BeforeValidator(_target)]


class MaskingSettings(Settings):
    """Which frames the student does not see (carrara/nn/masking.py): p, frames a span, fewest spans."""

    probability: float = Field(default=0.8, gt=0, le=1)
    span: int = Field(default=10, ge=1)
    minimum: int = Field(default=2, ge=1)


class ObjectiveSettings(Settings):
    """Heads and losses (carrara/pretrain/objective.py).

    Attributes:
        final_width: of the space in which a label set's frames and classes are compared.
        temperature: that the cosines are divided by.
        feature_penalty: weight of the mean square of the convolutions' output.
        unmasked_weight: of frames that the student does see; 0 in every published recipe.
    """

    final_width: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    feature_penalty: float = Field(default=10.0, ge=0)
    unmasked_weight: float = Field(default=0.0, ge=0)


class OptimiserSettings(Settings):
    """AdamW, on every parameter alike, and how its learning rate goes.

    Attributes:
        learning_rate: the highest.
        warmup: share of the steps over which it rises from 0 in a straight line.
        power: of the decay to 0 after that; 1 is a straight line.
        betas, epsilon, weight_decay: AdamW's.
        clip: largest norm of the whole gradient; 0 for no limit.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    warmup: float = Field(default=0.08, ge=0, lt=1)
    power: float = Field(default=1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=10.0, ge=0)


class Recipe(Settings):
    """Everything that decides what a run makes, but for the corpus.

    Attributes:
        encoder: name on the shelf of encoders, whose network is trained.
        network: that encoder's settings; its own where nothing is given.
        targets: what is predicted, by a name of one's own.
        crop_seconds: length of a crop; starts lie on multiples of the network's stride.
        level: root mean square that each crop is brought to, for student and targets alike; none: as recorded, as
            published. The student's group norm does not hear the gain, so it cannot know a target that depends on it.
        batch: crops a step.
        steps: of the whole run.
        precision: of the matrix products; float32 anywhere, bfloat16 for GPUs that have it.
        checkpoint_every, journal_every: in steps; may be changed when a run is resumed.
    """

    encoder: str
    network: SerializeAsAny[Settings]
    targets: dict[str, AnyTarget] = Field(min_length=1)
    masking: MaskingSettings = MaskingSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    crop_seconds: float = Field(default=5.0, gt=0)
    level: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, ge=1)
    steps: int = Field(default=1000, ge=1)
    seed: int = Field(default=1337, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: int = Field(default=100, ge=1)
    journal_every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "encoder" not in values or isinstance(values.get("network"), Settings):
            return values
        name = str(values["encoder"])
        family = ENCODERS.get(name)
        own = family.variants[ENCODERS.entry(name).name][1]
        given = own.model_dump() | dict(values.get("network") or {})
        return values | {"network": read(family.settings, given, f"network of {name}")}


@dataclass(frozen=True)
class RecipeFamily:
    """What a file of the shelf defines as `RECIPE`: its published variants, and its scales as changes to them."""

    variants: Mapping[str, Recipe]
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"base": {}})


def resolve(name: str, scale: str = "base", changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe of that name at that scale with the given dotted paths changed.

    Raises:
        UsageError: there is no such recipe, scale or setting, or a value does not fit.
    """
    family: RecipeFamily = SHELF.get(name)
    variant = family.variants[SHELF.entry(name).name]
    if scale not in family.scales:
        raise UsageError(
            f"{name} has no scale {scale!r}.{near(scale, family.scales)} Scales: {', '.join(family.scales)}."
        )
    return replace(replace(variant, family.scales[scale], f"--scale {scale}"), changes or {})
