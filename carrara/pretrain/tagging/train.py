"""Training a network on tags; the folder is a tagger at every checkpoint.

MAEST's recipe [alonso2023] [notes/encoders §1.4, §1.5]: binary cross-entropy over all tags, structured time patchout,
mixup, SpecAugment, balanced sampling, a learning rate by epoch, stochastic weight averaging. Every random draw of a
step comes from (seed, step) or (seed, epoch, clip), so on a CPU a resumed run equals an uninterrupted one bit for bit.

The folder holds the encoder with averaged weights (until there are any, with those of the last step), `last/` with
those of the last step, `labels.json`, `run.json`, `metrics.jsonl` and `training/`. Log keys: `loss`, and with a teacher
`loss/tags` and `loss/teacher` (nats per tag), `gradient_norm`, `skipped`, `missing`, `epoch`, `learning_rate`,
`loss_scale` (in float16), `audio_seconds_per_second`, `seconds`; after every few epochs `valid/average_precision` and
`valid/roc_auc` (macro averages over centre crops), and `swa/…` for the averaged weights.

Letters: B batch, T samples, F frames, M mel bands, N clips, C tags.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.io import write_text
from carrara.core.progress import progress
from carrara.encoders import REGISTRY as ENCODERS
from carrara.encoders._base import Card
from carrara.encoders._hub.load import save_pretrained
from carrara.encoders._maest.network import MaestEncoder
from carrara.metrics.ranking import average_precision, macro_mean, roc_auc
from carrara.pretrain.checkpoint import (
    TRAINING,
    collect_tensors,
    has_checkpoint,
    load_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.metrics_log import SKIPPED, MetricAverager, MetricsLog
from carrara.pretrain.optimiser import adamw
from carrara.pretrain.precision import LossScale, autocast
from carrara.pretrain.process import interruptible, one_thread_if_small
from carrara.pretrain.recipes._base import Precision
from carrara.pretrain.run_file import prepare_run_file
from carrara.pretrain.tagging.augment import draw_mixup, mask_spectrograms
from carrara.pretrain.tagging.card import tagging_card
from carrara.pretrain.tagging.data import (
    TAG_FILE,
    BalancedCrops,
    CenterCrops,
    build_tagged_corpus,
    check_same_tags,
    read_run_tags,
)
from carrara.pretrain.tagging.initialize import load_initial_weights
from carrara.pretrain.tagging.network import (
    MEAN_LOG_MEL,
    Tagger,
    build_tagger,
    input_mel,
    load_teacher,
    tag_logits,
    teacher_targets,
)
from carrara.pretrain.tagging.settings import SWASettings, TaggingOptimiserSettings, TaggingRecipe

LAST = "last"
STEP_DRAW = 6  # distinguishes the draws of a step from the others of a run
SEED_STRIDE = 1_000_003
MAX_SHORT_FRACTION = 0.1
# The first epoch counts as half an epoch, so that its learning rate is not almost 0.
FIRST_EPOCH, WARMUP_STEEPNESS = 0.5, 5.0


@dataclass
class TaggingRun:
    """A training on tags.

    Attributes:
        folder: of the encoder.
        recipe, encoder, optimiser: what is trained, and how.
        average: mean of the encoder's weights after `num_averaged` epochs.
        teacher: a tagger whose predictions are learnt too, or None.
        crops, valid_crops: for training and validation; the latter may have no clips.
        device: of the encoder.
        precision: of its matrix products.
        scale: of the loss, for float16.
        log: opened once the step is known.
        num_averaged: epochs in the average.
        step: steps taken.
        seconds: duration of the run so far.
    """

    folder: Path
    recipe: TaggingRecipe
    encoder: Tagger
    average: Tagger
    optimiser: torch.optim.Optimizer
    teacher: MaestEncoder | None
    crops: BalancedCrops
    valid_crops: CenterCrops
    device: torch.device
    precision: Precision
    scale: LossScale
    log: MetricsLog = field(init=False)
    num_averaged: int = 0
    step: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        all_epochs = self.recipe.epochs * self.crops.steps_per_epoch
        return min(all_epochs, self.recipe.steps or all_epochs)


def train_tagger(
    recipe: TaggingRecipe, corpus: Sequence[str | Path], folder: Path, resume: bool, device: torch.device
) -> Path:
    """Train a tagger and return its folder; arguments and errors as `build_tagging_run` and `train_on_tags`."""
    run = build_tagging_run(recipe, corpus, folder, resume, device)
    try:
        if run.step < run.steps:
            with one_thread_if_small(run.encoder.card.parameters, device):
                train_on_tags(run)
    finally:
        run.log.close()
    return folder


def build_tagging_run(
    recipe: TaggingRecipe, corpus: Sequence[str | Path], folder: Path, resume: bool, device: torch.device
) -> TaggingRun:
    """Return a run at its last checkpoint, or at its start; corpus, network and settings are checked first.

    Args:
        recipe: the resolved recipe.
        corpus: the name or folder of a dataset, or a folder with labels.csv.
        folder: of the encoder.
        resume: continue the run in the folder, or start it if there is none; a finished run is left as it is.
        device: to train on.

    Raises:
        UsageError: corpus, tags, patchout, initial weights or teacher do not fit the network.
        DataError: the corpus cannot be used.
        WeightsError: the initial weights are incomplete or of another kind.
        StoreError: the folder holds a run already, or one of another recipe or corpus, or cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("training on tags runs in one process; leave torchrun out, and raise batch on one large GPU")
    sample_rate = ENCODERS.get(recipe.encoder).variants[ENCODERS.get_entry(recipe.encoder).name][0].sample_rate
    train, valid = build_tagged_corpus(corpus, recipe.labels, sample_rate)
    crop_samples = round(recipe.crop_seconds * sample_rate)
    short = float((train.items.table["samples"].to_numpy() < int(recipe.crop_seconds * sample_rate)).mean())
    if short > MAX_SHORT_FRACTION:
        warnings.warn(
            f"{short:.0%} of the clips are shorter than a crop of {recipe.crop_seconds:g} s and are zero-padded; "
            "choose a recipe of shorter crops, or lower crop_seconds and network.frames",
            stacklevel=2,
        )
    encoder = build_tagger(recipe, train.tags, folder.resolve().name, train.dataset)
    teacher = load_teacher(recipe.teacher.weights, train.tags, device)
    former_tags = read_run_tags(folder)
    if former_tags:
        check_same_tags(train.tags, former_tags, f"the run in {folder}", "give its corpus, or another folder with -o")
    if not has_checkpoint(folder / TRAINING):
        # Before anything is written, so that a refused start leaves the folder free.
        load_initial_weights(encoder, recipe.initial)
    encoder.to(device)
    prepare_run_file(folder, recipe, train, resume)
    write_text(folder / TAG_FILE, json.dumps(train.tags, ensure_ascii=False, indent=0) + "\n")
    stride = encoder.mel.spectrum.framing.hop
    precision = "float32" if device.type == "cpu" else recipe.precision
    run = TaggingRun(
        folder=folder,
        recipe=recipe,
        encoder=encoder,
        average=copy.deepcopy(encoder),
        optimiser=adamw(encoder, recipe.optimiser),
        teacher=teacher,
        crops=BalancedCrops(train, crop_samples, stride, recipe.batch, recipe.seed, clips=recipe.epoch_clips),
        valid_crops=CenterCrops(valid, crop_samples, stride, recipe.batch, recipe.seed),
        device=device,
        precision=precision,
        scale=LossScale.of(precision, recipe.loss_scale),
    )
    checkpoint = load_checkpoint(folder / TRAINING)
    if checkpoint is not None:
        if checkpoint.warning:
            warnings.warn(checkpoint.warning, stacklevel=2)
        state = checkpoint.state
        run.step, run.seconds, run.num_averaged = state["step"], state["seconds"], state["num_averaged"]
        run.scale.value, run.scale.clean_steps = state["scale"]
        encoder.card = Card.model_validate(state["card"]).model_copy(update={"name": encoder.card.name})
        average = {"average": run.average} if run.num_averaged else {}
        restore_checkpoint(checkpoint, encoder, run.optimiser, average)
    run.log = MetricsLog(folder, run.step)
    return run


