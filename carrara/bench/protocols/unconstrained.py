"""MARBLE's unconstrained track: the encoder itself is trained on the task, whole or through low-rank adapters.

[yuan2023 §4] [notes/benchmark §2.1] allow any head, any settings and fine-tuning. Here it is one method with few
settings: a copy of the encoder under the constrained track's probe on the learned sum of all layers; its own weights
(`mode=full`) with layer-wise decay of the learning rate, or adapters on its attention (`mode=lora`, as MARBLE v2). The
best epoch by the monitored validation metric is kept; then the test split, once. Nothing is searched. Source separation
trains MARBLE's head for each stem in place of the probe (`carrara/bench/separation/finetune.py`).

An interrupted run resumes after its last complete epoch, from a file below `$CARRARA_HOME/finetune` that is removed
when the record is written.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from torch import Tensor

from carrara.bench.finetune.excerpts import clip_logits, iter_batches, list_excerpts
from carrara.bench.finetune.loop import FineTuneProblem, FineTuneState, fine_tune, restore_best, start_or_resume
from carrara.bench.finetune.model import LAYER, FineTuneModel
from carrara.bench.finetune.settings import FineTuneSettings
from carrara.bench.probes.lr_schedule import Plateau, ProbeHistory
from carrara.bench.probes.probe import ProbeShape
from carrara.bench.protocols._base import (
    ProbePredictor,
    Protocol,
    ProtocolInputs,
    ProtocolResult,
    grid_point,
    refuse_stems_without_windows,
    refuse_without_probe,
    window_choice,
)
from carrara.bench.protocols.constrained import DROPOUT, HIDDEN
from carrara.bench.provenance import index_identity
from carrara.bench.separation.finetune import fine_tune_separation
from carrara.bench.split_data import LabelledSplit, SplitData, monitored_score
from carrara.bench.task_types._base import State, TaskType
from carrara.core.hashing import sha256_of_json
from carrara.core.paths import home
from carrara.core.task import Task
from carrara.encoders._base import Card
from carrara.features.encode import compute_dtype


class _FineTuned(ProbePredictor):
    def logits(self, probe: FineTuneState[FineTuneModel], split: SplitData) -> tuple[SplitData, Tensor]:
        try:
            return clip_logits(restore_best(probe), split.clips, self.inputs.task, self.inputs.device)
        finally:
            probe.model.cpu()


def _window_spec(task: Task, task_type: TaskType, card: Card, settings: FineTuneSettings) -> None:
    if task_type.reads_features:
        refuse_without_probe(task, task_type)
    else:
        refuse_stems_without_windows(task)


def _run(inputs: ProtocolInputs) -> ProtocolResult:
    if not inputs.task_type.reads_features:
        return fine_tune_separation(inputs, partial(_checkpoint_folder, inputs))
    started = time.perf_counter()
    task = inputs.task
    state = inputs.probe_task_type.fit(task, inputs.train.truths)
    trained = [_fine_tune(inputs, state, seed) for seed in inputs.seeds]
    return ProtocolResult(
        predictor=_FineTuned(inputs, state, trained, [training.rule for training in trained]),
        tried=len(trained),
        grid=tuple(
            grid_point(LAYER, training.settings.learning_rate, training.seed, training.history) for training in trained
        ),
        chosen=tuple(
            {
                "layer": LAYER,
                "mode": training.settings.mode,
                "epoch": training.history.best_epoch,
                "learning_rate": training.settings.learning_rate,
                **window_choice(task, training.rule),
            }
            for training in trained
        ),
        seconds={"fine-tuning": time.perf_counter() - started},
        checkpoints=[training.folder for training in trained],
    )


def _fine_tune(inputs: ProtocolInputs, state: State, seed: int) -> FineTuneState[FineTuneModel]:
    """Return the finished training of one seed, its model off the device.

    Raises:
        UsageError: the encoder has nothing to train.
        DataError: a clip cannot be decoded, or training failed.
        StoreError: the file to resume from cannot be written or read.
    """
    task, task_type, settings, encoder = inputs.task, inputs.probe_task_type, inputs.settings, inputs.encoder
    card = encoder.card
    num_summed = card.num_layers + 1 if card.num_layers else 0
    shape = ProbeShape(card.dim, HIDDEN, task_type.outputs(task), DROPOUT, num_summed)
    model = FineTuneModel(encoder, shape, task_type.frame_level, settings, seed)
    max_epochs = min(task.max_epochs, settings.epochs)
    history = ProbeHistory(Plateau(1.0, task.plateau_patience), task.stop_patience, max_epochs)
    folder = _checkpoint_folder(inputs, seed)
    training = start_or_resume(model, history, settings, seed, inputs.device, folder)
    examples = list_excerpts(encoder, task, task_type, state, inputs.train.clips)

    def score(model: FineTuneModel) -> tuple[float, str]:
        rows, logits_RK = clip_logits(model, inputs.valid.clips, task, inputs.device)
        valid = LabelledSplit(inputs.valid.clips, {}, rows.rows_U, rows.frame_rate, inputs.valid.truths)
        value, rule = monitored_score(task, task_type, state, valid, logits_RK.nan_to_num()[None])[0]
        return (value if logits_RK.isfinite().all() else -float("inf")), rule

    problem = FineTuneProblem(
        task.name,
        lambda epoch: iter_batches(examples, settings, seed, epoch, card.sample_rate),
        settings.steps_per_epoch(len(examples)),
        task_type.loss,
        score,
    )
    fine_tune(training, problem)
    model.cpu()
    return training


def _checkpoint_folder(inputs: ProtocolInputs, seed: int) -> Path:
    """Return the folder from which a training of this encoder on this task resumes."""
    clips = [*inputs.train.clips, *inputs.valid.clips]
    identity = [
        inputs.encoder.hash_weights(),
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


PROTOCOL = Protocol("unconstrained", 1, FineTuneSettings, _window_spec, _run, supports_corruption=False)
