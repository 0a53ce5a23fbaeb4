"""The training loop, to be read downwards.

Every draw of a step comes from its number, so a run that goes on from a checkpoint does bit for bit on a CPU what an
uninterrupted one does. A step whose gradient is not finite, or too large by the recipe's lights, is skipped and put
down in the journal; after several the run may go back (see recovery.py). Ctrl-C (or SIGTERM) lets the step end, writes
a checkpoint, and only then interrupts; a probe (see probes.py) it ends at once.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from carrara.core.errors import DataError
from carrara.core.progress import progress
from carrara.pretrain import checkpoint, monitors, probes
from carrara.pretrain.corpus.stream import Batch
from carrara.pretrain.gradient import Found, gradient
from carrara.pretrain.lr_schedule import learning_rate, tri_stage
from carrara.pretrain.metrics_log import ROLLED_BACK, SKIPPED, Tally, together
from carrara.pretrain.recipes._base import OptimiserSettings
from carrara.pretrain.state import Run

TRAINING = "training"
SAME_SECONDS = 1.0


def adamw(model: nn.Module, settings: OptimiserSettings) -> torch.optim.AdamW:
    """Return AdamW with its decay on every parameter, biases and norms too, as fairseq's Adam has it."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def rate(step: int, steps: int, settings: OptimiserSettings) -> float:
    """Return the learning rate of a step."""
    if settings.hold_fraction is not None:
        return tri_stage(step, steps, settings.learning_rate, settings.warmup_fraction, settings.hold_fraction)
    return learning_rate(step, steps, settings.learning_rate, settings.warmup_fraction, settings.poly_power)


def train(run: Run, save: Callable[[Run], None]) -> None:
    """Take the steps that are left, and probe between them; `save` writes the checkpoint and whatever goes with it.

    Raises:
        KeyboardInterrupt: the run was asked to stop; its checkpoint is written.
        DataError: no file of the corpus can be read, or the training fails again and again.
        StoreError: a checkpoint or the journal cannot be written.
        CarraraError: another rank is gone.
    """
    recipe = run.recipe
    bar: Any = progress("pre-training", recipe.steps) if run.ranks.first else nullcontext(lambda *note: None)
    with torch.random.fork_rng(), interruptible() as interrupted, bar as advance:
        advance(run.step)
        if recipe.recovery.max_consecutive_skips and run.step == 0:
            save(run)
        if run.probes.due(run.step, recipe.steps) and probes.look(run, interrupted):
            raise KeyboardInterrupt
        while run.step < recipe.steps:
            _stretch(run, save, interrupted, advance)


def _stretch(run: Run, save: Callable[[Run], None], interrupted: threading.Event, advance: Callable[..., None]) -> None:
    """Take steps to the end, or until the run went back and has to hear other batches."""
    recipe, tally, unheard = run.recipe, Tally(), 0
    first, end = run.step + run.left_out, recipe.steps + run.left_out
    for batch in run.stream.batches(first, end, run.ranks.rank, run.ranks.size):
        found = _step(run, batch, tally, interrupted)
        unheard = 0 if found.clips else unheard + recipe.batch
        if unheard >= len(run.stream.corpus.items):
            with run.ranks.alike():
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")
        run.step += 1
        advance(1, f"loss {found.loss:.3f}")
        if run.watch.hopeless:
            _go_back(run, save)
            return
        stop = found.stop if run.ranks.size > 1 else interrupted.is_set()
        tally = _put_down(run, save, batch, tally, stop)
        if not stop and run.probes.due(run.step, recipe.steps):
            advance(0, "asking the probes")
            began = time.monotonic()
            stop = probes.look(run, interrupted)
            tally.began += time.monotonic() - began
            if stop:
                _put_down(run, save, batch, tally, stop)
        if stop:
            raise KeyboardInterrupt


def _put_down(run: Run, save: Callable[[Run], None], batch: Batch, tally: Tally, stop: bool) -> Tally:
    """Write the journal and the checkpoint where it is time for them; return what the next line will average."""
    recipe = run.recipe
    last = stop or run.step == recipe.steps
    due = last or run.step % recipe.checkpoint_every == 0
    if tally.steps and (due or run.step % recipe.log_every == 0):
        _write(run, batch, tally)
        tally = Tally()
    # In the middle of trouble the last good checkpoint is worth more than a new one.
    if due and (last or not (recipe.recovery.max_consecutive_skips and run.watch.trouble)):
        save(run)
    return tally


