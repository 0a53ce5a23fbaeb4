"""The gradient of one step, independent of how its batch is divided over ranks and micro-batches.

The divisors of the loss (predicted frames, clips) are known before the forward pass and summed over the ranks; the loss
of each micro-batch is divided by these sums, and gradients are added. Dropout is drawn for each micro-batch from (seed,
step, its number in the whole batch): one process with two micro-batches does what two processes with one each do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carrara.pretrain.augment import augment_crops, mix_crops
from carrara.pretrain.corpus.label_store import read_batch_labels
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.dist import full_tensor, set_gradient_sync
from carrara.pretrain.masks import MaskPlan, plan_masks
from carrara.pretrain.objective import Losses, merge_losses
from carrara.pretrain.precision import autocast
from carrara.pretrain.state import Run

# Far apart from each other and from one, so that no two micro-batches of near steps share their dropout.
SEED_STRIDE, MICRO_BATCH_STRIDE = 1_000_003, 7_368_787


@dataclass(frozen=True)
class StepResult:
    """The result of a step's forward and backward pass; the gradients are those of the parameters.

    Attributes:
        losses: sums over this rank's crops; None where it has none.
        loss: loss of the whole batch.
        norm: norm of the whole gradient before clipping.
        num_clips: crops of the whole batch; 0 where no file could be read.
        stop: whether some rank was asked to stop.
    """

    losses: Losses | None
    loss: float
    norm: float
    num_clips: int
    stop: bool


@dataclass(frozen=True)
class _MicroBatch:
    """Some crops of a step.

    Attributes:
        index: number of the micro-batch in the whole batch.
        clean_BT, student_BT: crops of the targets and of the student.
        plan: masks.
        stored_labels: labels from whole files, by target.
        is_padding: whether the crops are silence that must not count.
    """

    index: int
    clean_BT: Tensor
    student_BT: Tensor
    plan: MaskPlan
    stored_labels: Mapping[str, Tensor]
    is_padding: bool = False


def compute_gradient(run: Run, batch: CropBatch, stop: bool = False) -> StepResult:
    """Leave the clipped gradient of a step in the parameters, the same on every rank.

    Args:
        run: the run.
        batch: this rank's share of the step's crops.
        stop: whether this rank was asked to stop; the ranks agree on it here.

    Raises:
        CarraraError: another rank is gone.
    """
    recipe, dist = run.recipe, run.dist
    micro_batches = _split_batch(run, batch)
    masks = [micro_batch.plan.masked_BF for micro_batch in micro_batches if not micro_batch.is_padding]
    predicts_all = recipe.objective.unmasked_weight != 0
    predicted = sum(mask_BF.numel() if predicts_all else int(mask_BF.sum()) for mask_BF in masks)
    num_frames, num_clips, stops = dist.all_reduce_sum([predicted, len(batch.item_indices), stop])
    run.optimiser.zero_grad(set_to_none=True)
    if not num_clips:
        return StepResult(None, math.nan, math.nan, 0, stops > 0)
    run.model.train()
    parts = []
    for micro_batch in micro_batches:
        set_gradient_sync(run.model, micro_batch is micro_batches[-1])
        losses = _forward(run, micro_batch, batch.step)
        loss = losses.loss(num_frames, num_clips) * (0.0 if micro_batch.is_padding else run.scale.value)
        # FSDP averages gradients over the ranks; the sum is needed.
        (loss * dist.world_size if recipe.fsdp else loss).backward()
        if not micro_batch.is_padding:
            parts.append(losses)
    parameters = list(run.model.parameters())
    if not recipe.fsdp:
        dist.all_reduce_gradients(parameters)
    if run.scale.value != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(run.scale.value)
    norm = full_tensor(nn.utils.clip_grad_norm_(parameters, recipe.optimiser.max_grad_norm or math.inf))
    merged = merge_losses(parts) if parts else None
    prediction, penalty = dist.all_reduce_sum([float(merged.prediction), float(merged.penalty)] if merged else [0, 0])
    loss_value = prediction / max(num_frames, 1) + penalty / num_clips
    return StepResult(merged, loss_value, float(norm), int(num_clips), stops > 0)


def _split_batch(run: Run, batch: CropBatch) -> list[_MicroBatch]:
    """Return this rank's micro-batches; under FSDP every rank has equally many, if need be of silence."""
    recipe, dist, encoder = run.recipe, run.dist, run.model.encoder
    draws_B = [(recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.item_indices)]
    clean_BT, sample_rate = batch.samples_BT, encoder.card.sample_rate
    student_BT = augment_crops(clean_BT, draws_B, recipe.augment, sample_rate)
    student_BT = mix_crops(student_BT, draws_B, recipe.mixup, sample_rate)
    stored_labels = {
        name: read_batch_labels(store, run.targets[name], batch, run.stream, run.num_frames)
        for name, store in run.label_stores.items()
    }
    count = math.ceil(recipe.accumulation_steps / dist.world_size)
    micro_batches = []
    for number, rows in enumerate(torch.arange(len(draws_B)).tensor_split(count)):
        index = dist.rank * count + number
        if len(rows):
            draws = [draws_B[row] for row in rows]
            plan = plan_masks(draws, recipe.masking, run.num_frames, encoder.settings.dim)
            labels = {name: codes_BFQ[rows.to(codes_BFQ.device)] for name, codes_BFQ in stored_labels.items()}
            micro_batches.append(_MicroBatch(index, clean_BT[rows], student_BT[rows], plan, labels))
        elif recipe.fsdp:
            plan = MaskPlan(torch.zeros(1, run.num_frames, dtype=torch.bool))
            silence_BT = clean_BT.new_zeros(1, run.stream.crop_samples)
            micro_batches.append(_MicroBatch(index, silence_BT, silence_BT, plan, {}, is_padding=True))
    return micro_batches


def _forward(run: Run, micro_batch: _MicroBatch, step: int) -> Losses:
    recipe, device = run.recipe, run.device
    torch.manual_seed(recipe.seed * SEED_STRIDE + step + micro_batch.index * MICRO_BATCH_STRIDE)
    clean_BT = micro_batch.clean_BT.to(device, non_blocking=True)
    student_BT = micro_batch.student_BT.to(device, non_blocking=True)
    frames = run.model.encoder.num_frames(clean_BT.shape[1])
    labels = dict(micro_batch.stored_labels)
    for name, target in run.targets.items():
        if name not in labels:
            labels[name] = target.labels(clean_BT, frames)
    with autocast(recipe.precision, device):
        losses: Losses = run.model(student_BT, micro_batch.plan.to(device), labels, step)
    return losses
