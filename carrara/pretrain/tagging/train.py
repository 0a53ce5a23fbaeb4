"""Training a network to tell tags, to be read downwards; the folder is a tagger at every checkpoint.

MAEST's recipe (Alonso-Jiménez et al. 2023; encoders.md, sections 1.4 and 1.5): binary cross-entropy over all tags,
structured time patchout, mixup, masks, clips drawn for balance, a learning rate by epochs, an average of weights.
Every draw of a step comes from (seed, step) or (seed, epoch, clip), so a run that goes on does on a CPU bit for bit
what an uninterrupted one does.

The folder holds the encoder with the averaged weights (until there are any, with those of the last step), `unaveraged/`
with those of the last step, `labels.json`, `run.json`, `journal.jsonl` and `training/`. Journal keys: `loss`, and with
a teacher `loss/tags` and `loss/teacher` (means over the steps since the line before, nats a tag), `gradient_norm`,
`skipped`, `missing`, `epoch`, `learning_rate`, `loss_scale` (in float16), `audio_seconds_per_second`, `seconds`; after
every few epochs `valid/average_precision` and `valid/roc_auc` (macro, of middle crops), `averaged/…` for the average.

Letters: B batch, T samples, F frames, M mel bands, C tags.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from carrara.core.errors import DataError
from carrara.core.progress import progress
from carrara.pretrain.corpus.stream import Batch
from carrara.pretrain.loop import interruptible
from carrara.pretrain.metrics_log import SKIPPED
from carrara.pretrain.precision import computing
from carrara.pretrain.tagging.augment import masked, mixing
from carrara.pretrain.tagging.average import count_in, due
from carrara.pretrain.tagging.network import answers, heard, middle
from carrara.pretrain.tagging.schedule import learning_rate
from carrara.pretrain.tagging.state import Training
from carrara.pretrain.tagging.teacher import told
from carrara.pretrain.tagging.validate import validation

DRAW = 6  # tells this draw from the others of a run
SEED_STRIDE = 1_000_003


@dataclass
class _Sums:
    """What happened since the journal's last line."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    skipped: int = 0
    missing: int = 0
    clips: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, float]:
        taken = self.steps - self.skipped
        means = {name: part / taken for name, part in self.parts.items()} if taken else {}
        return {"steps": self.steps, "skipped": self.skipped, "missing": self.missing, **means}


def train(run: Training) -> None:
    """Take the steps that are left.

    Raises:
        KeyboardInterrupt: the run was asked to stop; its checkpoint is written.
        DataError: no file of the corpus can be read, or the loss scale of float16 came to nothing.
        StoreError: a checkpoint or the journal cannot be written.
    """
    recipe, sums, unheard = run.recipe, _Sums(), 0
    with torch.random.fork_rng(), interruptible() as interrupted, progress("training on tags", run.steps) as advance:
        advance(run.step)
        for batch in run.crops.batches(run.step, run.steps):
            loss = _step(run, batch, sums)
            unheard = 0 if batch.items else unheard + len(batch.bad)
            if unheard >= len(run.crops.corpus.items):
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")
            run.step += 1
            advance(1, f"loss {loss:.4f}")
            _after_epoch(run)
            stop, end = interrupted.is_set(), run.step == run.steps
            save = stop or end or run.step % recipe.checkpoint_every == 0
            score = end or _epochs_done(run, recipe.validate_every)
            if save or score or run.step % recipe.log_every == 0:
                _write(run, sums, score)
                sums = _Sums()
            if save:
                run.save()
            if stop:
                raise KeyboardInterrupt


def _epochs_done(run: Training, every: int) -> int:
    """Return how many epochs are done where the step ends one and their number is a multiple of `every`; else 0."""
    epochs, rest = divmod(run.step, run.crops.steps_per_epoch)
    return epochs if every and not rest and epochs % every == 0 else 0


def _after_epoch(run: Training) -> None:
    """Count the network into the average where it is time."""
    if due(_epochs_done(run, 1), run.recipe.averaging):
        count_in(run.average, run.encoder, run.averaged)
        run.averaged += 1


def _step(run: Training, batch: Batch, sums: _Sums) -> float:
    """Take one step and return its loss, NaN where it was skipped."""
    recipe, epoch = run.recipe, batch.step // run.crops.steps_per_epoch
    sums.steps += 1
    sums.missing += len(batch.bad)
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(epoch, recipe.optimiser)
    if not batch.items:
        sums.skipped += 1
        return math.nan
    losses = _losses(run, batch)
    loss = torch.stack(list(losses.values())).mean()
    run.optimiser.zero_grad(set_to_none=True)
    (loss * run.scale.value).backward()
    gradients = [parameter.grad for parameter in run.encoder.parameters() if parameter.grad is not None]
    for gradient in gradients if run.scale.value != 1.0 else ():
        gradient.div_(run.scale.value)
    norm = float(nn.utils.get_total_norm(gradients))
    if not math.isfinite(norm):
        sums.skipped += 1
        run.journal.write({"step": run.step + 1, "event": SKIPPED, "why": "the gradient is not finite"})
        run.scale.overflow()
        return math.nan
    run.optimiser.step()
    run.scale.clear()
    sums.clips += len(batch.items)
    found = {"loss": float(loss.detach()), "gradient_norm": norm}
    if len(losses) > 1:
        found |= {f"loss/{name}": float(part.detach()) for name, part in losses.items()}
    for name, part in found.items():
        sums.parts[name] = sums.parts.get(name, 0.0) + part
    return float(loss.detach())


def _losses(run: Training, batch: Batch) -> dict[str, Tensor]:
    """Return the cross-entropy against the tags, and where there is a teacher against its answers."""
    recipe, device = run.recipe, run.device
    draw = np.random.default_rng([recipe.seed, DRAW, batch.step])
    torch.manual_seed(recipe.seed * SEED_STRIDE + batch.step)
    samples_BT = batch.samples_BT.to(device, non_blocking=True)
    tags_BC = torch.from_numpy(run.crops.tagged.tags_NC[list(batch.items)]).float().to(device)
    mix = mixing(len(samples_BT), recipe.mixup, draw)
    mel_BFM = masked(mix(heard(run.encoder, samples_BT)), recipe.masks, draw, middle(run.encoder))
    run.encoder.train()
    with computing(run.precision, device):
        tags_logits_BC, teacher_logits_BC = answers(run.encoder, mel_BFM, recipe.patchout, draw)
    losses = {"tags": binary_cross_entropy_with_logits(tags_logits_BC.float(), mix(tags_BC))}
    if run.teacher is not None and teacher_logits_BC is not None:
        told_BC = told(run.teacher, samples_BT, recipe.teacher.threshold)
        losses["teacher"] = binary_cross_entropy_with_logits(teacher_logits_BC.float(), mix(told_BC))
    return losses


def _write(run: Training, sums: _Sums, score: bool | int) -> None:
    """Write a line of the journal, with scores where they are due."""
    took = time.monotonic() - sums.began
    run.seconds += took
    line: dict[str, float] = {"step": run.step, **sums.line(), "epoch": run.step / run.crops.steps_per_epoch}
    if score:
        networks = {"valid": run.encoder} | ({"averaged": run.average} if run.averaged else {})
        for name, network in networks.items():
            line |= {f"{name}/{key}": value for key, value in validation(network, run.middles, run.device).items()}
    if not run.scale.fixed:
        line["loss_scale"] = run.scale.value
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_seconds_per_second"] = sums.clips * run.recipe.crop_seconds / took
    line["seconds"] = run.seconds
    run.journal.write(line)
