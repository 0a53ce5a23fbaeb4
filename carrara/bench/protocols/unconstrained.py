"""MARBLE's unconstrained track: the encoder itself is trained on the task, whole or through low-rank adapters.

[yuan2023 §4] [notes/benchmark §2.1] allow any head, any settings and fine-tuning. Here it is one method with few
settings: a copy of the encoder under the constrained track's probe on the learned sum of all layers; its own weights
(`mode=full`) with layer-wise decay of the learning rate, or adapters on its attention (`mode=lora`, as MARBLE v2). The
best epoch by the monitored validation metric is kept; then the test split, once. Nothing is searched.

An interrupted run resumes after its last complete epoch, from a file below `$CARRARA_HOME/finetune` that is removed
when the record is written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from carrara.bench.finetune.excerpts import Draw, batches, excerpts, logits
from carrara.bench.finetune.loop import Lesson, Tuning, begun, recall_best, tune
from carrara.bench.finetune.model import LAYER, Tunable
from carrara.bench.finetune.settings import FinetuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.protocols._base import (
    Predictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    grid_point,
    refuse_without_probe,
    window_choice,
)
from carrara.bench.protocols.constrained import DROPOUT, HIDDEN
from carrara.bench.provenance import index_identity
from carrara.bench.split_data import LabelledSplit, SplitData, monitored_score, predict
from carrara.bench.task_types._base import Prediction, ProbeTaskType, State, TaskType
from carrara.core.clip import Clip
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import home
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.encode import compute_dtype
from carrara.features.extract import weights_identity


@dataclass(frozen=True)
class _FineTuned(Predictor):
    """The fine-tuned model of each seed at its best epoch."""

    task: Task
    task_type: ProbeTaskType
    state: State
    device: str
    tunings: list[Tuning]

    def predict(self, split: SplitData) -> list[list[Prediction]]:
        predictions = []
        for tuning in self.tunings:
            rows, logits_1RK = _split_logits(recall_best(tuning), self.task, split.clips, self.device)
            predictions.append(predict(self.task, self.task_type, self.state, rows, logits_1RK, tuning.rule)[0])
            tuning.model.cpu()
        return predictions


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: FinetuneSettings) -> None:
    refuse_without_probe(task, task_type)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    started = time.perf_counter()
    task, task_type = inputs.task, inputs.probe_task_type
    state = task_type.fit(task, inputs.train.truths)
    tunings = [_fine_tune(inputs, state, seed) for seed in inputs.seeds]
    return ProtocolResult(
        predictor=_FineTuned(task, task_type, state, inputs.device, tunings),
        tried=len(tunings),
        grid=tuple(grid_point(LAYER, tuning.how.learning_rate, tuning.seed, tuning.course) for tuning in tunings),
        chosen=tuple(
            {
                "layer": LAYER,
                "mode": tuning.how.mode,
                "epoch": tuning.course.best_epoch,
                "learning_rate": tuning.how.learning_rate,
                **window_choice(task, tuning.rule),
            }
            for tuning in tunings
        ),
        seconds={"fine-tuning": time.perf_counter() - started},
        checkpoints=[tuning.folder for tuning in tunings],
    )


def _fine_tune(inputs: ProtocolInputs, state: State, seed: int) -> Tuning:
    """Return the finished training of one seed, its model off the device.

    Raises:
        UsageError: the encoder has nothing to train.
        DataError: a clip cannot be decoded, or training failed.
        StoreError: the file to resume from cannot be written or read.
    """
    task, task_type, settings, encoder = inputs.task, inputs.probe_task_type, inputs.settings, inputs.encoder
    card = encoder.card
    mixed = card.num_layers + 1 if card.num_layers else 0
    shape = ProbeShape(card.dim, HIDDEN, task_type.outputs(task), DROPOUT, mixed)
    model = Tunable(encoder, shape, task_type.frame_level, settings, seed)
    max_epochs = min(task.max_epochs, settings.epochs)
    history = ProbeHistory(Plateau(1.0, task.plateau_patience), task.stop_patience, max_epochs)
    folder = _checkpoint_folder(inputs, seed)
    tuning = begun(model, history, settings, seed, inputs.device, folder)
    examples = excerpts(encoder, task, task_type, state, inputs.train.clips)
    draw = Draw(settings.batch, settings.accumulation_steps, seed)

    def score(model: Tunable) -> tuple[float, str]:
        rows, logits_1RK = _split_logits(model, task, inputs.valid.clips, inputs.device)
        valid = LabelledSplit(inputs.valid.clips, {}, rows.rows_U, rows.frame_rate, inputs.valid.truths)
        value, rule = monitored_score(task, task_type, state, valid, logits_1RK.nan_to_num())[0]
        return (value if logits_1RK.isfinite().all() else -float("inf")), rule

    lesson = Lesson(
        task.name,
        lambda epoch: batches(examples, draw, epoch, card.sample_rate),
        draw.steps(len(examples)),
        task_type.loss,
        score,
    )
    tune(tuning, lesson)
    model.cpu()
    return tuning


def _split_logits(model: Tunable, task: Task, clips: Sequence[Clip], device: str) -> tuple[SplitData, Tensor]:
    """Return the rows of clips and the model's logits for them, `[1, R, K]`."""
    logits_RK, rows_U = logits(model.to(device), clips, task, device)
    frame_rate = model.encoder.card.frame_rate if model.frames else None
    return SplitData(clips, {}, rows_U, frame_rate), logits_RK[None]


def _checkpoint_folder(inputs: ProtocolInputs, seed: int) -> Path:
    """Return the folder from which a training of this encoder on this task resumes."""
    clips = [*inputs.train.clips, *inputs.valid.clips]
    identity = [
        weights_identity(inputs.encoder),
        inputs.encoder.card.output_version,
        inputs.encoder.settings.model_dump(mode="json"),
        inputs.task.model_dump(mode="json"),
        index_identity(clips),
        [[str(clip.path), float(clip.start), clip.duration and float(clip.duration)] for clip in clips],
        inputs.settings.model_dump(mode="json"),
        seed,
        compute_dtype(inputs.device),
    ]
    return home() / "finetune" / sha256_of_json(identity)[:16]


PROTOCOL = Protocol("unconstrained", 1, FinetuneSettings, _window_spec, _run, supports_corruption=False)
