"""The gradient of one step, however its batch is divided: over ranks, and on each into parts one after another.

What decides the loss's divisor (frames asked for, clips) is known before anything is computed, and is summed over the
ranks; each part's loss is divided by those sums, and gradients are added. So any division gives the gradient of the
whole batch. Dropout is drawn for each part from (seed, step, number of the part in the whole batch): one process with
two parts does what two processes with one part each do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carrara.pretrain import masks
from carrara.pretrain.augment import augmented
from carrara.pretrain.corpus.label_store import of_batch
from carrara.pretrain.corpus.stream import Batch
from carrara.pretrain.fsdp import last_part, norm_of
from carrara.pretrain.masks import View
from carrara.pretrain.mixup import mixed
from carrara.pretrain.objective import Losses, merged
from carrara.pretrain.precision import computing
from carrara.pretrain.state import Run

# Two numbers apart from each other and from one, so that no two parts of near steps share their dropout.
SEED_STRIDE, PART_STRIDE = 1_000_003, 7_368_787


@dataclass(frozen=True)
class Found:
    """What came of a step's forward and backward passes; the gradients themselves are with the parameters.

    Attributes:
        losses: of this rank's crops, in sums; none where it had none.
        loss: of the whole batch, a frame asked for.
        norm: of the whole gradient before clipping.
        clips: crops of the whole batch; 0 where not one could be read.
        stop: whether some rank was asked to stop.
    """

    losses: Losses | None
    loss: float
    norm: float
    clips: int
    stop: bool


@dataclass(frozen=True)
class _Part:
    """Some crops of a step; `stored` are their labels from whole files, by target; `counts` is false for silence."""

    number: int
    clean_BT: Tensor
    heard_BT: Tensor
    view: View
    stored: Mapping[str, Tensor]
    counts: bool = True


def gradient(run: Run, batch: Batch, stop: bool = False) -> Found:
    """Leave the clipped gradient of a step with the parameters, the same on every rank.

    Args:
        run: the training.
        batch: this rank's share of what the step hears.
        stop: whether this rank was asked to stop; the ranks agree on it here.

    Raises:
        CarraraError: another rank is gone.
    """
    recipe, ranks = run.recipe, run.ranks
    parts = _parts(run, batch)
    asked = sum(_asked(part.view, recipe.objective.unmasked_weight) for part in parts if part.counts)
    frames, clips, stops = ranks.total([asked, len(batch.items), stop])
    run.optimiser.zero_grad(set_to_none=True)
    if not clips:
        return Found(None, math.nan, math.nan, 0, stops > 0)
    run.model.train()
    done = []
    for part in parts:
        last_part(run.model, recipe.fsdp, part is parts[-1])
        losses = _forward(run, part, batch.step)
        share = losses.loss(frames, clips) * (run.scale.value if part.counts else 0.0)
        # Sharded gradients come as means over the ranks; a sum is wanted.
        (share * ranks.size if recipe.fsdp else share).backward()
        if part.counts:
            done.append(losses)
    parameters = list(run.model.parameters())
    if not recipe.fsdp:
        ranks.add_gradients(parameters)
    if run.scale.value != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(run.scale.value)
    norm = norm_of(nn.utils.clip_grad_norm_(parameters, recipe.optimiser.max_grad_norm or math.inf))
    heard = merged(done) if done else None
    sums = ranks.total([float(heard.answers), float(heard.penalty)] if heard else [0.0, 0.0])
    return Found(heard, sums[0] / max(frames, 1) + sums[1] / clips, norm, int(clips), stops > 0)


def _parts(run: Run, batch: Batch) -> list[_Part]:
    """Return the micro-batches; where weights are sharded every rank has all of them, if need be of silence."""
    recipe, ranks = run.recipe, run.ranks
    draws_B = [(recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.items)]
    rate = run.model.encoder.card.sample_rate
    clean_BT = batch.samples_BT
    heard_BT = mixed(augmented(clean_BT, draws_B, recipe.augment, rate), draws_B, recipe.mixup, rate)
    settings = masks.at(recipe.masking, run.step / recipe.steps)
    width = run.model.encoder.settings.dim
    count = math.ceil(recipe.accumulation_steps / ranks.size)
    stored = {
        name: of_batch(store, run.targets[name], batch, run.stream, run.frames) for name, store in run.stores.items()
    }
    made = []
    for index, places in enumerate(torch.arange(len(draws_B)).tensor_split(count)):
        number = ranks.rank * count + index
        if len(places):
            view = masks.view([draws_B[place] for place in places], settings, run.frames, width)
            labels = {name: codes_BFQ[places.to(codes_BFQ.device)] for name, codes_BFQ in stored.items()}
            made.append(_Part(number, clean_BT[places], heard_BT[places], view, labels))
        elif recipe.fsdp:
            nothing = torch.zeros(1, run.frames, dtype=torch.bool)
            silence_BT = clean_BT.new_zeros(1, run.stream.crop)
            made.append(_Part(number, silence_BT, silence_BT, View(nothing, nothing), {}, counts=False))
    return made


def _asked(view: View, unmasked_weight: float) -> int:
    return int(view.asked_BF.sum()) if unmasked_weight == 0 else view.asked_BF.numel()


def _forward(run: Run, part: _Part, step: int) -> Losses:
    recipe, device = run.recipe, run.device
    torch.manual_seed(recipe.seed * SEED_STRIDE + step + part.number * PART_STRIDE)
    clean_BT = part.clean_BT.to(device, non_blocking=True)
    heard_BT = clean_BT if part.heard_BT is part.clean_BT else part.heard_BT.to(device, non_blocking=True)
    frames = run.model.encoder.frames(clean_BT.shape[1])
    labels = {
        name: part.stored[name] if name in part.stored else target.labels(clean_BT, frames)
        for name, target in run.targets.items()
    }
    with computing(recipe.precision, device):
        losses: Losses = run.model(heard_BT, part.view.to(device), labels, step)
    return losses
