"""The training loop, the same for every objective: batch, forward, loss, backward, clip, step, log, probe, checkpoint.

Every draw of a step depends on its number, so on a CPU a resumed run does bit for bit what an uninterrupted one does. A
step whose gradient is not finite or too large is skipped and logged; after several the run may roll back (recovery.py).
Ctrl-C or SIGTERM lets the step end, writes a checkpoint and then interrupts; a probe (probes.py) it interrupts at once.

A batch is divided over the ranks and then into micro-batches. Dropout is drawn for each micro-batch from (seed, step,
its number in the whole batch): one process with two micro-batches does what two processes with one each do.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from carrara.core.errors import CarraraError, DataError, StoreError
from carrara.core.progress import progress
from carrara.pretrain.checkpoint import (
    TRAINING,
    collect_tensors,
    load_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)
from carrara.pretrain.corpus.stream import CropBatch
from carrara.pretrain.distributed import full_tensor, gradient_sync
from carrara.pretrain.gpus import device_peak_flops
from carrara.pretrain.metrics_log import ROLLED_BACK, SKIPPED, MetricAverager
from carrara.pretrain.objectives._base import MICRO_BATCH_STRIDE, SEED_STRIDE
from carrara.pretrain.objectives._losses import CLIPS, merge_sums
from carrara.pretrain.probes import run_probes
from carrara.pretrain.process import interruptible
from carrara.pretrain.state import Run
from carrara.pretrain.step_cost import FlopCounter


def train(run: Run) -> None:
    """Take the remaining steps and probe between them.

    Raises:
        KeyboardInterrupt: a signal requested the end; its checkpoint is written.
        DataError: no file of the corpus can be read, or the training fails again and again.
        StoreError: a checkpoint or the log cannot be written.
        CarraraError: another rank is gone.
    """
    bar: Any = progress("training", run.objective.steps) if run.dist.is_main else nullcontext(lambda *note: None)
    with torch.random.fork_rng(), interruptible() as interrupted, bar as advance:
        advance(run.step)
        if run.recipe.recovery.max_consecutive_skips and run.step == 0:
            save(run)
        if run.is_probe_due and run_probes(run, interrupted):
            raise KeyboardInterrupt
        while run.step < run.objective.steps:
            _train_until_rollback(run, interrupted, advance)


def _train_until_rollback(run: Run, interrupted: threading.Event, advance: Callable[..., None]) -> None:
    """Take steps to the end, or until a roll-back changes which batches follow."""
    averager, unread = MetricAverager(), 0
    batches = run.objective.iter_batches(run.step + run.batch_offset, run.objective.steps + run.batch_offset)
    while run.step < run.objective.steps:
        waited_since = time.monotonic()
        batch = next(batches)
        averager.waiting += time.monotonic() - waited_since
        result = _take_step(run, batch, averager, interrupted.is_set())
        unread = 0 if result.num_clips else unread + run.recipe.batch
        if unread >= len(run.objective.corpus.items):
            _report_unreadable(run, batch)
        run.step += 1
        advance(1, f"loss {result.loss:.3f}")
        if run.guard.should_roll_back:
            _roll_back(run)
            return
        stop = result.stop if run.dist.world_size > 1 else interrupted.is_set()
        averager = _log_and_save(run, batch, averager, stop)
        if not stop and run.is_probe_due:
            advance(0, "running probes")
            probes_started = time.monotonic()
            stop = run_probes(run, interrupted)
            averager.started += time.monotonic() - probes_started
            if stop:
                _log_and_save(run, batch, averager, stop)
            elif run.step == run.objective.steps:
                save_trained(run)  # with the last scores in its card
        if stop:
            raise KeyboardInterrupt


def _take_step(run: Run, batch: CropBatch, averager: MetricAverager, stop: bool) -> StepResult:
    """Take one step, or log why it is skipped."""
    objective = run.objective
    averager.steps += 1
    averager.missing += len(batch.errors)
    for group in run.optimiser.param_groups:
        group["lr"] = objective.learning_rate(run.step) * group["rate_factor"]
    try:
        result = compute_gradient(run, batch, stop)
    except RuntimeError as problem:
        if not is_out_of_memory(problem):
            raise
        result = None
    if result is None:  # outside the handler, which keeps the activations alive
        _report_out_of_memory(run, batch)
    reason = run.guard.skip_reason(result.loss, result.norm) if result.num_clips else "no crop"
    if reason:
        averager.skipped += 1
        if result.num_clips:
            _log_skip(run, batch, reason, result)
        objective.after_step(run.step, is_taken=False)
        return result
    run.optimiser.step()
    objective.after_step(run.step, is_taken=True)
    run.scale.record_success()
    run.guard.record(result.loss, result.norm)
    max_norm = run.recipe.optimiser.max_grad_norm
    averager.add({"gradient_norm": result.norm, "clipped_fraction": bool(max_norm) and result.norm > max_norm})
    averager.audio_seconds += len(batch.item_indices) * run.recipe.crop_seconds
    averager.totals = merge_sums([averager.totals, result.sums])
    return result


@dataclass(frozen=True)
class StepResult:
    """The result of a step's forward and backward pass; the gradients are those of the parameters.

    Attributes:
        sums: sums and counts over this rank's crops.
        loss: loss of the whole batch.
        norm: norm of the whole gradient before clipping.
        num_clips: crops of the whole batch; 0 where the step cannot be taken.
        stop: whether some rank is to stop.
    """

    sums: Mapping[str, Tensor]
    loss: float
    norm: float
    num_clips: int
    stop: bool


def compute_gradient(run: Run, batch: CropBatch, stop: bool = False) -> StepResult:
    """Leave the clipped gradient of a step in the parameters, the same on every rank.

    Args:
        run: the run.
        batch: this rank's share of the step's crops.
        stop: whether this rank is to stop; the ranks agree on it here.

    Raises:
        CarraraError: another rank is gone.
    """
    dist, recipe, network = run.dist, run.recipe, run.network
    micro_batches = run.objective.micro_batches(batch)
    names = sorted(micro_batches[0].divisors) if micro_batches else [CLIPS]
    counts = {name: sum(micro_batch.divisors[name] for micro_batch in micro_batches) for name in names}
    *sums, stops = dist.all_reduce_sum([*counts.values(), stop])
    divisors = dict(zip(names, sums))
    run.optimiser.zero_grad(set_to_none=True)
    if not divisors[CLIPS]:
        return StepResult({}, math.nan, math.nan, 0, stops > 0)
    network.train()
    parts, own_loss = [], torch.zeros((), device=dist.device)
    for micro_batch in micro_batches:
        torch.manual_seed(recipe.seed * SEED_STRIDE + batch.step + micro_batch.index * MICRO_BATCH_STRIDE)
        with dist.report_lost_rank(), gradient_sync(network, micro_batch is micro_batches[-1]):
            is_counted = not run.flops_per_crop and not micro_batch.is_padding
            with FlopCounter(True) if is_counted else nullcontext() as forward:
                losses = run.objective.losses(network, micro_batch, batch.step)
                # Gradients are averaged over the ranks; the sum is needed.
                loss = losses.loss(divisors)
            with FlopCounter(False) if is_counted else nullcontext() as backward:
                (loss * (0.0 if micro_batch.is_padding else run.scale.value * dist.world_size)).backward()
            if forward and backward:
                run.flops_per_crop = (forward.flops + backward.flops) / micro_batch.divisors[CLIPS]
        if not micro_batch.is_padding:
            parts.append(losses)
            own_loss += loss.detach()
    parameters = list(run.objective.module.parameters())
    if run.scale.value != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(run.scale.value)
    norm = full_tensor(nn.utils.clip_grad_norm_(parameters, recipe.optimiser.max_grad_norm or math.inf))
    (loss_value,) = dist.all_reduce_sum([float(own_loss)])
    totals = merge_sums([part.all_sums() for part in parts])
    if parts:
        totals |= {name: torch.tensor(float(count), dtype=torch.float64) for name, count in counts.items()}
    return StepResult(totals, loss_value, float(norm), int(divisors[CLIPS]), stops > 0)


def is_out_of_memory(problem: RuntimeError) -> bool:
    """Return whether a device has no memory left; PyTorch has a class of error for GPUs only."""
    text = str(problem)
    return isinstance(problem, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate" in text


def _report_out_of_memory(run: Run, batch: CropBatch) -> NoReturn:
    """Save the run as it was before the step, and raise an error that names the cure."""
    recipe, steps = run.recipe, run.recipe.num_micro_batches(run.dist.world_size)
    run.optimiser.zero_grad(set_to_none=True)
    if run.dist.world_size == 1:  # else the other ranks wait for a gradient, and the last checkpoint remains
        save(run)
    if steps < recipe.batch:
        cure = f"continue with --resume --set accumulation_steps={min(2 * steps, recipe.batch)}"
    elif not recipe.activation_checkpointing:
        cure = "one crop is too much; start anew with --set activation_checkpointing=true"
    else:
        cure = f"one crop is too much; start anew with --set crop_seconds={recipe.crop_seconds / 2:g}"
    raise CarraraError(
        f"step {run.step + 1}: {run.dist.device} has no memory left for {math.ceil(recipe.batch / steps)} crops at a "
        f"time; {cure}"
    )


def _log_skip(run: Run, batch: CropBatch, reason: str, result: StepResult) -> None:
    """Log a skipped step; in float16 an overflow is first of all the loss scale's, and does not count as a skip."""
    items = run.objective.corpus.items
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


