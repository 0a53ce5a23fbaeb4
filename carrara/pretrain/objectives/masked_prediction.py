"""Masked prediction: the student sees masked and mixed crops and predicts labels of the clean ones.

The folder holds the encoder, `targets/` (fitted once), `labels/` (of whole files), `run.json`, `metrics.jsonl` and
`training/` (checkpoints).

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.encoders._base import untrained_card
from carrara.encoders._frame_encoder import FrameEncoder
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders._maest.network import MaestEncoder
from carrara.pretrain.card import pretraining_card
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.label_store import LabelStore, open_label_stores, read_batch_labels
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.fit_targets import fit_missing, load_targets
from carrara.pretrain.initialize import copy_targets, load_encoder, load_heads
from carrara.pretrain.label_checks import MISSING_FRAMES, check_labels
from carrara.pretrain.masks import draw_masks, replace_by_noise
from carrara.pretrain.mixup import mix_crops
from carrara.pretrain.monitors import measure
from carrara.pretrain.objectives._base import MicroBatch, Objective, check_batch, split_rows
from carrara.pretrain.objectives._losses import CLIPS, Losses
from carrara.pretrain.objectives._masked_network import FRAMES, MaskedPrediction, prediction_metrics
from carrara.pretrain.optimiser import scheduled_rate
from carrara.pretrain.precision import autocast
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.tagging.network import check_positions
from carrara.pretrain.targets._base import Target

LABELS = "labels"
CHECKED_CROPS, STATISTICS_CROPS = 8, 256


@dataclass(frozen=True, kw_only=True)
class _MaskedCrops(MicroBatch):
    """Some crops of a step.

    Attributes:
        clean_BT, student_BT: crops of the targets and of the student.
        masked_BF: which frames are masked.
        stored_labels: labels from whole files, by target.
    """

    clean_BT: Tensor
    student_BT: Tensor
    masked_BF: Tensor
    stored_labels: Mapping[str, Tensor]


class MaskedPredictionObjective(Objective):
    """The objective of HuBERT, MERT, MusicHuBERT and Music2Vec.

    Attributes:
        targets: what is predicted.
        num_frames: frames of a crop for which every target has labels.
        label_stores: labels of whole files, for the targets that have them.
    """

    recipe: Recipe
    module: MaskedPrediction
    encoder: FrameEncoder
    targets: dict[str, Target]
    num_frames: int
    label_stores: Mapping[str, LabelStore]

    def __init__(self, recipe: Recipe, corpus: Sequence[str | Path], folder: Path, start: str, dist: Dist) -> None:
        """Build the encoder at its initial weights, and the corpus.

        Raises:
            UsageError: settings do not go together, or the initial weights are another network's.
            DataError: no usable corpus.
            WeightsError: the initial weights are not whole.
        """
        self.recipe, self.dist, self.steps = recipe, dist, recipe.steps
        with dist.report_once():
            encoder = self.encoder = build_student(recipe)
            encoder.card = untrained_card(encoder.card, folder.resolve().name)
            self.initialization = load_encoder(start, recipe, encoder, folder)
            self.grid = encoder.grid
            crop_samples = _check_crop(recipe, encoder)
            check_batch_division(recipe, dist.world_size)
        self.corpus = dist.on_rank_zero(lambda: build_corpus(corpus, self.grid.sample_rate, crop_samples))
        self.stream = CropStream(self.corpus, crop_samples, self.grid.hop, recipe.batch, recipe.seed, recipe.target_rms)

    def prepare(self, folder: Path) -> None:
        """Fit targets and the student's input, check the labels, add the heads, and label whole files.

        Raises:
            CarraraError: the corpus does not suffice for the targets, or their labels cannot be right.
            StoreError: files cannot be written, or belong to another run.
        """
        recipe, dist, encoder, stream = self.recipe, self.dist, self.encoder, self.stream
        dist.on_rank_zero(lambda: copy_targets(self.initialization, folder))
        fit_missing(folder, recipe, self.grid, stream, dist)
        encoder.to(dist.device)
        if not self.initialization.record and not has_checkpoint(folder / TRAINING):
            for name, value in dist.on_rank_zero(self._input_statistics).items():
                encoder.get_buffer(name).copy_(value)
        with dist.report_once():
            self.targets = load_targets(folder, recipe, self.grid, dist.device)
            encoder.stack.activation_checkpointing = recipe.activation_checkpointing
            num_frames = encoder.num_frames(stream.crop_samples)
            for target in self.targets.values():
                target.attach(encoder)
            fixed_targets = {name: target for name, target in self.targets.items() if not target.is_ema}
            crops_BT = stream.first_readable_batch().samples_BT[:CHECKED_CROPS].to(dist.device)
            check_labels(fixed_targets, crops_BT, num_frames)
            by_vector = recipe.masking.replacement == "vector"
            module = MaskedPrediction(encoder, self.targets, recipe.objective, recipe.seed, by_vector)
            self.module = module.to(dist.device)
            load_heads(self.initialization, self.module, self.targets)
        silence_BT = torch.zeros(1, stream.crop_samples, device=dist.device)
        self.num_frames = min(target.labels(silence_BT, num_frames).shape[1] for target in self.targets.values())
        self.label_stores = open_label_stores(folder / LABELS, self.targets, self.corpus, dist)
        uses_all = all(target.use == "all" for target in self.targets.values())
        unused_vector = recipe.masking.replacement == "noise" and encoder.masked_spec_embed is not None
        self.has_unused_parameters = bool(encoder.layerdrop) or not uses_all or unused_vector

    def _input_statistics(self) -> dict[str, Tensor]:
        """Return the student's buffers that the first crops of the run determine."""
        steps = math.ceil(STATISTICS_CROPS / self.recipe.batch)
        batches = (batch.samples_BT for batch in self.stream.iter_batches(0, steps) if batch.item_indices)
        return self.encoder.input_statistics(samples_BT.to(self.dist.device) for samples_BT in batches)

    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's micro-batches, mixed and with their masks; see the base class."""
        recipe = self.recipe
        draws_B = [(recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.item_indices)]
        clean_BT = batch.samples_BT
        student_BT = mix_crops(clean_BT, draws_B, recipe.mixup, self.encoder.card.sample_rate)
        stored_labels = {
            name: read_batch_labels(store, self.targets[name], batch, self.stream, self.num_frames)
            for name, store in self.label_stores.items()
        }
        batch_masked_BF = draw_masks(draws_B, recipe.masking, self.num_frames)
        if recipe.masking.replacement == "noise":
            student_BT = replace_by_noise(student_BT, batch_masked_BF, draws_B, self.grid, recipe.masking.noise_std)
        micro_batches: list[MicroBatch] = []
        for index, rows in split_rows(len(draws_B), recipe.accumulation_steps, self.dist):
            masked_BF = batch_masked_BF[rows]
            frames = masked_BF.numel() if recipe.objective.unmasked_weight else int(masked_BF.sum())
            if not len(rows):
                masked_BF = torch.zeros(1, self.num_frames, dtype=torch.bool)
            labels = {name: codes_BFQ[rows.to(codes_BFQ.device)] for name, codes_BFQ in stored_labels.items()}
            crops = _MaskedCrops(
                index=index,
                divisors={FRAMES: frames, CLIPS: len(rows)},
                is_padding=not len(rows),
                clean_BT=self.device_crops(clean_BT[rows]),
                student_BT=self.device_crops(student_BT[rows]),
                masked_BF=masked_BF,
                stored_labels=labels if len(rows) else {},
            )
            micro_batches.append(crops)
        return micro_batches

    def losses(self, network: nn.Module, micro_batch: _MaskedCrops, step: int) -> Losses:
        """Return the losses of the masked frames; see the base class."""
        labels = dict(micro_batch.stored_labels)
        frames = self.encoder.num_frames(self.stream.crop_samples)
        for name, target in self.targets.items():
            if name not in labels:
                labels[name] = target.labels(micro_batch.clean_BT, frames)
        with autocast(self.recipe.precision, self.dist.device):
            losses: Losses = network(micro_batch.student_BT, micro_batch.masked_BF.to(self.dist.device), labels, step)
        return losses

    def learning_rate(self, step: int) -> float:
        """Return fairseq's rate of a step; see the base class."""
        return scheduled_rate(step, self.steps, self.recipe.optimiser)

    def after_step(self, step: int, is_taken: bool) -> None:
        """Update targets that average the student."""
        for target in self.targets.values() if is_taken else ():
            target.update(step)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return losses, accuracies and perplexities of masked frames; see the base class."""
        return prediction_metrics(sums)

    @torch.no_grad()
    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return ranks of the features and the largest attention logit; see the base class."""
        if not self.recipe.fsdp and not (self.dist.is_main and batch.item_indices):
            return {}
        return measure(self.module, self.device_crops(batch.samples_BT))

    def ema_modules(self) -> dict[str, nn.Module]:
        """Return the targets that average the student's weights."""
        return {name: target for name, target in self.targets.items() if target.is_ema}

    def fsdp_layers(self) -> list[nn.Module]:
        """Return the layers of the stack; see the base class."""
        if self.encoder.layerdrop:
            raise UsageError("fsdp=true needs every rank to compute every layer; add --set network.layerdrop=0")
        if self.ema_modules():
            raise UsageError(
                "fsdp=true does not go with a teacher that averages the student's weights; leave it out "
                "with --set fsdp=false"
            )
        return list(self.encoder.stack.layers)

    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write the encoder with its model card; see the base class."""
        encoder: Any = self.encoder
        if self.recipe.fsdp:
            encoder = self.encoder_copy(self.saved_weights(tensors)[""])
        save_pretrained(encoder, folder, pretraining_card(self, self.recipe, folder, step, seconds))


def build_student(recipe: Recipe) -> FrameEncoder:
    """Return the recipe's encoder with random weights.

    Raises:
        UsageError: it has no frames, heads for tags or no vector for masked frames.
    """
    encoder = build_encoder(recipe.encoder, recipe.seed, recipe.network.model_dump())
    name = repr(recipe.encoder)
    if not isinstance(encoder, FrameEncoder):
        raise UsageError(
            f"encoder {name} has no frames to mask; choose one of HuBERT's kind, such as mert-v0, a conformer, such as "
            "mel-conformer-tiny, or a patch Transformer, such as maest-tiny"
        )
    if encoder.card.frame_rate is None:
        raise UsageError(f"encoder {name} gives one vector for a clip; add --set network.tokens=frames")
    if encoder.tag_names:
        raise UsageError(f"encoder {name} has heads for tags, which are not trained; add --set network.classes=0")
    if recipe.masking.replacement == "vector" and encoder.masked_spec_embed is None:
        has_setting = "mask_vector" in type(encoder.settings).model_fields
        cure = "add --set network.mask_vector=true, or mask" if has_setting else "mask"
        raise UsageError(
            f"encoder {name} has no vector for masked frames; {cure} by noise: --set masking.replacement=noise"
        )
    return encoder


def check_batch_division(recipe: Recipe, world_size: int) -> None:
    """Refuse a batch that does not divide over the ranks.

    Raises:
        UsageError: a rank would have no crop, or a pool of mixup or of masks would be divided between ranks.
    """
    edges = [rank * recipe.batch // world_size for rank in range(world_size)]
    pools = {"mixup": recipe.mixup.pool} if recipe.mixup.probability else {}
    pools |= {"masking": recipe.masking.pool} if recipe.masking.same_masks else {}
    for group, pool in pools.items():
        if any(edge % pool for edge in edges):
            smaller = [size for size in range(2, pool) if not any(edge % size for edge in edges)]
            cure = f"--set {group}.pool={smaller[-1]}, or " if smaller else ""
            raise UsageError(
                f"{group}.pool {pool} does not fit the {recipe.batch} crops of a step on {world_size} ranks: a step "
                f"would depend on their number; give {cure}--set "
                f"batch={math.ceil(recipe.batch / (pool * world_size)) * pool * world_size}"
            )
    check_batch(recipe.batch, world_size)


def _check_crop(recipe: Recipe, encoder: FrameEncoder) -> int:
    """Return the samples of a crop, and refuse masks that do not fit it."""
    sample_rate, masking = encoder.card.sample_rate, recipe.masking
    if isinstance(encoder, MaestEncoder):
        check_positions(encoder, recipe.crop_seconds)
    crop_samples = round(recipe.crop_seconds * sample_rate)
    # One more than the masks, so that some frames are left.
    masks = masking.min_masks + 1 if masking.blocks else 1
    frames, needed = encoder.num_frames(crop_samples), masks * masking.mask_length + MISSING_FRAMES
    if frames <= needed:
        tenths = next(each for each in count(1) if encoder.num_frames(each * sample_rate // 10) > needed)
        longest = (frames - MISSING_FRAMES - 1) // masks
        shorter = f", or --set masking.mask_length={longest}" if longest > 0 else ""
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {frames} frames, too few for masks of {masking.mask_length}; "
            f"give --set crop_seconds={tenths / 10:g} or more{shorter}"
        )
    return crop_samples
