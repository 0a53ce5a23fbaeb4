"""Recipes: a whole pre-training run as frozen, typed settings, and the scales that shrink it.

The file of a family lists its published variants; a scale is a table of dotted paths that changes network, batch, steps
and numbers of clusters together. `base` is as published. Both are applied before `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from carrara.core.errors import UsageError
from carrara.core.settings import Settings, parse_settings, replace
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.scales import check_scale
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import TargetSettings


def _parse_target(value: Any) -> Any:
    if isinstance(value, TargetSettings) or not isinstance(value, Mapping):
        return value
    if "target" not in value:
        raise UsageError(f"targets: each needs `target`, one of {', '.join(TARGETS.names())}")
    return parse_settings(TARGETS.get(str(value["target"])).settings_type, value, f"target {value['target']}")


AnyTarget = Annotated[SerializeAsAny[TargetSettings], BeforeValidator(_parse_target)]
Precision = Literal["float32", "bfloat16", "float16"]
AccumulationSteps = Annotated[int, Field(ge=1)] | Literal["auto"]


class MaskingSettings(Settings):
    """Which frames are masked for the student (masks.py).

    Attributes:
        mask_prob: fairseq's p, about the fraction of frames that would be masked if masks did not overlap.
        mask_length: frames of a mask.
        min_masks: fewest masks of a crop.
        blocks: whether masks are blocks: a crop is divided into blocks of `mask_length` frames, of which each is masked
            with probability `mask_prob` (MusicFM, MuQ), instead of masks that start anywhere and may overlap.
        replacement: what masked frames are replaced by: the network's learned vector after the front end (HuBERT), or
            their samples by white noise before it (MusicFM, MuQ).
        noise_std: standard deviation of that noise.
        same_masks: whether crops are trimmed to the smallest number of masked frames among `pool` crops by unmasking
            single frames at random, as fairseq does; it masks less, in shorter runs, and gains nothing here.
        pool: crops of a batch that are trimmed to the same number; MERT-95M's 16 are those of a GPU.
    """

    mask_prob: float = Field(default=0.8, gt=0, le=1)
    mask_length: int = Field(default=10, ge=1)
    min_masks: int = Field(default=2, ge=1)
    blocks: bool = False
    replacement: Literal["vector", "noise"] = "vector"
    noise_std: float = Field(default=0.1, gt=0)
    same_masks: bool = False
    pool: int = Field(default=16, ge=2)


class MixupSettings(Settings):
    """Excerpts of other crops added to the student's crop (mixup.py) [notes/pretraining §3.5].

    Attributes:
        probability: that a crop is mixed; 0 for never. MERT: .5.
        excerpts: largest number of excerpts on a crop.
        shortest, longest: of an excerpt, in seconds; MERT-95M .5 and 1, MERT-330M .5 and 1.5.
        volume: factor of an excerpt.
        pool: crops of a batch that are mixed with one another; MERT-95M's 16 are those of a GPU.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    excerpts: int = Field(default=3, ge=1)
    shortest: float = Field(default=0.5, gt=0)
    longest: float = Field(default=1.0, gt=0)
    volume: float = 1.0
    pool: int = Field(default=16, ge=2)

    @model_validator(mode="after")
    def _check_lengths(self) -> MixupSettings:
        if self.shortest > self.longest:
            raise ValueError("shortest must not be above longest")
        return self


class LossScaleSettings(Settings):
    """The loss scale of float16 (precision.py); fairseq's numbers.

    Attributes:
        initial: at the first step.
        double_after: steps without overflow; 2^14 over ranks times micro-batches in fairseq, 32 for MERT-330M.
        smallest: below it the run stops.
    """

    initial: float = Field(default=128.0, gt=0)
    double_after: int = Field(default=2**14, ge=1)
    smallest: float = Field(default=1e-4, gt=0)


