"""MARBLE's unconstrained track: the encoder itself is trained on the task, whole or through low-rank adapters.

Yuan et al. 2023 (arXiv 2306.10548, section 4; benchmark.md 2.1) allow any head, any settings and fine-tuning. Here one
recipe, with few settings: a copy of the encoder under the constrained track's probe on the learned sum of all layers;
its own weights (`mode=full`), rates falling layer by layer, or adapters on its attention (`mode=lora`, as MARBLE v2).
The best epoch by the watched validation score is kept; then the test side is read, once. Nothing is searched.

A run that was stopped goes on after its last whole epoch, from a file below `$CARRARA_HOME/finetune` that is removed
when the answers are there.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from carrara.bench.finetune.excerpts import Draw, batches, excerpts, logits
from carrara.bench.finetune.loop import Lesson, Tuning, begun, recall_best, tune
from carrara.bench.finetune.model import LAYER, Tunable
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.protocols._base import Protocol, ProtocolInputs, ProtocolResult
from carrara.bench.protocols.constrained import DROPOUT, HIDDEN
from carrara.bench.provenance import index_identity
from carrara.bench.split_features import SplitFeatures, answers, watched
from carrara.bench.task_types._base import State, TaskType
from carrara.core.errors import UsageError
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import home
from carrara.core.record import GridPoint
from carrara.core.task import Task
from carrara.features.encode import compute_dtype
from carrara.features.extract import weights_identity


def run(inputs: ProtocolInputs) -> ProtocolResult:
    """Return what fine-tuning finds for one task.

    Raises:
        UsageError: the answer is not given by a probe, or the encoder has nothing to train.
        DataError: a clip cannot be heard, or training failed.
        StoreError: the file to go on from cannot be written or read.
    """
    task, answer = inputs.task, inputs.answer
    if answer.run is not None:
        raise UsageError(f"task {task.name!r}: {task.task_type} cannot be fine-tuned on; use --protocol constrained")
    began = time.perf_counter()
    state = answer.fit(task, answer.truths(task, inputs.clips["train"]))
    tuned = [_tuned(inputs, state, seed) for seed in inputs.seeds]
    trained = time.perf_counter()
    clips = inputs.clips["test"]
    truths = answer.truths(task, clips)
    given = []
    for one in tuned:
        side, logits_1RK = _answered(inputs, recall_best(one), "test", truths)
        given.append(answers(task, answer, state, side, logits_1RK, one.rule)[0])
    for one in tuned:
        shutil.rmtree(one.folder, ignore_errors=True)
    return ProtocolResult(
        tried=len(tuned),
        grid=tuple(_point(one) for one in tuned),
        chosen=tuple(_choice(one, task) for one in tuned),
        truths=truths,
        answers=given,
        seconds={"fine-tuning": trained - began, "test": time.perf_counter() - trained},
    )


def _tuned(inputs: ProtocolInputs, state: State, seed: int) -> Tuning:
    """Return a finished training of one seed, its model off the device."""
    task, answer, how = inputs.task, inputs.answer, _settings(inputs)
    card = inputs.encoder.card
    rows = card.num_layers + 1 if card.num_layers else 0
    shape = ProbeShape(card.dim, HIDDEN, answer.outputs(task), DROPOUT, rows)
    model = Tunable(inputs.encoder, shape, answer.frames, how, seed)
    course = ProbeHistory(Plateau(1.0, task.plateau_patience), task.stop_patience, min(task.max_epochs, how.epochs))
    tuning = begun(model, course, how, seed, inputs.device, _folder(inputs, how, seed))
    tune(tuning, _lesson(inputs, answer, state, how, seed))
    model.cpu()
    return tuning


def _lesson(inputs: ProtocolInputs, answer: TaskType, state: State, how: FinetuneSettings, seed: int) -> Lesson:
    task, encoder = inputs.task, inputs.encoder
    examples = excerpts(encoder, task, answer, state, inputs.clips["train"])
    draw = Draw(how.batch, how.accumulation_steps, seed)
    truths = answer.truths(task, inputs.clips["valid"])

    def score(model: Tunable) -> tuple[float, str]:
        side, logits_1RK = _answered(inputs, model, "valid", truths)
        found, rule = watched(task, answer, state, side, logits_1RK.nan_to_num())[0]
        return (found if logits_1RK.isfinite().all() else -float("inf")), rule

    return Lesson(
        task.name,
        lambda epoch: batches(examples, draw, epoch, encoder.card.sample_rate),
        draw.steps(len(examples)),
        answer.loss,
        score,
    )


def _answered(inputs: ProtocolInputs, model: Tunable, name: str, truths: Any) -> tuple[SplitFeatures, torch.Tensor]:
    """Return a side of the split and the model's logits for it, `[1, R, K]`."""
    logits_RK, rows_U = logits(model.to(inputs.device), inputs.clips[name], inputs.task, inputs.device)
    rate = inputs.encoder.card.frame_rate if inputs.answer.frames else None
    return SplitFeatures(truths, {}, rows_U, rate), logits_RK[None]


def _folder(inputs: ProtocolInputs, how: FinetuneSettings, seed: int) -> Path:
    """Return where a training of this encoder on this task keeps what it needs to go on."""
    clips = [clip for name in ("train", "valid") for clip in inputs.clips[name]]
    made_of = [
        weights_identity(inputs.encoder),
        inputs.encoder.card.output_version,
        inputs.encoder.settings.model_dump(mode="json"),
        inputs.task.model_dump(mode="json"),
        index_identity(clips),
        [[str(clip.path), float(clip.start), clip.duration and float(clip.duration)] for clip in clips],
        how.model_dump(mode="json"),
        seed,
        compute_dtype(inputs.device),
    ]
    return home() / "finetune" / sha256_of_json(made_of)[:16]


def _settings(inputs: ProtocolInputs) -> FinetuneSettings:
    return inputs.settings or FinetuneSettings()


def _choice(tuning: Tuning, task: Task) -> dict[str, Any]:
    joined = {"windows": tuning.rule} if task.aggregate == "ensemble" else {}
    how, course = tuning.how, tuning.course
    return {
        "layer": LAYER,
        "mode": how.mode,
        "epoch": course.best_epoch,
        "learning_rate": how.learning_rate,
        **joined,
    }


def _point(tuning: Tuning) -> GridPoint:
    course = tuning.course
    return GridPoint(
        layer=LAYER,
        learning_rate=tuning.how.learning_rate,
        valid=course.best,
        epoch=course.best_epoch,
        epochs=len(course.scores),
        seed=tuning.seed,
    )


PROTOCOL = Protocol("unconstrained", 1, run, FinetuneSettings, deforms=False)
