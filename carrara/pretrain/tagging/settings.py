"""What decides a training on tags: a recipe of its own kind; the defaults are MAEST's (encoders.md 1.4, 1.5)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from carrara.core.settings import Settings
from carrara.pretrain.recipes._base import LossScaleSettings, Precision, with_network


class LabelSettings(Settings):
    """Which tags are learnt.

    Attributes:
        of: the label of the dataset's clips that holds the tags: a list of words, or one word.
        split: of the dataset; empty: the one with the most clips to train on that have the label.
        names: the tags, in the order of the network's answers; empty: all that occur in training, sorted.
    """

    of: str = "tags"
    split: str = ""
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> LabelSettings:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"names must be different; twice there: {', '.join(twice)}")
        return self


class InitialSettings(Settings):
    """Where the weights come from.

    Attributes:
        kind: random; `deit` or `passt`, whose tables of positions are interpolated; `folder`, an encoder of Carrara's.
        weights: the official file, or the folder.
        interpolate: whether a folder's network of another length is taken, its table of columns interpolated.
        head: whether a folder's head is taken, which needs the same tags; else it is drawn anew.
    """

    kind: Literal["random", "deit", "passt", "folder"] = "random"
    weights: str = ""
    interpolate: bool = False
    head: bool = False


class TaggerTeacherSettings(Settings):
    """A tagger whose answers are a second set of targets, learnt by the head of the dist token.

    Attributes:
        weights: its folder; empty: no teacher.
        threshold: probability at which a tag counts as given; the likeliest always does.
    """

    weights: str = ""
    threshold: float = Field(default=0.45, gt=0, lt=1)


class SpecAugmentSettings(Settings):
    """Masks over what the network hears (carrara/pretrain/tagging/augment.py).

    Attributes:
        time_masks, frames: stretches of frames, and the longest of them.
        share: of a crop's frames that one stretch may cover at most.
        band_masks, bands: stretches of mel bands, and the longest of them.
    """

    time_masks: int = Field(default=20, ge=0)
    frames: int = Field(default=8, ge=0)
    max_fraction: float = Field(default=0.2, ge=0, le=1)
    band_masks: int = Field(default=8, ge=0)
    bands: int = Field(default=5, ge=0)


class TaggingOptimiserSettings(Settings):
    """AdamW on every parameter alike, and how its learning rate goes by epochs (carrara/pretrain/tagging/schedule.py).

    Attributes:
        learning_rate: the highest.
        warm_up: epochs of the soft start.
        hold_until: epoch up to which it stays there.
        ramp_down: epochs of the straight way down.
        last: what is left after that, as a share of the highest.
        betas, epsilon, weight_decay: AdamW's.
    """

    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_epochs: int = Field(default=5, ge=0)
    hold_until: int = Field(default=50, ge=0)
    ramp_down: int = Field(default=50, ge=1)
    last: float = Field(default=0.01, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)


class AveragingSettings(Settings):
    """From which epoch on, and every how many epochs, the network is counted into the average; 0 for never."""

    first: int = Field(default=50, ge=1)
    every: int = Field(default=5, ge=0)


class TaggingRecipe(Settings):
    """Everything that decides what a training on tags makes, but for the corpus.

    Attributes:
        encoder: name on the shelf of encoders, whose network is trained.
        network: that encoder's settings; its own where nothing is given. Its labels are filled in from the corpus.
        patchout: columns of patches that are left out in training; 0 for networks without patches.
        mixup: α of the Beta distribution that shares are drawn from; 0 for no mixup.
        masks: SpecAugment.
        crop_seconds: length of a crop; shorter clips are followed by silence.
        epoch_clips: clips an epoch draws.
        batch: crops a step.
        epochs: of the whole run.
        steps: of the whole run, where it is to end earlier; none: all epochs.
        precision: of the matrix products on a GPU; a CPU computes in float32, the others being slower there.
        loss_scale: of float16.
        validate_every: epochs after which the validation side is scored, and at the end; 0 for never.
        recompute: whether activations are computed again in the backward pass, for less memory.
        checkpoint_every, journal_every: in steps; may be changed when a run is resumed.
    """

    encoder: str
    network: SerializeAsAny[Settings]
    labels: LabelSettings = LabelSettings()
    initial: InitialSettings = InitialSettings()
    teacher: TaggerTeacherSettings = TaggerTeacherSettings()
    patchout: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.3, ge=0)
    masks: SpecAugmentSettings = SpecAugmentSettings()
    optimiser: TaggingOptimiserSettings = TaggingOptimiserSettings()
    averaging: AveragingSettings = AveragingSettings()
    crop_seconds: float = Field(default=30.0, gt=0)
    epoch_clips: int = Field(default=200_000, ge=1)
    batch: int = Field(default=48, ge=1)
    epochs: int = Field(default=130, ge=1)
    steps: int | None = Field(default=None, ge=1)
    precision: Precision = "float16"
    loss_scale: LossScaleSettings = LossScaleSettings(initial=2.0**16, double_after=2000)
    validate_every: int = Field(default=5, ge=0)
    activation_checkpointing: bool = False
    seed: int = Field(default=1337, ge=0)
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=100, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_network(cls, values: Any) -> Any:
        return with_network(values)
