"""What training needs to know of a method: its module, batches, losses, and what it saves.

The loss of a step is a sum of terms; each term is a sum over crops (or frames) divided by a count of the whole step,
over all ranks and micro-batches. The counts are known before the forward pass, so a step means the same however its
batch is divided, and no rank or micro-batch with few masked frames weighs more than it should [notes/pretraining §3.3].

Letters: B batch, T samples.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.encoders._base import Encoder
from carrara.encoders._hub.load import build_encoder
from carrara.formats.weights import load_state_dict_strict
from carrara.pretrain.checkpoint import without_prefix
from carrara.pretrain.corpus.build import Corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.initialize import Initialization
from carrara.pretrain.objectives._losses import Losses
from carrara.pretrain.recipes._base import AccumulationSteps, TrainingSettings

# Far apart from each other and from one, so that no two micro-batches of near steps share their draws.
SEED_STRIDE, MICRO_BATCH_STRIDE = 1_000_003, 7_368_787


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some crops of a step, ready for the forward pass; an objective adds what it needs.

    Attributes:
        index: number of the micro-batch in the whole batch, over all ranks.
        divisors: counts of its crops, frames …; zero for padding.
        is_padding: whether it is silence that must not count: with several ranks each takes part in every forward pass.
    """

    index: int
    divisors: Mapping[str, int]
    is_padding: bool = False


def split_rows(rows: int, accumulation_steps: AccumulationSteps, dist: Dist) -> list[tuple[int, Tensor]]:
    """Return the number in the whole batch and the rows of each micro-batch of a rank that has so many crops.

    With several ranks every rank has equally many, some perhaps without rows. `auto`, before the number is chosen, is
    one a rank.
    """
    count = 1 if accumulation_steps == "auto" else math.ceil(accumulation_steps / dist.world_size)
    parts = [(dist.rank * count + number, part) for number, part in enumerate(torch.arange(rows).tensor_split(count))]
    return parts if dist.world_size > 1 else [part for part in parts if len(part[1])]


class Objective(ABC):
    """A method of training.

    The constructor builds network and corpus and refuses what cannot be trained; it writes nothing. `prepare` does the
    rest, in the folder of the run. Methods are called on every rank unless they say otherwise.

    Attributes:
        recipe: settings of the run.
        dist: the ranks.
        corpus: what is trained on.
        stream: batches of crops of it.
        steps: of the whole run.
        module: what is trained; there from `prepare` on. Its forward pass is all that the gradient needs.
        encoder: the encoder in it, which probes measure; None where no encoder is trained.
        initialization: where the initial weights come from.
        has_unused_parameters: whether parameters may have no part in a step, as with LayerDrop.
    """

    recipe: TrainingSettings
    dist: Dist
    corpus: Corpus
    stream: CropStream
    steps: int
    module: nn.Module
    encoder: Encoder | None = None
    initialization: Initialization
    has_unused_parameters: bool = False

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Read or write what training needs in the folder of the run, and put the module on the rank's device."""

    @abstractmethod
    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's micro-batches of a step; none on any rank if the step cannot be taken."""

    @abstractmethod
    def losses(self, network: nn.Module, micro_batch: Any, step: int) -> Losses:
        """Return the losses of a micro-batch.

        Args:
            network: the module, wrapped by DistributedDataParallel where there are several ranks.
            micro_batch: one of `micro_batches`.
            step: number of the batch.
        """

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return numbers for the log from the sums of the steps since the last line; empty without sums."""

    def after_step(self, step: int, is_taken: bool) -> None:  # noqa: B027 - nothing to do by default
        """Update what follows the weights after the step with that number, from 0, was taken or skipped."""

    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return further numbers for the log after so many steps, measured in evaluation mode."""
        return {}

    def is_validation_due(self, step: int) -> bool:
        """Return whether to validate after so many steps."""
        return False

    def validate(self) -> dict[str, float]:
        """Return scores on validation clips."""
        return {}

    def ema_modules(self) -> dict[str, nn.Module]:
        """Return modules that a checkpoint holds besides the trained one, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return plain values that a checkpoint holds."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - nothing to take over by default
        """Take over the values that `state_dict` returned."""

    def fsdp_layers(self) -> list[nn.Module]:
        """Return the layers whose weights FSDP gathers one after another.

        Raises:
            UsageError: the module cannot be sharded.
        """
        raise UsageError("fsdp=true shards Transformers; this network is small, leave it out with --set fsdp=false")

    @abstractmethod
    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write what is trained to the folder of the run; on rank 0 only.

        Args:
            folder: of the run.
            tensors: whole tensors of the checkpoint.
            step: steps taken.
            seconds: duration of the run.
        """

    def saved_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the weights that `save` writes: by folder within that of the run ("" for itself), by name.

        Args:
            tensors: whole tensors of the checkpoint.
        """
        return {"": without_prefix(tensors, "model.encoder.")}

    def encoder_copy(self, tensors: Mapping[str, Tensor]) -> Encoder:
        """Return a copy of the encoder with whole weights, in evaluation mode.

        Args:
            tensors: whole weights by the encoder's names, where its own may be sharded.
        """
        assert self.encoder is not None
        if not self.recipe.fsdp:
            return copy.deepcopy(self.encoder).eval()
        recipe: Any = self.recipe
        encoder = build_encoder(recipe.encoder, 0, self.encoder.settings.model_dump())
        load_state_dict_strict(encoder, tensors, self.encoder.card.name)
        encoder.card = self.encoder.card
        return encoder.to(self.dist.device).eval()

    def iter_batches(self, first: int, end: int) -> Iterator[CropBatch]:
        """Yield this rank's crops of the steps from `first` up to `end`, excluded."""
        return self.stream.iter_batches(first, end, self.dist.rank, self.dist.world_size)

    def device_crops(self, samples_BT: Tensor) -> Tensor:
        """Return crops on the rank's device; one of silence where there are none."""
        if not len(samples_BT):
            samples_BT = samples_BT.new_zeros(1, self.stream.crop_samples)
        return samples_BT.to(self.dist.device, non_blocking=True)


def check_batch(batch: int, world_size: int) -> None:
    """Raise a UsageError if a rank would have no crop."""
    if batch < world_size:
        raise UsageError(
            f"batch {batch} is less than one crop for each of {world_size} ranks; give --set batch={world_size}"
        )
