"""The training loop of masked prediction.

Every draw of a step depends on its number, so on a CPU a resumed run does bit for bit what an uninterrupted one does. A
step whose gradient is not finite or too large is skipped and logged; after several the run may roll back (recovery.py).
Ctrl-C or SIGTERM lets the step end, writes a checkpoint and then interrupts; a probe (probes.py) it interrupts at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from carrara.core.errors import DataError
from carrara.core.progress import progress
from carrara.pretrain.checkpoint import TRAINING, load_checkpoint, restore_checkpoint
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.gradient import StepResult, compute_gradient
from carrara.pretrain.metrics_log import ROLLED_BACK, SKIPPED, MetricAverager
from carrara.pretrain.monitors import measure
from carrara.pretrain.objective import Losses, merge_losses
from carrara.pretrain.optimiser import scheduled_rate
from carrara.pretrain.probes import run_probes
from carrara.pretrain.process import interruptible
from carrara.pretrain.state import Run


def train(run: Run, save: Callable[[Run], None]) -> None:
    """Take the remaining steps and probe between them.

    Args:
        run: the run.
        save: writes the checkpoint and the encoder.

    Raises:
        KeyboardInterrupt: the run was asked to stop; its checkpoint is written.
        DataError: no file of the corpus can be read, or the training fails again and again.
        StoreError: a checkpoint or the log cannot be written.
        CarraraError: another rank is gone.
    """
    recipe = run.recipe
    bar: Any = progress("pre-training", recipe.steps) if run.dist.is_main else nullcontext(lambda *note: None)
    with torch.random.fork_rng(), interruptible() as interrupted, bar as advance:
        advance(run.step)
        if recipe.recovery.max_consecutive_skips and run.step == 0:
            save(run)
        if run.probe_is_due and run_probes(run, interrupted):
            raise KeyboardInterrupt
        while run.step < recipe.steps:
            _train_until_rollback(run, save, interrupted, advance)


@dataclass
class _Averager(MetricAverager):
    """Means of metrics, and the sums of the losses of this rank (one element or none)."""

    losses: list[Losses] = field(default_factory=list)


def _train_until_rollback(
    run: Run, save: Callable[[Run], None], interrupted: threading.Event, advance: Callable[..., None]
) -> None:
    """Take steps to the end, or until a roll-back changes which batches follow."""
    recipe, averager, unread = run.recipe, _Averager(), 0
    first, end = run.step + run.batch_offset, recipe.steps + run.batch_offset
    for batch in run.stream.iter_batches(first, end, run.dist.rank, run.dist.world_size):
        result = _step(run, batch, averager, interrupted)
        unread = 0 if result.num_clips else unread + recipe.batch
        if unread >= len(run.stream.corpus.items):
            with run.dist.report_once():
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.errors[-1]}")
        run.step += 1
        advance(1, f"loss {result.loss:.3f}")
        if run.guard.should_roll_back:
            _roll_back(run, save)
            return
        stop = result.stop if run.dist.world_size > 1 else interrupted.is_set()
        averager = _log_and_save(run, save, batch, averager, stop)
        if not stop and run.probe_is_due:
            advance(0, "running probes")
            probes_started = time.monotonic()
            stop = run_probes(run, interrupted)
            averager.started += time.monotonic() - probes_started
            if stop:
                _log_and_save(run, save, batch, averager, stop)
        if stop:
            raise KeyboardInterrupt


def _step(run: Run, batch: CropBatch, averager: _Averager, interrupted: threading.Event) -> StepResult:
    """Take one step, or log why it is skipped."""
    settings = run.recipe.optimiser
    averager.steps += 1
    averager.missing += len(batch.errors)
    for group in run.optimiser.param_groups:
        group["lr"] = scheduled_rate(run.step, run.recipe.steps, settings)
    result = compute_gradient(run, batch, interrupted.is_set())
    if not result.num_clips:
        averager.skipped += 1
        return result
    reason = run.guard.skip_reason(result.loss, result.norm)
    if reason:
        averager.skipped += 1
        _skip(run, batch, reason, result)
        return result
    run.optimiser.step()
    for target in run.targets.values():
        target.update(run.step)
    run.scale.record_success()
    run.guard.record(result.loss, result.norm)
    clipped = bool(settings.max_grad_norm) and result.norm > settings.max_grad_norm
    averager.add({"gradient_norm": result.norm, "clipped_fraction": clipped})
    if result.losses:
        averager.audio_seconds += len(batch.item_indices) * run.stream.crop_samples / run.stream.corpus.sample_rate
        averager.losses = [merge_losses([*averager.losses, result.losses])]
    return result


def _skip(run: Run, batch: CropBatch, reason: str, result: StepResult) -> None:
    """Log a skipped step; in float16 an overflow is first of all the loss scale's, and does not count as a skip."""
    items = run.stream.corpus.items
    indices = sorted({index for share in run.dist.all_gather(batch.item_indices) for index in share})
    event: dict[str, Any] = {"step": run.step + 1, "event": SKIPPED, "why": reason, "batch": batch.step}
    event["files"] = [items[index].id for index in indices]
    overflow = not run.scale.fixed and math.isfinite(result.loss) and not math.isfinite(result.norm)
    if overflow:
        event["loss_scale"] = run.scale.value / 2
    run.log.write(event)
    if not overflow:
        run.guard.consecutive_skips += 1
        return
    with run.dist.report_once():
        run.scale.record_overflow()