def _report_unreadable(run: Run, batch: CropBatch) -> None:
    errors = [error for share in run.dist.all_gather(batch.errors) for error in share]
    with run.dist.report_once():
        raise DataError(f"no file of the corpus can be read, the last for this reason: {(errors or ['too few'])[-1]}")


def _roll_back(run: Run) -> None:
    """Return to the last checkpoint and leave out every batch since; save that state for a later resume."""
    checkpoint = load_checkpoint(run.folder / TRAINING)
    if checkpoint is None:
        raise DataError(f"{run.folder / TRAINING}: has no checkpoint to roll back to; choose another folder with -o")
    next_batch, from_step, seconds, rollbacks = run.step + run.batch_offset, run.step, run.seconds, run.guard.rollbacks
    run.load_state_dict(checkpoint.state)
    restore_checkpoint(checkpoint, run.objective.module, run.optimiser, run.objective.ema_modules())
    run.batch_offset, run.seconds, run.guard.rollbacks = next_batch - run.step, seconds, rollbacks
    with run.dist.report_once():
        run.guard.count_rollback(run.recipe.optimiser.learning_rate)
    event = {"step": run.step, "event": ROLLED_BACK, "from": from_step, "skipped_batches": from_step - run.step}

    def rewind_log() -> None:
        run.log.write(event)
        run.log.rewind(run.step)

    run.dist.on_rank_zero(rewind_log)
    save(run)