def _step(run: Run, batch: Batch, tally: Tally, interrupted: threading.Event) -> Found:
    """Take one step, or put down why it was not taken."""
    settings = run.recipe.optimiser
    tally.steps += 1
    tally.missing += len(batch.bad)
    for group in run.optimiser.param_groups:
        group["lr"] = rate(run.step, run.recipe.steps, settings)
    found = gradient(run, batch, interrupted.is_set())
    if not found.clips:
        tally.skipped += 1
        return found
    trouble = run.watch.judge(found.loss, found.norm)
    if trouble:
        tally.skipped += 1
        _skip(run, batch, trouble, found)
        return found
    run.optimiser.step()
    for target in run.targets.values():
        target.update(run.step)
    run.scale.clear()
    run.watch.taken(found.loss, found.norm)
    tally.took(found.norm, settings.max_grad_norm)
    if found.losses:
        tally.audio_seconds += len(batch.items) * run.stream.crop / run.stream.corpus.sample_rate
        tally.add(found.losses)
    return found


def _skip(run: Run, batch: Batch, trouble: str, found: Found) -> None:
    """Leave a step untaken; in float16 an overflow is first of all the loss scale's fault, and no trouble."""
    event: dict[str, Any] = {"step": run.step + 1, "event": SKIPPED, "why": trouble, "batch": batch.step}
    items = run.stream.corpus.items
    heard = sorted({item for share in run.ranks.gather(batch.items) for item in share})
    event["files"] = [items[item].id for item in heard]
    overflow = not run.scale.fixed and math.isfinite(found.loss) and not math.isfinite(found.norm)
    if overflow:
        event["loss_scale"] = run.scale.value / 2
    run.journal.write(event)
    if not overflow:
        run.watch.skipped()
        return
    with run.ranks.alike():
        run.scale.overflow()


def _go_back(run: Run, save: Callable[[Run], None]) -> None:
    """Return to the last good checkpoint, and leave out every batch heard since; save it so, for a later resume."""
    found = checkpoint.load(run.folder / TRAINING)
    if found is None:
        raise DataError(f"{run.folder / TRAINING}: there is no checkpoint to go back to; start anew in another folder")
    heard, reached, seconds, rollbacks = run.step + run.left_out, run.step, run.seconds, run.watch.rollbacks
    checkpoint.restore(found, run.model, run.optimiser, run.moving())
    run.recall(found.state)
    run.left_out, run.seconds, run.watch.rollbacks = heard - run.step, seconds, rollbacks
    with run.ranks.alike():
        run.watch.gone_back(f"{run.recipe.recovery.max_consecutive_skips} steps skipped one after another")
    run.ranks.lead(
        lambda: run.journal.write(
            {"step": run.step, "event": ROLLED_BACK, "from": reached, "left_out": reached - run.step}
        )
    )
    run.ranks.lead(lambda: run.journal.go_back(run.step))
    save(run)


@torch.no_grad()
def _write(run: Run, batch: Batch, tally: Tally) -> None:
    took = time.monotonic() - tally.began
    run.seconds += took
    tally = together(run.ranks.gather(tally.on_cpu()))
    line: dict[str, float] = {"step": run.step, **tally.line()}
    if batch.items or run.recipe.fsdp:
        heard_BT = batch.samples_BT if batch.items else batch.samples_BT.new_zeros(1, run.stream.crop)
        line |= monitors.look(run.model, heard_BT.to(run.device))
    if not run.scale.fixed:
        line["loss_scale"] = run.scale.value
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_seconds_per_second"] = tally.audio_seconds / took
    line["seconds"] = run.seconds
    run.ranks.lead(lambda: run.journal.write(line))
    with run.ranks.alike():
        run.watch.collapse(line, run.step)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second one, a second later, interrupts at once.

    torchrun passes on a Ctrl-C that the terminal has sent to every process already: that is the same one.
    """
    event, asked = threading.Event(), math.inf
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if time.monotonic() > asked + SAME_SECONDS:
            raise KeyboardInterrupt
        asked = min(asked, time.monotonic())
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
