"""The loop of fine-tuning: steps, the watched score after each epoch, the best epoch kept, a file to go on from.

AdamW; the rates rise over the first steps and halve on a plateau of the watched score; gradients are clipped to norm 1.
On a GPU that has bfloat16 the encoder runs in it, under autocast; the probe and the loss are float32 everywhere. Every
draw comes from the seed and the number of its step, so a run that goes on after its last whole epoch does on a CPU, bit
for bit, what an uninterrupted one does.

Letters: B windows of a batch, R rows to answer, H hidden units.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carrara.bench.finetune.excerpts import Batch
from carrara.bench.finetune.model import Tunable
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.rng import dropout_generator, kept
from carrara.core.errors import DataError, StoreError
from carrara.core.io import atomic_write
from carrara.core.progress import progress
from carrara.features.encode import compute_dtype

CLIP = 1.0
LAST = "last.pt"


@dataclass(frozen=True)
class Lesson:
    """What is learned from and watched.

    Attributes:
        name: of the task.
        batches: epoch → its batches.
        steps: of an epoch.
        loss: (logits [1, R, K], targets [R, …]) → [1].
        watched: model in evaluation mode → the watched score and the rule that joins a clip's windows.
    """

    name: str
    batches: Callable[[int], Iterable[Batch]]
    steps: int
    loss: Callable[[Tensor, Tensor], Tensor]
    watched: Callable[[Tunable], tuple[float, str]]


@dataclass
class Tuning:
    """One training on its way: the model, its optimiser, its course, and what it knew at its best epoch.

    Attributes:
        folder: of the file to go on from.
        best: what training may change, at the best epoch, on the CPU; empty before one.
        rule: that joined a clip's windows best there.
    """

    model: Tunable
    optimiser: torch.optim.Optimizer
    course: ProbeHistory
    how: FinetuneSettings
    seed: int
    device: str
    folder: Path
    best: dict[str, Tensor] = field(default_factory=dict)
    rule: str = ""


def begun(model: Tunable, course: ProbeHistory, how: FinetuneSettings, seed: int, device: str, folder: Path) -> Tuning:
    """Return a training at its beginning, or after the last epoch that its folder knows of.

    Raises:
        StoreError: the file there is damaged or of another network.
    """
    model.to(device)
    tuning = Tuning(model, torch.optim.AdamW(model.groups(how)), course, how, seed, device, folder)
    if (folder / LAST).exists():
        _restore(tuning)
    return tuning


def tune(tuning: Tuning, lesson: Lesson) -> None:
    """Train until the course is over; the file to go on from stays, for whoever reads the answer to remove.

    Raises:
        DataError: the loss is not finite, or no epoch reached a finite score.
        StoreError: the file to go on from cannot be written.
    """
    course = tuning.course
    with torch.random.fork_rng(), progress(f"fine-tuning on {lesson.name}", course.max_epochs) as advance:
        advance(len(course.scores))
        while not course.stopped:
            loss = _epoch(tuning, lesson, len(course.scores))
            tuning.model.eval()
            score, rule = lesson.watched(tuning.model)
            if course.update(loss, score):
                tuning.best, tuning.rule = _copied(tuning.model.learned()), rule
            _save(tuning)
            advance(1, f"loss {loss:.3f}, {score:.3f} on valid")
    # The moments are twice the network, and the next seed's training needs the room.
    tuning.optimiser.state.clear()
    if not tuning.best:
        raise DataError(
            f"task {lesson.name!r}: no epoch of fine-tuning reached a finite score on the validation clips; "
            "lower encoder_learning_rate, or look for too few clips"
        )


def recall_best(tuning: Tuning) -> Tunable:
    """Return the model as it was at its best epoch, in evaluation mode."""
    tuning.model.load_state_dict(tuning.best, strict=False)
    return tuning.model.eval()


def _epoch(tuning: Tuning, lesson: Lesson, epoch: int) -> float:
    """Take an epoch's steps and return the mean loss of its rows."""
    tuning.model.train()
    learning = [parameter for group in tuning.optimiser.param_groups for parameter in group["params"]]
    generator = np.random.default_rng()
    step, rows, total, counted = -1, 0, 0.0, 0
    for batch in lesson.batches(epoch):
        if batch.first:
            step, rows = step + 1, 0
            torch.manual_seed(tuning.seed * 1_000_003 + epoch * lesson.steps + step)
            generator = dropout_generator(tuning.seed, epoch, step)
            tuning.optimiser.zero_grad(set_to_none=True)
        loss, count = _loss(tuning, lesson, batch, generator)
        if not math.isfinite(loss.item()):
            raise DataError(
                f"task {lesson.name!r}: the loss of fine-tuning is not finite in epoch {epoch + 1}; "
                "lower the rates, for example --set encoder_learning_rate=1e-5 --set learning_rate=5e-5"
            )
        (loss * count).backward()
        rows, total, counted = rows + count, total + loss.item() * count, counted + count
        if batch.last:
            _step(tuning, learning, epoch * lesson.steps + step, lesson.steps, rows)
    return total / counted