def train_on_tags(run: TaggingRun) -> None:
    """Take the remaining steps.

    Raises:
        KeyboardInterrupt: the run was interrupted; its checkpoint is written.
        DataError: no file of the corpus can be read, or the loss scale of float16 fell too low.
        StoreError: a checkpoint or the log cannot be written.
    """
    recipe, averager, unread = run.recipe, MetricAverager(), 0
    steps_per_epoch = run.crops.steps_per_epoch
    with torch.random.fork_rng(), interruptible() as interrupted, progress("training on tags", run.steps) as advance:
        advance(run.step)
        for batch in run.crops.iter_batches(run.step, run.steps):
            loss = _take_step(run, batch, averager)
            unread = 0 if batch.item_indices else unread + len(batch.errors)
            if unread >= len(run.crops.corpus.items):
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.errors[-1]}")
            run.step += 1
            advance(1, f"loss {loss:.4f}")
            epochs, rest = divmod(run.step, steps_per_epoch)
            if not rest and is_swa_epoch(epochs, recipe.swa):
                swa_update(run.average, run.encoder, run.num_averaged)
                run.num_averaged += 1
            stop, end = interrupted.is_set(), run.step == run.steps
            save = stop or end or run.step % recipe.checkpoint_every == 0
            score = end or bool(recipe.validate_every and not rest and epochs % recipe.validate_every == 0)
            if save or score or run.step % recipe.log_every == 0:
                _write_line(run, averager, score)
                averager = MetricAverager()
            if save:
                _save(run)
            if stop:
                raise KeyboardInterrupt


