"""One training on tags in the making, and what of it a checkpoint holds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from carrara.core.errors import StoreError
from carrara.encoders._base import Card
from carrara.encoders._hub.load import save_pretrained
from carrara.encoders._maest.network import MaestEncoder
from carrara.pretrain import checkpoint
from carrara.pretrain.metrics_log import Journal
from carrara.pretrain.precision import LossScale
from carrara.pretrain.recipes._base import Precision
from carrara.pretrain.tagging.card import readme
from carrara.pretrain.tagging.crops import BalancedCrops, MiddleCrops
from carrara.pretrain.tagging.network import Tagger
from carrara.pretrain.tagging.settings import TaggingRecipe

TRAINING, UNAVERAGED = "training", "unaveraged"


@dataclass
class Training:
    """What is trained, on what, where it stands.

    Attributes:
        folder: of the encoder to be made.
        recipe, encoder, optimiser: what is trained and how.
        average: the mean of the networks counted in so far, `averaged` of them.
        teacher: where there is one.
        crops, middles: what is trained and what is scored on; the latter may have no clips.
        device: where the encoder is.
        precision: of its matrix products there.
        scale: of the loss, in float16.
        journal: opened once it is known where the run stands.
        step: steps done.
        seconds: of the whole run so far.
    """

    folder: Path
    recipe: TaggingRecipe
    encoder: Tagger
    average: Tagger
    optimiser: torch.optim.Optimizer
    teacher: MaestEncoder | None
    crops: BalancedCrops
    middles: MiddleCrops
    device: torch.device
    precision: Precision
    scale: LossScale
    journal: Journal = field(init=False)
    averaged: int = 0
    step: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        epochs = self.recipe.epochs * self.crops.steps_per_epoch
        return min(epochs, self.recipe.steps or epochs)

    def save(self) -> None:
        """Write a checkpoint and the encoder as it is now.

        Raises:
            StoreError: it cannot be written.
        """
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "averaged": self.averaged,
            "scale": [self.scale.value, self.scale.clean],
            "card": self.encoder.card.model_dump(mode="json"),
        }
        self.average.card = self.encoder.card
        moving = {"average": self.average} if self.averaged else {}
        tensors = checkpoint.gather(self.encoder, self.optimiser, moving)
        checkpoint.write(self.folder / TRAINING, tensors, state)
        page = readme(self.folder, self.recipe, self.encoder.card, self.crops.tagged, self.step, self.averaged)
        try:
            save_pretrained(self.average if self.averaged else self.encoder, self.folder, page)
            if self.averaged:
                save_pretrained(self.encoder, self.folder / UNAVERAGED, page)
        except StoreError as problem:
            raise StoreError(f"{problem}; make room and resume") from None

    def restore(self) -> None:
        """Go to where the checkpoint of the folder stands, where there is one.

        Raises:
            StoreError: there are checkpoints, and none is whole, or they are of another network.
        """
        found = checkpoint.load(self.folder / TRAINING)
        if found is None:
            return
        if found.note:
            warnings.warn(found.note, stacklevel=3)
        self.step, self.seconds, self.averaged = (found.state[name] for name in ("step", "seconds", "averaged"))
        self.scale.value, self.scale.clean = found.state["scale"]
        self.encoder.card = Card.model_validate(found.state["card"]).model_copy(update={"name": self.encoder.card.name})
        checkpoint.restore(found, self.encoder, self.optimiser, {"average": self.average} if self.averaged else {})