def _loss(tuning: Tuning, lesson: Lesson, batch: Batch, generator: np.random.Generator) -> tuple[Tensor, int]:
    """Return a batch's mean loss and over how many rows it is."""
    model, device = tuning.model, tuning.device
    counts = [model.encoder.num_frames(length) if model.frames else 1 for length in batch.lengths_B.tolist()]
    head = model.head
    kept_RH = torch.from_numpy(kept(generator, sum(counts), len(head.inner_bias), head.dropout)).to(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=compute_dtype(device) == "bfloat16"):
        logits_RK = model(batch.samples_BT.to(device), batch.lengths_B.to(device), kept_RH)
    wanted = batch.targets
    target_R = np.concatenate([_fitted(one, count) for one, count in zip(wanted, counts)]) if model.frames else wanted
    return lesson.loss(logits_RK[None], torch.as_tensor(np.asarray(target_R)).to(device))[0], sum(counts)


def _fitted(target_FK: np.ndarray, count: int) -> np.ndarray:
    """Return targets for exactly so many frames; what is not known is NaN."""
    missing = max(count - len(target_FK), 0)
    return np.pad(target_FK[:count], ((0, missing), (0, 0)), constant_values=np.nan)


def _step(tuning: Tuning, learning: list[nn.Parameter], step: int, steps: int, rows: int) -> None:
    """Take an optimiser's step along the gradient of the mean over `rows`, clipped."""
    how, course = tuning.how, tuning.course
    for parameter in learning:
        if parameter.grad is not None:
            parameter.grad.div_(rows)
    nn.utils.clip_grad_norm_(learning, CLIP)
    rising = max(round(how.warmup_fraction * steps * course.max_epochs), 1)
    share = min((step + 1) / rising, 1.0) * course.plateau.learning_rate
    for group in tuning.optimiser.param_groups:
        group["lr"] = group["rate"] * share
    tuning.optimiser.step()


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _save(tuning: Tuning) -> None:
    state = {
        "model": tuning.model.learned(),
        "optimiser": tuning.optimiser.state_dict(),
        "course": asdict(tuning.course),
        "best": tuning.best,
        "rule": tuning.rule,
    }
    with atomic_write(tuning.folder / LAST) as draft:
        try:
            torch.save(state, draft)
        except RuntimeError as problem:
            raise StoreError(
                f"{tuning.folder / LAST}: cannot write here ({str(problem).splitlines()[0]}); make room and run again"
            ) from None


def _restore(tuning: Tuning) -> None:
    path = tuning.folder / LAST
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["model"].keys() != tuning.model.learned().keys():
            raise ValueError("it is of another network")
        tuning.model.load_state_dict(state["model"], strict=False)
        tuning.optimiser.load_state_dict(state["optimiser"])
        course = state["course"]
        tuning.course = ProbeHistory(**course | {"plateau": Plateau(**course["plateau"])})
        tuning.best, tuning.rule = state["best"], state["rule"]
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as problem:
        reason = str(problem).partition("\n")[0]
        raise StoreError(f"{path}: cannot be gone on from ({reason}); remove it to start anew") from None
