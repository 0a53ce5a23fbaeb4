"""The training loop, to be read downwards.

Every draw of a step comes from its number, so a run that goes on from a checkpoint does bit for bit on a CPU what an
uninterrupted one does. A step whose gradient is not finite is skipped and counted. Ctrl-C (or SIGTERM) lets the step
end, writes a checkpoint, and only then interrupts.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from carrara.core.errors import DataError
from carrara.core.progress import progress
from carrara.nn.masking import span_mask
from carrara.pretrain.journal import Journal, Tally, effective_rank
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.recipes._base import OptimiserSettings, Recipe
from carrara.pretrain.schedule import learning_rate
from carrara.pretrain.stream import Batch, Stream
from carrara.pretrain.targets._base import Target

RANK_CROPS = 4


@dataclass
class Run:
    """One training in the making: what is trained, on what, where it stands."""

    folder: Path
    recipe: Recipe
    model: MaskedPrediction
    optimiser: torch.optim.Optimizer
    targets: dict[str, Target]
    stream: Stream
    journal: Journal
    device: torch.device
    step: int = 0
    seconds: float = 0.0


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


def train(run: Run, save: Callable[[Run], None]) -> None:
    """Take the steps that are left; `save` writes the checkpoint and whatever goes with it.

    Raises:
        KeyboardInterrupt: the run was asked to stop; its checkpoint is written.
        DataError: no file of the corpus can be read.
        StoreError: a checkpoint or the journal cannot be written.
    """
    recipe, tally, unheard = run.recipe, Tally(), 0
    with (
        torch.random.fork_rng(),
        interruptible() as interrupted,
        progress("pre-training", recipe.steps) as advance,
    ):
        advance(run.step)
        for batch in run.stream.batches(run.step, recipe.steps):
            loss = _step(run, batch, tally)
            unheard = 0 if batch.items else unheard + run.stream.batch
            if unheard >= len(run.stream.corpus.items):
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")
            run.step += 1
            advance(1, f"loss {loss:.3f}")
            due = interrupted.is_set() or run.step == recipe.steps or run.step % recipe.checkpoint_every == 0
            if due or run.step % recipe.journal_every == 0:
                _write(run, batch, tally)
                tally = Tally()
            if due:
                save(run)
            if interrupted.is_set():
                raise KeyboardInterrupt


def _step(run: Run, batch: Batch, tally: Tally) -> float:
    """Take one step and return its loss a masked frame, NaN where it was skipped."""
    recipe, model, device = run.recipe, run.model, run.device
    tally.steps += 1
    tally.missing += len(batch.bad)
    if not batch.items:
        tally.skipped += 1
        return math.nan
    torch.manual_seed(recipe.seed * 1_000_003 + batch.step)
    settings = recipe.optimiser
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(batch.step, recipe.steps, settings.learning_rate, settings.warmup, settings.power)
    samples_BT = batch.samples_BT.to(device, non_blocking=True)
    frames = model.encoder.frames(samples_BT.shape[1])
    labels = {name: target.labels(samples_BT, frames) for name, target in run.targets.items()}
    mask_BF = masks(batch, recipe, min(label.shape[1] for label in labels.values())).to(device)
    model.train()
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        losses = model(samples_BT, mask_BF, labels)
    run.optimiser.zero_grad(set_to_none=True)
    (losses.total / losses.frames).backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf))
    if not math.isfinite(norm):
        tally.skipped += 1
        return math.nan
    run.optimiser.step()
    tally.audio_seconds += samples_BT.numel() / model.encoder.card.sample_rate
    tally.add(losses, norm, settings.clip)
    return float(losses.total.detach()) / losses.frames


def masks(batch: Batch, recipe: Recipe, frames: int) -> torch.Tensor:
    """Return which frames of each crop the student does not see, bool `[batch, frames]`."""
    settings = recipe.masking
    return torch.stack(
        [
            span_mask(frames, settings.probability, settings.span, settings.minimum, recipe.seed, epoch, item)
            for epoch, item in zip(batch.epochs, batch.items)
        ]
    )


@torch.no_grad()
def _write(run: Run, batch: Batch, tally: Tally) -> None:
    took = time.monotonic() - tally.began
    run.seconds += took
    line: dict[str, float] = {"step": run.step, **tally.line()}
    if batch.items:
        encoder = run.model.encoder.eval()
        cnn_BFC = encoder.front(batch.samples_BT[:RANK_CROPS].to(run.device))
        line["rank/cnn"] = effective_rank(cnn_BFC)
        line["rank/last"] = effective_rank(encoder.rows(cnn_BFC)[-1])
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["audio_seconds_per_second"] = tally.audio_seconds / took
    line["seconds"] = run.seconds
    run.journal.write(line)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