class RecoverySettings(Settings):
    """What happens when a step goes wrong (recovery.py); steps that are not finite are always skipped.

    Attributes:
        spike_norm, spike_loss: a step whose gradient norm, or loss, exceeds the median of the last `window` steps by
            this factor is skipped; 0 for never.
        window: steps of the medians; before that many no step counts as a spike.
        max_consecutive_skips: skipped steps in a row after which the run rolls back to its last good checkpoint and
            leaves out the batches since; 0 for never.
        max_rollbacks: roll-backs after which the run stops.
        min_target_std, min_prediction_std: collapse: the run stops where the mean standard deviation of a target's
            values, or of their predictions, is lower; 0 for never. data2vec: .1 and .01.
        collapse_check_after: steps before the first check for collapse.
    """

    spike_norm: float = Field(default=0.0, ge=0)
    spike_loss: float = Field(default=0.0, ge=0)
    window: int = Field(default=64, ge=1)
    max_consecutive_skips: int = Field(default=0, ge=0)
    max_rollbacks: int = Field(default=5, ge=1)
    min_target_std: float = Field(default=0.0, ge=0)
    min_prediction_std: float = Field(default=0.0, ge=0)
    collapse_check_after: int = Field(default=5000, ge=0)


class ObjectiveSettings(Settings):
    """Heads and losses (objectives/_masked_network.py).

    Attributes:
        head: how classes are predicted: by the cosines of projected frames and class embeddings (HuBERT), or by a
            linear map to logits (BEST-RQ, MusicFM, MuQ).
        final_dim: of the space in which frames and classes are compared by cosine.
        temperature: divisor of the cosines.
        feature_penalty: weight of the mean square of the convolutions' output.
        unmasked_weight: weight of the unmasked frames; 0 in every published recipe.
        special_classes: classes of each label set that are never a label: 4 in fairseq, whose dictionaries begin with
            four special symbols.
    """

    head: Literal["cosine", "linear"] = "cosine"
    final_dim: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    feature_penalty: float = Field(default=10.0, ge=0)
    unmasked_weight: float = Field(default=0.0, ge=0)
    special_classes: int = Field(default=0, ge=0)


class AdamWSettings(Settings):
    """AdamW, whatever the schedule of the learning rate (optimiser.py).

    Attributes:
        name: `adamw` for every parameter, or `muon`: Muon for the matrices of the Transformer's layers [jordan2024],
            with the size of AdamW's steps, so that one rate fits both [liu2025], and AdamW for the rest.
        learning_rate: the highest.
        betas, epsilon: AdamW's.
        momentum: Muon's.
        weight_decay: of both.
        max_grad_norm: largest norm of the gradient; 0 for no clipping.
        front_end_factor: learning rate of the front end (what comes before the Transformer) over that of the rest; 0
            keeps it at its initial weights.
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(default=1e-6, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=10.0, ge=0)
    front_end_factor: float = Field(default=1.0, ge=0)


class OptimiserSettings(AdamWSettings):
    """AdamW, and its learning-rate schedule (optimiser.py).

    Attributes:
        warmup_fraction: fraction of the steps of the linear warm-up.
        warmup_from_zero: whether the first step has rate 0, as in fairseq, so that it changes no weight; else the
            warm-up is one step ahead of it. The three-stage schedule starts at a hundredth in either case.
        hold_fraction: fraction of the steps at the highest rate in fairseq's three-stage schedule (data2vec: warm-up
            .03, hold .9); None for a linear decay to 0.
    """

    warmup_fraction: float = Field(default=0.08, ge=0, lt=1)
    warmup_from_zero: bool = False
    hold_fraction: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _check_fractions(self) -> OptimiserSettings:
        if self.warmup_fraction + (self.hold_fraction or 0) > 1:
            raise ValueError("warmup_fraction and hold_fraction are fractions of the steps; together at most 1")
        return self


def fill_network(values: Any) -> Any:
    """Return a recipe's values with the whole settings of its encoder as `network`, changed by those that are given."""
    if not isinstance(values, dict) or "encoder" not in values or isinstance(values.get("network"), Settings):
        return values
    name = str(values["encoder"])
    family = ENCODERS.get(name)
    own = family.variants[ENCODERS.get_entry(name).name][1]
    network = own.model_dump() | dict(values.get("network") or {})
    return values | {"network": parse_settings(family.settings, network, f"network of {name}")}


