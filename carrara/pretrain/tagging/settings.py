"""The recipe of a training on tags; the defaults are MAEST's [notes/encoders §1.4, §1.5]."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from carrara.core.settings import Settings
from carrara.pretrain.recipes._base import AdamWSettings, LossScaleSettings, Precision, TrainingSettings, fill_network


class LabelSettings(Settings):
    """Which tags are learnt.

    Attributes:
        field: the label of the clips, column or JSON key that holds the tags: a list of strings, or one string.
        split: split scheme of the dataset; empty: the one with the most labelled training clips.
        tags: the tags in the order of the network's outputs; empty: all that occur in training, sorted.
    """

    field: str = "tags"
    split: str = ""
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> LabelSettings:
        repeated = sorted({tag for tag in self.tags if self.tags.count(tag) > 1})
        if repeated:
            raise ValueError(f"tags must be different; more than once: {', '.join(repeated)}")
        return self


class InitialSettings(Settings):
    """Initial weights.

    Attributes:
        kind: random; `deit` or `passt`, whose positions are interpolated; `folder`, an encoder of Carrara, without its
            head.
        weights: the official file, or the folder.
        interpolate: whether the time positions of a folder's encoder are interpolated to another crop length.
    """

    kind: Literal["random", "deit", "passt", "folder"] = "random"
    weights: str = ""
    interpolate: bool = False


class TaggerTeacherSettings(Settings):
    """A tagger whose predictions are a second set of targets, learnt by the head of the distillation token.

    Attributes:
        weights: its folder; empty: no teacher.
    """

    weights: str = ""


class SpecAugmentSettings(Settings):
    """Masks over the network's input (carrara/pretrain/tagging/augment.py).

    Attributes:
        time_masks, max_frames: number of masks over time, and the longest in frames.
        max_fraction: of a crop's frames that one mask may cover.
        band_masks, max_bands: number of masks over mel bands, and the widest in bands.
    """

    time_masks: int = Field(default=20, ge=0)
    max_frames: int = Field(default=8, ge=0)
    max_fraction: float = Field(default=0.2, ge=0, le=1)
    band_masks: int = Field(default=8, ge=0)
    max_bands: int = Field(default=5, ge=0)


class TaggingOptimiserSettings(AdamWSettings):
    """AdamW on every parameter, and its learning rate by epoch (`epoch_learning_rate` in objectives/tagging.py).

    Attributes:
        learning_rate: peak.
        warmup_epochs: epochs of the warm-up.
        hold_until: epoch until which the peak is held.
        ramp_down: epochs of the linear decay.
        last: rate after the decay, as a fraction of the peak.
        betas, epsilon, weight_decay: of AdamW.
        max_grad_norm: largest norm of the gradient; 0 for no clipping.
    """

    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_epochs: int = Field(default=5, ge=0)
    hold_until: int = Field(default=50, ge=0)
    ramp_down: int = Field(default=50, ge=1)
    last: float = Field(default=0.01, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=0.0, ge=0)


class SWASettings(Settings):
    """Stochastic weight averaging: the first epoch that counts, and every how many epochs after it; 0 for never."""

    first: int = Field(default=50, ge=1)
    every: int = Field(default=5, ge=0)


class TaggingRecipe(TrainingSettings):
    """All settings of a training on tags, except for the corpus.

    Attributes:
        encoder: name of the encoder that is trained (`carrara ls encoders`).
        network: its settings; the encoder's own by default. Its labels are taken from the corpus.
        labels: which tags are learnt.
        initial: initial weights.
        teacher: a tagger to learn from beside the tags.
        patchout: columns of patches that are dropped in training; 0 for networks without patches.
        mixup: α of the Beta distribution of mixup; 0 for no mixup.
        spec_augment: masks over the input.
        optimiser: AdamW and its learning rate.
        swa: stochastic weight averaging.
        crop_seconds: length of a crop; shorter clips are zero-padded.
        epoch_clips: clips drawn per epoch.
        batch: crops per step.
        epochs: of the whole run.
        steps: of the whole run, if it is to end earlier; None means all epochs.
        validate_every: epochs between two validations, besides the one at the end; 0 for the end only.

    The other settings are those of `TrainingSettings`.
    """

    encoder: str
    network: SerializeAsAny[Settings]
    labels: LabelSettings = LabelSettings()
    initial: InitialSettings = InitialSettings()
    teacher: TaggerTeacherSettings = TaggerTeacherSettings()
    patchout: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.3, ge=0)
    spec_augment: SpecAugmentSettings = SpecAugmentSettings()
    optimiser: TaggingOptimiserSettings = TaggingOptimiserSettings()
    swa: SWASettings = SWASettings()
    crop_seconds: float = Field(default=30.0, gt=0)
    epoch_clips: int = Field(default=200_000, ge=1)
    batch: int = Field(default=48, ge=1)
    epochs: int = Field(default=130, ge=1)
    steps: int | None = Field(default=None, ge=1)
    precision: Precision = "float16"
    loss_scale: LossScaleSettings = LossScaleSettings(initial=2.0**16, double_after=2000)
    validate_every: int = Field(default=5, ge=0)
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=100, ge=1)

    @property
    def pretraining_task(self) -> str:
        """See the base class."""
        return "tagging of music"

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return fill_network(values)
