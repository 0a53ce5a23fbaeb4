"""Training a network on tags; the folder is a tagger at every checkpoint.

MAEST's recipe [alonso2023] [notes/encoders §1.4, §1.5]: binary cross-entropy over all tags, structured time patchout,
mixup, SpecAugment, balanced sampling, a learning rate by epoch, stochastic weight averaging. Mixup, masks and patchout
are drawn for the whole batch alike on every rank, and each rank gets the spectrograms of all, so mixing does not depend
on the number of ranks. Batch norms, which only the convolutional network has, see the crops of one rank's micro-batch.

The folder holds the encoder with averaged weights (until there are any, with those of the last step), `last/` with
those of the last step, `labels.json`, `run.json`, `metrics.jsonl` and `training/`. Log keys besides those of every run
(metrics_log.py): with a teacher `loss/tags` and `loss/teacher` (nats per tag), `epoch`; after every few epochs
`valid/average_precision` and `valid/roc_auc` (macro averages over centre crops), and `swa/…` for the averaged weights.

Letters: B batch, T samples, F frames, M mel bands, N clips, C tags, K kept columns.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from carrara.core.io import write_text
from carrara.encoders import REGISTRY as ENCODERS
from carrara.encoders._base import Card, Encoder
from carrara.encoders._hub.load import save_pretrained
from carrara.encoders._maest.network import MaestEncoder
from carrara.formats.weights import hash_tensors
from carrara.metrics.ranking import average_precision, macro_mean, roc_auc
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint, without_prefix
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.distributed import Dist, full_tensor
from carrara.pretrain.initialize import Initialization, former_record
from carrara.pretrain.objectives._base import MicroBatch, Objective, check_batch, split_rows
from carrara.pretrain.objectives._losses import CLIPS, Losses, LossTerm
from carrara.pretrain.precision import autocast
from carrara.pretrain.tagging.augment import draw_mixup, mask_spectrograms
from carrara.pretrain.tagging.card import tagging_card
from carrara.pretrain.tagging.data import (
    TAG_FILE,
    BalancedCrops,
    CenterCrops,
    TaggedCorpus,
    build_tagged_corpus,
    check_same_tags,
    read_run_tags,
)
from carrara.pretrain.tagging.initialize import load_initial_weights
from carrara.pretrain.tagging.network import (
    MEAN_LOG_MEL,
    Tagger,
    TaggingNetwork,
    build_tagger,
    draw_patchout,
    input_mel,
    load_teacher,
    tag_logits,
    teacher_targets,
)
from carrara.pretrain.tagging.settings import (
    InitialSettings,
    SWASettings,
    TaggingOptimiserSettings,
    TaggingRecipe,
)

LAST = "last"
STEP_DRAW = 6  # distinguishes the draws of a step from the others of a run
MAX_SHORT_FRACTION = 0.1
# The first epoch counts as half an epoch, so that its learning rate is not almost 0.
FIRST_EPOCH, WARMUP_STEEPNESS = 0.5, 5.0


@dataclass(frozen=True, kw_only=True)
class _TaggedCrops(MicroBatch):
    """Some crops of a step.

    Attributes:
        mel_BFM: mixed and masked input of the network.
        targets: by term of the loss, the mixed tags, and the mixed predictions of the teacher, `[B, C]`.
        kept_K, offset: columns that patchout keeps, and where the crops begin in the table of positions.
    """

    mel_BFM: Tensor
    targets: Mapping[str, Tensor]
    kept_K: Tensor | None
    offset: int


class TaggingObjective(Objective):
    """The objective of MAEST and of the EfficientNet that is trained on tags.

    Attributes:
        average: mean of the encoder's weights after `num_averaged` epochs.
        teacher: a tagger whose predictions are learnt too, or None.
        valid_crops: for validation; may have no clips.
    """

    recipe: TaggingRecipe
    corpus: TaggedCorpus
    stream: BalancedCrops
    module: TaggingNetwork
    encoder: Tagger
    average: Tagger
    teacher: MaestEncoder | None
    valid_crops: CenterCrops
    num_averaged: int = 0

    def __init__(
        self, recipe: TaggingRecipe, corpus: Sequence[str | Path], folder: Path, start: str, dist: Dist
    ) -> None:
        """Build the encoder at its initial weights, and the corpus; see the base class.

        Args:
            recipe: the resolved recipe.
            corpus: the name or folder of a dataset, or a folder with labels.csv.
            folder: of the run.
            start: a tagger to start from, instead of the recipe's initial weights; empty for these.
            dist: the ranks.

        Raises:
            UsageError: corpus, tags, patchout, initial weights or teacher do not fit the network.
            DataError: the corpus cannot be used.
            WeightsError: the initial weights are incomplete or of another kind.
            StoreError: the run in the folder cannot be read.
        """
        self.recipe, self.dist = recipe, dist
        with dist.report_once():
            check_batch(recipe.batch, dist.world_size)
            card: Card = ENCODERS.get(recipe.encoder).variants[ENCODERS.get_entry(recipe.encoder).name][0]
        self.corpus, valid = dist.on_rank_zero(lambda: build_tagged_corpus(corpus, recipe.labels, card.sample_rate))
        if dist.is_main:
            _warn_of_short_clips(self.corpus, recipe.crop_seconds)
        with dist.report_once():
            self.encoder = build_tagger(recipe, self.corpus.tags, folder.resolve().name, self.corpus.dataset)
            self.teacher = load_teacher(recipe.teacher.weights, self.corpus.tags, dist.device)
            former_tags = read_run_tags(folder)
            if former_tags:
                cure = "give its corpus, or another folder with -o"
                check_same_tags(self.corpus.tags, former_tags, f"the run in {folder}", cure)
            self.initialization = self._load_start(start, folder)
        crop_samples, stride = round(recipe.crop_seconds * card.sample_rate), self.encoder.mel.spectrum.framing.hop
        shape = (crop_samples, stride, recipe.batch, recipe.seed)
        self.stream = BalancedCrops(self.corpus, *shape, clips=recipe.epoch_clips)
        self.valid_crops = CenterCrops(valid, *shape)
        all_epochs = recipe.epochs * self.stream.steps_per_epoch
        self.steps = min(all_epochs, recipe.steps or all_epochs)

    def prepare(self, folder: Path) -> None:
        """Write the tags, and put the network on the device; see the base class."""
        tags = json.dumps(self.corpus.tags, ensure_ascii=False, indent=0) + "\n"
        self.dist.on_rank_zero(lambda: write_text(folder / TAG_FILE, tags))
        self.encoder.to(self.dist.device)
        if isinstance(self.encoder, MaestEncoder) and self.encoder.head_dist is not None and self.teacher is None:
            # DistributedDataParallel waits for the gradient of every parameter that has one.
            self.encoder.head_dist.requires_grad_(False)
        self.average = copy.deepcopy(self.encoder)
        self.module = TaggingNetwork(self.encoder)

    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's crops, mixed, masked, and with their columns; see the base class."""
        recipe, dist, own = self.recipe, self.dist, len(batch.item_indices)
        counts = dist.gather_counts(own)
        if not sum(counts):
            return []
        rng = np.random.default_rng([recipe.seed, STEP_DRAW, batch.step])
        samples_BT = self.device_crops(batch.samples_BT)
        tags_BC = torch.from_numpy(self.corpus.tags_NC[list(batch.item_indices)]).float().to(dist.device)
        mel_BFM = dist.gather_rows(input_mel(self.encoder, samples_BT)[:own], counts)
        mixup = draw_mixup(len(mel_BFM), recipe.mixup, rng)
        targets = {"tags": mixup(dist.gather_rows(tags_BC, counts))}
        if self.teacher is not None:
            # The teacher gets each crop before mixup and masks.
            targets["teacher"] = mixup(dist.gather_rows(teacher_targets(self.teacher, samples_BT)[:own], counts))
        mean = 0.0 if isinstance(self.encoder, MaestEncoder) else MEAN_LOG_MEL
        mel_BFM = mask_spectrograms(mixup(mel_BFM), recipe.spec_augment, rng, mean)
        kept_K, offset = draw_patchout(self.encoder, mel_BFM.shape[1], recipe.patchout, rng)
        first = sum(counts[: dist.rank])
        micro_batches: list[MicroBatch] = []
        for index, rows in split_rows(own, recipe.accumulation_steps, dist):
            rows_B = (first + rows if len(rows) else torch.zeros(1, dtype=torch.long)).to(dist.device)
            crops = _TaggedCrops(
                index=index,
                divisors={CLIPS: len(rows)},
                is_padding=not len(rows),
                mel_BFM=mel_BFM[rows_B],
                targets={name: target_BC[rows_B] for name, target_BC in targets.items()},
                kept_K=kept_K,
                offset=offset,
            )
            micro_batches.append(crops)
        return micro_batches

    def losses(self, network: nn.Module, micro_batch: _TaggedCrops, step: int) -> Losses:
        """Return the cross-entropy of the tags, and with a teacher that of its predictions; see the base class."""
        with autocast(self.recipe.precision, self.dist.device):
            logits = network(micro_batch.mel_BFM, micro_batch.kept_K, micro_batch.offset)
        terms = {}
        # The head of the distillation token learns from the teacher.
        for (name, target_BC), logits_BC in zip(micro_batch.targets.items(), logits):
            entropy = binary_cross_entropy_with_logits(logits_BC.float(), target_BC)
            terms[name] = LossTerm(len(target_BC) * entropy, weight=1 / len(micro_batch.targets))
        return Losses(terms)

    def learning_rate(self, step: int) -> float:
        """Return the rate of the step's epoch; see the base class."""
        return epoch_learning_rate(step // self.stream.steps_per_epoch, self.recipe.optimiser)

    def after_step(self, step: int, is_taken: bool) -> None:
        """Average the weights at the end of the epochs that count."""
        epochs, rest = divmod(step + 1, self.stream.steps_per_epoch)
        if not rest and is_swa_epoch(epochs, self.recipe.swa):
            swa_update(self.average, self.encoder, self.num_averaged)
            self.num_averaged += 1

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the mean losses of a tag; see the base class."""
        if not float(sums.get(CLIPS, 0)):
            return {}
        parts = {f"loss/{name}": float(sums[name] / sums[CLIPS]) for name in ("tags", "teacher") if name in sums}
        return {"loss": sum(parts.values()) / len(parts), **(parts if len(parts) > 1 else {})}

    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return the epochs so far; see the base class."""
        return {"epoch": step / self.stream.steps_per_epoch}

    def is_validation_due(self, step: int) -> bool:
        """Return whether an epoch that is validated ends here, or the run; see the base class."""
        epochs, rest = divmod(step, self.stream.steps_per_epoch)
        every = self.recipe.validate_every
        return step == self.steps or bool(every and not rest and epochs % every == 0)

    def validate(self) -> dict[str, float]:
        """Return scores of the weights of the last step and of the averaged ones; see the base class."""
        last = self._whole_encoder() if self.recipe.fsdp else self.encoder
        networks = {"valid": last} | ({"swa": self.average} if self.num_averaged else {})
        return {
            f"{name}/{metric}": value
            for name, network in networks.items()
            for metric, value in validation_scores(network, self.valid_crops, self.dist).items()
        }

    def ema_modules(self) -> dict[str, nn.Module]:
        """Return the averaged network, once there is one."""
        return {"average": self.average} if self.num_averaged else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of averaged epochs, and the card."""
        return {"num_averaged": self.num_averaged, "card": self.encoder.card.model_dump(mode="json")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the values that `state_dict` returned."""
        self.num_averaged = state["num_averaged"]
        self.encoder.card = Card.model_validate(state["card"]).model_copy(update={"name": self.encoder.card.name})

    def fsdp_layers(self) -> list[nn.Module]:
        """Return the Transformer's blocks; see the base class."""
        if not isinstance(self.encoder, MaestEncoder):
            return super().fsdp_layers()
        return list(self.encoder.vit.blocks)

    def encoder_copy(self, tensors: Mapping[str, Tensor]) -> Encoder:
        """Return a copy of what `save` writes; see the base class."""
        if self.num_averaged:
            return copy.deepcopy(self.average).eval()
        return super().encoder_copy(tensors)

    def saved_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the averaged encoder and of the last step; see the base class."""
        last = super().saved_weights(tensors)
        return {"": without_prefix(tensors, "ema.average."), LAST: last[""]} if self.num_averaged else last

    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write the averaged encoder, and that of the last step; see the base class."""
        last: Encoder = self.encoder
        if self.recipe.fsdp:
            last = super().encoder_copy(without_prefix(tensors, "model.encoder."))
        self.average.card = self.encoder.card
        initial = self.initialization.record.get("from", self.recipe.initial.kind)
        readme = tagging_card(folder, self.recipe, self.encoder.card, self.corpus, initial, step, self.num_averaged)
        save_pretrained(self.average if self.num_averaged else last, folder, readme)
        if self.num_averaged:
            save_pretrained(last, folder / LAST, readme)

    def _whole_encoder(self) -> Encoder:
        tensors = {name: full_tensor(tensor.detach()) for name, tensor in self.encoder.state_dict().items()}
        return super().encoder_copy(tensors)

    def _load_start(self, start: str, folder: Path) -> Initialization:
        """Load the initial weights, unless the run has a checkpoint already."""
        record: dict[str, Any] = {"from": start} if start else {}
        if has_checkpoint(folder / TRAINING):
            return Initialization(former_record(folder) | record if start else {})
        initial = self.recipe.initial
        if start:
            initial = InitialSettings(kind="folder", weights=start, interpolate=initial.interpolate)
            load_initial_weights(self.encoder, initial)
            return Initialization(record | {"weights_sha256": hash_tensors(self.encoder.state_dict())})
        load_initial_weights(self.encoder, initial)
        return Initialization()


def _warn_of_short_clips(corpus: TaggedCorpus, crop_seconds: float) -> None:
    shortest = int(crop_seconds * corpus.sample_rate)
    samples_N = corpus.items.table["samples"].to_numpy()
    short = float((samples_N < shortest).mean())
    if short > MAX_SHORT_FRACTION:
        tenths = int(np.quantile(samples_N, MAX_SHORT_FRACTION)) * 10 // corpus.sample_rate
        warnings.warn(
            f"{short:.0%} of the clips are shorter than a crop of {crop_seconds:g} s and are zero-padded; "
            f"choose a recipe of shorter crops, or give --set crop_seconds={max(tenths, 3) / 10:g}",
            stacklevel=2,
        )


def epoch_learning_rate(epoch: int, settings: TaggingOptimiserSettings) -> float:
    """Return the learning rate of an epoch, counted from 0 [notes/encoders §1.5].

    It rises as exp(-5 (1 - e/5)²) over 5 epochs, is constant until epoch 50, falls linearly to a hundredth over 50
    epochs, and stays there.
    """
    factor = 1.0
    if epoch < settings.warmup_epochs:
        left = 1 - min(max(epoch, FIRST_EPOCH), settings.warmup_epochs) / settings.warmup_epochs
        factor = math.exp(-WARMUP_STEEPNESS * left**2)
    decayed = min(max(epoch - settings.hold_until, 0) / settings.ramp_down, 1.0)
    return settings.learning_rate * factor * (1 - (1 - settings.last) * decayed)


def is_swa_epoch(epochs: int, settings: SWASettings) -> bool:
    """Return whether the weights after that many whole epochs are averaged."""
    return bool(settings.every) and epochs >= settings.first and (epochs - settings.first) % settings.every == 0


@torch.no_grad()
def swa_update(average: nn.Module, network: nn.Module, count: int) -> None:
    """Turn the average of `count` networks into that of one more; integer buffers are copied.

    The average has no effect on the training. (Today's published code averages every epoch and makes the learning rate
    constant, which is not what the paper measured.) [notes/encoders §1.5]
    """
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(full_tensor(value), 1 / (count + 1))
        else:
            mean.copy_(full_tensor(value))


@torch.no_grad()
def validation_scores(encoder: Any, crops: CenterCrops, dist: Dist) -> dict[str, float]:
    """Return macro `average_precision` and `roc_auc` of a network on the readable clips, without patchout or masks.

    A tag counts if some clips have it and some do not; the result is empty if there are no such tags or no clips. Each
    rank computes its part of the clips.
    """
    encoder.eval()
    parts: list[tuple[list[int], np.ndarray]] = []
    for batch in crops.iter_batches(0, crops.steps, dist.rank, dist.world_size):
        if batch.item_indices:
            logits_BC = tag_logits(encoder, input_mel(encoder, batch.samples_BT.to(dist.device)))[0]
            parts.append((list(batch.item_indices), logits_BC.float().cpu().numpy()))
    parts = [part for share in dist.all_gather(parts) for part in share]
    if not parts:
        return {}
    tags_NC = crops.corpus.tags_NC[[item for items, _ in parts for item in items]]
    logits_NC = np.concatenate([logits_BC for _, logits_BC in parts])
    scores = {
        "average_precision": float(macro_mean(average_precision(tags_NC, logits_NC))[0]),
        "roc_auc": float(macro_mean(roc_auc(tags_NC, logits_NC))[0]),
    }
    return {} if math.isnan(scores["roc_auc"]) else scores