def _roll_back(run: Run, save: Callable[[Run], None]) -> None:
    """Return to the last checkpoint and leave out every batch since; save that state for a later resume."""
    checkpoint = load_checkpoint(run.folder / TRAINING)
    if checkpoint is None:
        raise DataError(f"{run.folder / TRAINING}: has no checkpoint to roll back to; start anew in another folder")
    next_batch, from_step, seconds, rollbacks = run.step + run.batch_offset, run.step, run.seconds, run.guard.rollbacks
    restore_checkpoint(checkpoint, run.model, run.optimiser, run.ema_targets())
    run.load_state_dict(checkpoint.state)
    run.batch_offset, run.seconds, run.guard.rollbacks = next_batch - run.step, seconds, rollbacks
    with run.dist.report_once():
        run.guard.count_rollback()
    event = {"step": run.step, "event": ROLLED_BACK, "from": from_step, "skipped_batches": from_step - run.step}

    def rewind_log() -> None:
        run.log.write(event)
        run.log.rewind(run.step)

    run.dist.on_rank_zero(rewind_log)
    save(run)


def _log_and_save(
    run: Run, save: Callable[[Run], None], batch: CropBatch, averager: _Averager, stop: bool
) -> _Averager:
    """Write a log line and a checkpoint where they are due, and return the averager of the next line."""
    recipe = run.recipe
    last = stop or run.step == recipe.steps
    save_due = last or run.step % recipe.checkpoint_every == 0
    if averager.steps and (save_due or run.step % recipe.log_every == 0):
        _write_line(run, batch, averager)
        averager = _Averager()
    # In the middle of trouble the last good checkpoint is worth more than a new one.
    if save_due and (last or not (recipe.recovery.max_consecutive_skips and run.guard.consecutive_skips)):
        save(run)
    return averager


@torch.no_grad()
def _write_line(run: Run, batch: CropBatch, averager: _Averager) -> None:
    seconds = time.monotonic() - averager.started
    run.seconds += seconds
    missing, audio_seconds = run.dist.all_reduce_sum([averager.missing, averager.audio_seconds])
    averager.missing = int(missing)
    gathered = [part for parts in run.dist.all_gather([part.cpu() for part in averager.losses]) for part in parts]
    metrics = merge_losses(gathered).metrics() if gathered else {}
    line: dict[str, float] = {"step": run.step, **averager.means(), **metrics}
    if batch.item_indices or run.recipe.fsdp:
        crops_BT = batch.samples_BT if batch.item_indices else batch.samples_BT.new_zeros(1, run.stream.crop_samples)
        line |= measure(run.model, crops_BT.to(run.device))
    if not run.scale.fixed:
        line["loss_scale"] = run.scale.value
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_seconds_per_second"] = audio_seconds / seconds
    line["seconds"] = run.seconds
    run.dist.on_rank_zero(lambda: run.log.write(line))
    with run.dist.report_once():
        run.guard.check_collapse(line, run.step)