def _log_and_save(run: Run, batch: CropBatch, averager: MetricAverager, stop: bool) -> MetricAverager:
    """Write a log line and a checkpoint where they are due, and return the averager of the next line."""
    recipe = run.recipe
    last = stop or run.step == run.objective.steps
    is_save_due = last or run.step % recipe.checkpoint_every == 0
    is_validation_due = run.objective.is_validation_due(run.step)
    if averager.steps and (is_save_due or is_validation_due or run.step % recipe.log_every == 0):
        _write_line(run, batch, averager, is_validation_due)
        averager = MetricAverager()
    # In the middle of trouble the last good checkpoint is worth more than a new one.
    if is_save_due and (last or not (recipe.recovery.max_consecutive_skips and run.guard.consecutive_skips)):
        save(run)
    return averager


@torch.no_grad()
def _write_line(run: Run, batch: CropBatch, averager: MetricAverager, is_validation_due: bool) -> None:
    recipe, seconds = run.recipe, time.monotonic() - averager.started
    run.seconds += seconds
    missing, audio_seconds = run.dist.all_reduce_sum([averager.missing, averager.audio_seconds])
    averager.missing = int(missing)
    totals = merge_sums(run.dist.all_gather({name: value.cpu() for name, value in averager.totals.items()}))
    line: dict[str, float] = {"step": run.step, **averager.means(), **run.objective.metrics(totals)}
    line |= run.objective.measure(batch, run.step)
    if is_validation_due:
        line |= run.objective.validate()
    if not run.scale.fixed:
        line["loss_scale"] = run.scale.value
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_hours_per_hour"] = audio_seconds / seconds
    line["flops_per_second"] = run.flops_per_crop * audio_seconds / recipe.crop_seconds / seconds
    peak = device_peak_flops(run.dist.device, recipe.precision)
    if peak:
        line["mfu"] = line["flops_per_second"] / (peak * run.dist.world_size)
    line["data_wait_fraction"] = averager.waiting / seconds
    line["eta_seconds"] = (run.objective.steps - run.step) * seconds / averager.steps
    line["seconds"] = run.seconds
    run.dist.on_rank_zero(lambda: run.log.write(line))
    with run.dist.report_once():
        run.guard.check_collapse(line, run.step, recipe.optimiser.learning_rate)


def save(run: Run) -> None:
    """Write a checkpoint, and what is trained as it is now.

    Raises:
        StoreError: they cannot be written; the former ones stay.
    """
    tensors = collect_tensors(run.objective.module, run.optimiser, run.objective.ema_modules())
    run.dist.on_rank_zero(lambda: write_checkpoint(run.folder / TRAINING, tensors, run.state_dict()))
    save_trained(run, tensors)


def save_trained(run: Run, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write what is trained as it is now, with its card.

    Args:
        run: the run.
        tensors: of a checkpoint, if they are collected already.

    Raises:
        StoreError: it cannot be written; the former one stays.
    """
    whole = tensors or collect_tensors(run.objective.module, run.optimiser, run.objective.ema_modules())

    def write() -> None:
        try:
            run.objective.save(run.folder, whole, run.step, run.seconds)
        except StoreError as problem:
            raise StoreError(f"{problem}; make room and go on with --resume") from None

    run.dist.on_rank_zero(write)
