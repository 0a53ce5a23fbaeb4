"""A recipe: a whole pre-training run as one frozen setting, and the stated rules that shrink it.

A family's file names its published variants; a scale is a table of dotted paths that replaces network, batch, steps and
numbers of clusters together. `base` is what was published. Both are applied before `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from carrara.core.errors import UsageError, did_you_mean
from carrara.core.settings import Settings, parse_settings, replace
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain.recipes import REGISTRY
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import TargetSettings


def _target(value: Any) -> Any:
    if isinstance(value, TargetSettings) or not isinstance(value, Mapping):
        return value
    if "target" not in value:
        raise UsageError(f"targets: each needs `target`, one of {', '.join(TARGETS.names())}")
    return parse_settings(TARGETS.get(str(value["target"])).kind, value, f"target {value['target']}")


Fraction = Annotated[float, Field(gt=0, le=1)]
AnyTarget = Annotated[SerializeAsAny[TargetSettings], BeforeValidator(_target)]


Precision = Literal["float32", "bfloat16", "float16"]


class MaskingSettings(Settings):
    """Which frames the student does not see (carrara/nn/transformer/masking.py, carrara/pretrain/masks.py).

    Attributes:
        probability, span, minimum: p, frames a span, fewest spans.
        same_masks: trim all crops that are computed together to the smallest count, as fairseq does.
        keep, other: shares of the masked frames that keep their content, or take another frame's of the clip, in place
            of the mask vector (MERT's code; 0 in its published configurations).
        channels, channel_span: p and span of silenced channels (wav2vec 2.0's channel masking).
        schedule: rows of (share of the steps, probability, span), each in force from that share on.
    """

    mask_prob: float = Field(default=0.8, gt=0, le=1)
    mask_length: int = Field(default=10, ge=1)
    min_masks: int = Field(default=2, ge=1)
    same_masks: bool = False
    keep: float = Field(default=0.0, ge=0, le=1)
    other: float = Field(default=0.0, ge=0, le=1)
    channels: float = Field(default=0.0, ge=0, le=1)
    channel_span: int = Field(default=10, ge=1)
    schedule: tuple[tuple[Annotated[float, Field(ge=0)], Fraction, Annotated[int, Field(ge=1)]], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> MaskingSettings:
        if self.keep + self.other > 1:
            raise ValueError("keep and other are shares of the masked frames; together at most 1")
        if list(self.schedule) != sorted(self.schedule):
            raise ValueError("schedule must be in the order of its shares")
        return self


class MixupSettings(Settings):
    """Other crops' excerpts over what the student hears (carrara/pretrain/mixup.py; pretraining.md 3.5).

    Attributes:
        probability: that a crop is mixed; 0 for never. MERT: .5.
        excerpts: most of them on a crop.
        shortest, longest: of an excerpt, in seconds; MERT-95M .5 and 1, MERT-330M .5 and 1.5.
        volume: that an excerpt is multiplied by.
        pool: crops of a batch that are mixed with one another; MERT-95M's 16 are those of a GPU.
    """

    probability: float = Field(default=0.0, ge=0, le=1)
    excerpts: int = Field(default=3, ge=1)
    shortest: float = Field(default=0.5, gt=0)
    longest: float = Field(default=1.0, gt=0)
    volume: float = 1.0
    pool: int = Field(default=16, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> MixupSettings:
        if self.shortest > self.longest:
            raise ValueError("shortest must not be above longest")
        return self


class AugmentSettings(Settings):
    """Changes to what the student hears that leave pitch and time alone (carrara/pretrain/augment.py); ours.

    Attributes:
        gain_db: largest gain up or down, drawn evenly in dB.
        polarity: probability of turning the waveform over.
        tilt_db: steepest tilt of the spectrum up or down, in dB an octave.
        noise_db: white noise so many dB below the crop, or up to 20 dB less; none: no noise.
    """

    gain_db: float = Field(default=0.0, ge=0)
    polarity: float = Field(default=0.0, ge=0, le=1)
    tilt_db: float = Field(default=0.0, ge=0)
    noise_db: float | None = None


class LossScaleSettings(Settings):
    """How the loss scale of float16 goes (carrara/pretrain/precision.py); fairseq's numbers.

    Attributes:
        initial: at the first step.
        double_after: steps without overflow; 2^14 over ranks times micro-batches in fairseq, 32 for MERT-330M.
        smallest: below which the run gives up.
    """

    initial: float = Field(default=128.0, gt=0)
    double_after: int = Field(default=2**14, ge=1)
    smallest: float = Field(default=1e-4, gt=0)


class RecoverySettings(Settings):
    """What happens when a step goes wrong (carrara/pretrain/recovery.py); steps that are not finite are always skipped.

    Attributes:
        spike_norm, spike_loss: a step whose gradient norm, or loss, is above so many times the median of the last
            `window` steps taken is skipped; 0 for never.
        window: steps that the medians are over; nothing is judged before that many.
        patience: steps skipped one after another at which the run goes back to its last good checkpoint and leaves out
            the data since; 0 for never.
        rollbacks: after so many the run gives up.
        least_target, least_prediction: collapse: the run gives up where the mean deviation of a target's values, or of
            the student's answers to it, is below; 0 for never. data2vec: .1 and .01.
        guard_after: steps before collapse is looked for.
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
    """Heads and losses (carrara/pretrain/objective.py).

    Attributes:
        final_width: of the space in which a label set's frames and classes are compared.
        temperature: that the cosines are divided by.
        feature_penalty: weight of the mean square of the convolutions' output.
        unmasked_weight: of frames that the student does see; 0 in every published recipe.
    """

    final_dim: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    feature_penalty: float = Field(default=10.0, ge=0)
    unmasked_weight: float = Field(default=0.0, ge=0)


class OptimiserSettings(Settings):
    """AdamW, on every parameter alike, and how its learning rate goes.

    Attributes:
        learning_rate: the highest.
        warmup: share of the steps over which it rises from 0 in a straight line.
        power: of the decay to 0 after that; 1 is a straight line.
        hold: share of the steps for which it stays there instead, from and to a hundredth of it (fairseq's tri-stage;
            data2vec: warmup .03, hold .9); none: no such stage.
        betas, epsilon, weight_decay: AdamW's.
        clip: largest norm of the whole gradient; 0 for no limit.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    warmup_fraction: float = Field(default=0.08, ge=0, lt=1)
    poly_power: float = Field(default=1.0, gt=0)
    hold_fraction: float | None = Field(default=None, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=10.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> OptimiserSettings:
        if self.warmup_fraction + (self.hold_fraction or 0) > 1:
            raise ValueError("warmup and hold are shares of the steps; together at most 1")
        return self


def with_network(values: Any) -> Any:
    """Return a recipe's values with its encoder's whole settings as `network`, changed by those that are given."""
    if not isinstance(values, dict) or "encoder" not in values or isinstance(values.get("network"), Settings):
        return values
    name = str(values["encoder"])
    family = ENCODERS.get(name)
    own = family.variants[ENCODERS.entry(name).name][1]
    given = own.model_dump() | dict(values.get("network") or {})
    return values | {"network": parse_settings(family.settings, given, f"network of {name}")}


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
        precision: of the matrix products; float32 anywhere, bfloat16 for GPUs that have it, float16 with a loss scale.
        loss_scale: of float16.
        mixup, augment: what is done to the student's crops, never to the targets'.
        recovery: when steps are skipped, and when the run goes back.
        parts: micro-batches that a batch is computed in, one after another and over all ranks, so that it needs less
            memory; the gradient is that of the whole. At least one a rank.
        recompute: whether the layers' activations are computed again in the backward pass instead of being kept.
        shard: whether weights, gradients and moments are divided among the ranks (FSDP), for large networks.
        timeout_seconds: after which a rank that does not answer is given up; may be changed when a run is resumed.
        checkpoint_every, journal_every: in steps; may be changed when a run is resumed.
    """

    encoder: str
    network: SerializeAsAny[Settings]
    targets: dict[str, AnyTarget] = Field(min_length=1)
    masking: MaskingSettings = MaskingSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    crop_seconds: float = Field(default=5.0, gt=0)
    target_rms: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, ge=1)
    steps: int = Field(default=1000, ge=1)
    seed: int = Field(default=1337, ge=0)
    precision: Precision = "float32"
    loss_scale: LossScaleSettings = LossScaleSettings()
    mixup: MixupSettings = MixupSettings()
    augment: AugmentSettings = AugmentSettings()
    recovery: RecoverySettings = RecoverySettings()
    accumulation_steps: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False
    fsdp: bool = False
    timeout_seconds: float = Field(default=600.0, gt=0)
    checkpoint_every: int = Field(default=100, ge=1)
    log_every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return with_network(values)


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
    family: RecipeFamily = REGISTRY.get(name)
    variant = family.variants[REGISTRY.entry(name).name]
    if scale not in family.scales:
        raise UsageError(
            f"{name} has no scale {scale!r}.{did_you_mean(scale, family.scales)} Scales: {', '.join(family.scales)}."
        )
    return replace(replace(variant, _scaled(variant, family.scales[scale]), f"--scale {scale}"), changes or {})


def times(factor: float) -> Callable[[Any], float]:
    """Return a scale's change that multiplies whatever a variant has; whole numbers stay whole."""
    return lambda value: round(factor * value) if isinstance(value, int) else factor * value


def _scaled(variant: Recipe, scale: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that a scale means for a variant: those of targets that it has, with its own values times."""
    changes = {}
    for path, value in scale.items():
        part, *rest = path.split(".")
        if part == "targets" and rest[0] not in variant.targets:
            continue
        changes[path] = value(_at(variant, path)) if callable(value) else value
    return changes


def _at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = settings[name] if isinstance(settings, Mapping) else getattr(settings, name)
    return settings