class TrainingSettings(Settings):
    """What every run has, whatever its objective.

    Attributes:
        optimiser: AdamW.
        crop_seconds: length of a crop.
        batch: crops a step, over all ranks.
        seed: of all random draws.
        precision: of the matrix products; float32 anywhere, bfloat16 on GPUs that have it, float16 with a loss scale.
        loss_scale: for float16.
        recovery: what happens when a step goes wrong.
        accumulation_steps: micro-batches of a batch over all ranks, at least one a rank; more need less memory, and the
            gradient stays that of the whole batch. `auto`: as few as the device holds (division.py).
        compile: whether torch.compile makes one program of the module; the first step takes longer.
        activation_checkpointing: whether activations are computed again in the backward pass instead of being kept.
        fsdp: whether weights, gradients and moments are sharded over the ranks (distributed.py).
        timeout_seconds: until a rank that does not respond counts as lost.
        checkpoint_every, log_every: in steps.
    """

    optimiser: SerializeAsAny[AdamWSettings] = AdamWSettings()
    crop_seconds: float = Field(default=5.0, gt=0)
    batch: int = Field(default=8, ge=1)
    seed: int = Field(default=1337, ge=0)
    precision: Precision = "float32"
    loss_scale: LossScaleSettings = LossScaleSettings()
    recovery: RecoverySettings = RecoverySettings()
    accumulation_steps: AccumulationSteps = 1
    compile: bool = False
    activation_checkpointing: bool = False
    fsdp: bool = False
    timeout_seconds: float = Field(default=600.0, gt=0)
    checkpoint_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _check_optimiser(self) -> TrainingSettings:
        if self.fsdp and self.optimiser.name == "muon":
            raise ValueError(
                "optimiser.name=muon needs whole matrices, and fsdp=true shards them; give --set fsdp=false or --set "
                "optimiser.name=adamw"
            )
        return self

    @property
    def pretraining_task(self) -> str:
        """What the encoder is trained to do, for its card."""
        return ""

    def num_micro_batches(self, world_size: int) -> int:
        """Return the micro-batches of a batch over so many ranks; with `auto`, before it is chosen, one a rank."""
        return max(1 if self.accumulation_steps == "auto" else self.accumulation_steps, world_size)


class Recipe(TrainingSettings):
    """Everything that determines a run of masked prediction except the corpus.

    Attributes:
        encoder: name of the encoder (`carrara ls encoders`) whose network is trained.
        network: settings of that network; the encoder's own where nothing is given.
        targets: what is predicted, by a name of your choice.
        crop_seconds: length of a crop; crops start on multiples of the network's stride.
        target_rms: root mean square that each crop is scaled to, for student and targets alike; None for the recorded
            level, as published. The student's group norm removes the gain, so it cannot know targets that depend on it.
        steps: of the whole run.
        mixup: changes to the student's crops, never to the targets'.
    """

    encoder: str
    network: SerializeAsAny[Settings]
    targets: dict[str, AnyTarget] = Field(min_length=1)
    masking: MaskingSettings = MaskingSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    target_rms: float | None = Field(default=None, gt=0)
    steps: int = Field(default=1000, ge=1)
    mixup: MixupSettings = MixupSettings()

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return fill_network(values)

    @property
    def pretraining_task(self) -> str:
        """Masked prediction of its targets; see the base class."""
        return f"masked prediction of {', '.join(self.targets)}"


@dataclass(frozen=True)
class RecipeFamily:
    """The `RECIPE` of a file: published variants by name, and scales as changes to them."""

    variants: Mapping[str, Settings]
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"base": {}})


def resolve(name: str, scale: str = "base", changes: Mapping[str, Any] | None = None) -> Any:
    """Return a recipe (`Recipe`, `TaggingRecipe` or `CodecRecipe`) at a scale, with settings changed by dotted path.

    Raises:
        UsageError: there is no such recipe, scale or setting, or a value does not fit.
    """
    family: RecipeFamily = REGISTRY.get(name)
    variant: Any = family.variants[REGISTRY.get_entry(name).name]
    check_scale(name, scale, family.scales)
    scale_changes = {}
    for path, value in family.scales[scale].items():
        group, *rest = path.split(".")
        if group == "targets" and rest[0] not in variant.targets:
            continue
        if callable(value):
            own: Any = variant
            for key in path.split("."):
                own = own[key] if isinstance(own, Mapping) else getattr(own, key)
            value = value(own)
        scale_changes[path] = value
    return replace(replace(variant, scale_changes, f"--scale {scale}"), changes or {})


def times(factor: float) -> Callable[[Any], float]:
    """Return a scale's change that multiplies the variant's value; whole numbers stay whole."""
    return lambda value: round(factor * value) if isinstance(value, int) else factor * value
