"""The loop of fine-tuning: steps, the monitored score after each epoch, the best epoch kept, a file to resume from.

AdamW; the learning rates rise over the first steps and halve on a plateau of the monitored score; gradients are clipped
to norm 1. On a GPU with bfloat16 the encoder runs under autocast; what is trained on its features and the loss are
float32 everywhere. Every draw depends on the seed and the number of its step, so on a CPU a run that resumes after its
last complete epoch equals an uninterrupted one, bit for bit.

Letters: B windows of a batch, R rows of logits, K outputs, H hidden units, F frames.
"""

from __future__ import annotations

import math
import os
import pickle
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from carrara.bench.finetune.model import FineTunedEncoder, Loss
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.rng import dropout_generator
from carrara.core.errors import DataError, StoreError
from carrara.core.io import atomic_write, hold_folder
from carrara.core.progress import progress

MAX_GRAD_NORM = 1.0
CHECKPOINT = "last.pt"


M = TypeVar("M", bound=FineTunedEncoder)


@dataclass(frozen=True)
class FineTuneProblem(Generic[M]):
    """What a model learns.

    Attributes:
        name: of the task.
        batches: epoch → its batches, with `first` and `last`: whether they open and close a step.
        steps: of an epoch.
        loss: what the model's `batch_loss` takes; of a probe (logits [1, R, K], targets [R, …]) → [1].
        monitor: model in evaluation mode → the monitored score and the rule that combines a clip's windows.
    """

    name: str
    batches: Callable[[int], Iterable[Any]]
    steps: int
    loss: Loss
    monitor: Callable[[M], tuple[float, str]]


@dataclass
class FineTuneState(Generic[M]):
    """One training: the model, its optimiser, its history, and its best epoch.

    Attributes:
        folder: of the file to resume from.
        best: the trainable state at the best epoch, on the CPU; empty before one.
        rule: the best rule for a clip's windows at the best epoch.
    """

    model: M
    optimizer: torch.optim.Optimizer
    history: ProbeHistory
    settings: FineTuneSettings
    seed: int
    device: str
    folder: Path
    best: dict[str, Tensor] = field(default_factory=dict)
    rule: str = ""

    @property
    def checkpoint(self) -> Path:
        """Return the file to resume from."""
        return self.folder / CHECKPOINT


def start_or_resume(
    model: M, history: ProbeHistory, settings: FineTuneSettings, seed: int, device: str, folder: Path
) -> FineTuneState[M]:
    """Return a training at its start, or after the last complete epoch whose checkpoint is in the folder.

    Raises:
        StoreError: the checkpoint is damaged or of another network, or its folder cannot be created.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(model.param_groups(settings))
    state = FineTuneState(model, optimizer, history, settings, seed, device, folder)
    handle = hold_folder(folder)  # `carrara cache clean` keeps it as long as the training exists
    if handle is not None:
        weakref.finalize(state, os.close, handle)
    path = state.checkpoint
    if not path.exists():
        return state
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if saved["model"].keys() != model.trainable_state().keys():
            raise ValueError("it is of another network")
        model.load_state_dict(saved["model"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])
        state.history = ProbeHistory(**saved["history"] | {"plateau": Plateau(**saved["history"]["plateau"])})
        state.best, state.rule = saved["best"], saved["rule"]
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as problem:
        reason = str(problem).partition("\n")[0]
        raise StoreError(f"{path}: cannot be resumed from ({reason}); remove it to start anew") from None
    return state


def fine_tune(state: FineTuneState[M], problem: FineTuneProblem[M]) -> None:
    """Train until the history has stopped; the caller removes the checkpoint once the record is written.

    Raises:
        DataError: the loss is not finite, or no epoch reached a finite score.
        StoreError: the checkpoint cannot be written.
    """
    history = state.history
    with torch.random.fork_rng(), progress(f"fine-tuning on {problem.name}", history.max_epochs) as advance:
        advance(len(history.scores))
        while not history.stopped:
            loss = _train_epoch(state, problem, len(history.scores))
            score, rule = problem.monitor(state.model.eval())
            if history.update(loss, score):
                best = state.model.trainable_state()
                state.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in best.items()}
                state.rule = rule
            _save(state)
            advance(1, f"loss {loss:.3f}, {score:.3f} on valid")
    # The moments are twice the network, and the next seed's training needs the memory.
    state.optimizer.state.clear()
    if not state.best:
        raise DataError(
            f"task {problem.name!r}: no epoch of fine-tuning reached a finite score on the validation clips; "
            "lower encoder_learning_rate, or look for too few clips"
        )


def restore_best(state: FineTuneState[M]) -> M:
    """Return the model with the weights of its best epoch, in evaluation mode."""
    state.model.load_state_dict(state.best, strict=False)
    return state.model.eval()


def _train_epoch(state: FineTuneState[M], problem: FineTuneProblem[M], epoch: int) -> float:
    """Take the steps of an epoch and return the mean loss of its rows."""
    state.model.train()
    trained = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    generator = np.random.default_rng()
    step, step_rows, loss_sum, rows = -1, 0, 0.0, 0
    for batch in problem.batches(epoch):
        if batch.first:
            step, step_rows = step + 1, 0
            torch.manual_seed(state.seed * 1_000_003 + epoch * problem.steps + step)
            generator = dropout_generator(state.seed, epoch, step)
            state.optimizer.zero_grad(set_to_none=True)
        loss, count = state.model.batch_loss(batch, problem.loss, generator, state.device)
        if not math.isfinite(loss.item()):
            raise DataError(
                f"task {problem.name!r}: the loss of fine-tuning is not finite in epoch {epoch + 1}; "
                "lower the rates, for example --set encoder_learning_rate=1e-5 --set learning_rate=5e-5"
            )
        (loss * count).backward()
        step_rows, loss_sum, rows = step_rows + count, loss_sum + loss.item() * count, rows + count
        if batch.last:
            for parameter in trained:
                if parameter.grad is not None:
                    parameter.grad.div_(step_rows)
            nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
            warmup = max(round(state.settings.warmup_fraction * problem.steps * state.history.max_epochs), 1)
            factor = min((epoch * problem.steps + step + 1) / warmup, 1.0) * state.history.plateau.learning_rate
            for group in state.optimizer.param_groups:
                group["lr"] = group["rate"] * factor
            state.optimizer.step()
    return loss_sum / rows


def _save(state: FineTuneState[M]) -> None:
    saved = {
        "model": state.model.trainable_state(),
        "optimizer": state.optimizer.state_dict(),
        "history": asdict(state.history),
        "best": state.best,
        "rule": state.rule,
    }
    with atomic_write(state.checkpoint) as path:
        try:
            torch.save(saved, path)
        except RuntimeError as problem:
            reason = str(problem).splitlines()[0]
            raise StoreError(f"{state.checkpoint}: cannot write here ({reason}); make room and run again") from None