def _take_step(run: TaggingRun, batch: CropBatch, averager: MetricAverager) -> float:
    """Take one step and return its loss, NaN if it is skipped."""
    averager.steps += 1
    averager.missing += len(batch.errors)
    for group in run.optimiser.param_groups:
        group["lr"] = epoch_learning_rate(batch.step // run.crops.steps_per_epoch, run.recipe.optimiser)
    if not batch.item_indices:
        averager.skipped += 1
        return math.nan
    losses = tagging_losses(run, batch)
    loss = torch.stack(list(losses.values())).mean()
    run.optimiser.zero_grad(set_to_none=True)
    (loss * run.scale.value).backward()
    gradients = [parameter.grad for parameter in run.encoder.parameters() if parameter.grad is not None]
    for gradient in gradients if run.scale.value != 1.0 else ():
        gradient.div_(run.scale.value)
    norm = float(nn.utils.get_total_norm(gradients))
    if not math.isfinite(norm):
        averager.skipped += 1
        run.log.write({"step": run.step + 1, "event": SKIPPED, "why": "the gradient is not finite"})
        run.scale.record_overflow()
        return math.nan
    run.optimiser.step()
    run.scale.record_success()
    averager.audio_seconds += len(batch.item_indices) * run.recipe.crop_seconds
    metrics = {"loss": float(loss.detach()), "gradient_norm": norm}
    if len(losses) > 1:
        metrics |= {f"loss/{name}": float(part.detach()) for name, part in losses.items()}
    averager.add(metrics)
    return metrics["loss"]


def tagging_losses(run: TaggingRun, batch: CropBatch) -> dict[str, Tensor]:
    """Return the cross-entropy of the tags, and with a teacher that of its predictions, of a training step."""
    recipe, device = run.recipe, run.device
    rng = np.random.default_rng([recipe.seed, STEP_DRAW, batch.step])
    torch.manual_seed(recipe.seed * SEED_STRIDE + batch.step)
    samples_BT = batch.samples_BT.to(device, non_blocking=True)
    tags_BC = torch.from_numpy(run.crops.corpus.tags_NC[list(batch.item_indices)]).float().to(device)
    mixup = draw_mixup(len(samples_BT), recipe.mixup, rng)
    mel_BFM = mixup(input_mel(run.encoder, samples_BT))
    mean = 0.0 if isinstance(run.encoder, MaestEncoder) else MEAN_LOG_MEL
    mel_BFM = mask_spectrograms(mel_BFM, recipe.spec_augment, rng, mean)
    run.encoder.train()
    with autocast(run.precision, device):
        tag_logits_BC, teacher_logits_BC = tag_logits(run.encoder, mel_BFM, recipe.patchout, rng)
    losses = {"tags": binary_cross_entropy_with_logits(tag_logits_BC.float(), mixup(tags_BC))}
    if run.teacher is not None and teacher_logits_BC is not None:
        # The teacher gets each crop before mixup and masks.
        targets_BC = mixup(teacher_targets(run.teacher, samples_BT))
        losses["teacher"] = binary_cross_entropy_with_logits(teacher_logits_BC.float(), targets_BC)
    return losses


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
            mean.lerp_(value, 1 / (count + 1))
        else:
            mean.copy_(value)


@torch.no_grad()
def validate(encoder: Tagger, crops: CenterCrops, device: torch.device) -> dict[str, float]:
    """Return macro `average_precision` and `roc_auc` of a network on the readable clips, without patchout or masks.

    A tag counts if some clips have it and some do not; the result is empty if there are no such tags or no clips.
    """
    encoder.eval()
    items: list[int] = []
    outputs = []
    for batch in crops.iter_batches(0, crops.steps):
        if batch.item_indices:
            items += batch.item_indices
            outputs.append(
                tag_logits(encoder, input_mel(encoder, batch.samples_BT.to(device)))[0].float().cpu().numpy()
            )
    if not outputs:
        return {}
    tags_NC, logits_NC = crops.corpus.tags_NC[items], np.concatenate(outputs)
    scores = {
        "average_precision": float(macro_mean(average_precision(tags_NC, logits_NC))[0]),
        "roc_auc": float(macro_mean(roc_auc(tags_NC, logits_NC))[0]),
    }
    return {} if math.isnan(scores["roc_auc"]) else scores


def _write_line(run: TaggingRun, averager: MetricAverager, score: bool) -> None:
    seconds = time.monotonic() - averager.started
    run.seconds += seconds
    line: dict[str, float] = {"step": run.step, **averager.means(), "epoch": run.step / run.crops.steps_per_epoch}
    if score:
        networks = {"valid": run.encoder} | ({"swa": run.average} if run.num_averaged else {})
        for name, network in networks.items():
            scores = validate(network, run.valid_crops, run.device)
            line |= {f"{name}/{metric}": value for metric, value in scores.items()}
    if not run.scale.fixed:
        line["loss_scale"] = run.scale.value
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_seconds_per_second"] = averager.audio_seconds / seconds
    line["seconds"] = run.seconds
    run.log.write(line)


def _save(run: TaggingRun) -> None:
    """Write a checkpoint and the encoder as it is now."""
    state = {
        "step": run.step,
        "seconds": run.seconds,
        "num_averaged": run.num_averaged,
        "scale": [run.scale.value, run.scale.clean_steps],
        "card": run.encoder.card.model_dump(mode="json"),
    }
    run.average.card = run.encoder.card
    average = {"average": run.average} if run.num_averaged else {}
    write_checkpoint(run.folder / TRAINING, collect_tensors(run.encoder, run.optimiser, average), state)
    readme = tagging_card(run.folder, run.recipe, run.encoder.card, run.crops.corpus, run.step, run.num_averaged)
    try:
        save_pretrained(run.average if run.num_averaged else run.encoder, run.folder, readme)
        if run.num_averaged:
            save_pretrained(run.encoder, run.folder / LAST, readme)
    except StoreError as problem:
        raise StoreError(f"{problem}; make room and resume") from None
