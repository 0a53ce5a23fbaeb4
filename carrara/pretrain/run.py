"""A training run from a recipe and a corpus to a folder, for any objective, resumable at any point.

The output folder is an encoder (or a codec) at every checkpoint. It also holds `run.json` (the resolved recipe and the
corpus), `metrics.jsonl` with its plot, `training/` (checkpoints), and what the objective adds. Under torchrun rank 0
writes all of it but the labels of whole files, and the others read it, so every rank must see the folder.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import UsageError
from carrara.core.paths import user_path, user_paths
from carrara.core.settings import replace
from carrara.nn.device import pick_device
from carrara.pretrain.card import identify_corpus, trained_card
from carrara.pretrain.checkpoint import TRAINING, SavedState, holds_weights, load_checkpoint, restore_checkpoint
from carrara.pretrain.distributed import Dist, apply_fsdp, init_dist, wrap_ddp
from carrara.pretrain.division import available_memory, choose_accumulation_steps
from carrara.pretrain.log_plot import plot_log
from carrara.pretrain.metrics_log import CHANGED, LOG_FILE, STARTED, MetricsLog, read_events
from carrara.pretrain.objectives._base import Objective
from carrara.pretrain.objectives.codec import CodecObjective
from carrara.pretrain.objectives.contrastive import ContrastiveObjective
from carrara.pretrain.objectives.joint_embedding import JointEmbeddingObjective
from carrara.pretrain.objectives.masked_prediction import MaskedPredictionObjective
from carrara.pretrain.objectives.tagging import TaggingObjective
from carrara.pretrain.optimiser import build_optimiser
from carrara.pretrain.process import one_thread_if_small
from carrara.pretrain.recipes._base import Recipe, TrainingSettings, resolve
from carrara.pretrain.recipes.contrastive import ContrastiveRecipe
from carrara.pretrain.recipes.joint_embedding import JointEmbeddingRecipe
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.run_file import former_accumulation_steps, free_folder_on_failure, lock_run, prepare_run_file
from carrara.pretrain.state import Probe, Run
from carrara.pretrain.tagging.settings import TaggingRecipe
from carrara.pretrain.trackers import check_trackers
from carrara.pretrain.train import train

OBJECTIVES: dict[type[TrainingSettings], type[Any]] = {
    Recipe: MaskedPredictionObjective,
    TaggingRecipe: TaggingObjective,
    CodecRecipe: CodecObjective,
    JointEmbeddingRecipe: JointEmbeddingObjective,
    ContrastiveRecipe: ContrastiveObjective,
}


def pretrain(
    recipe: str | TrainingSettings,
    corpus: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    scale: str = "base",
    changes: Mapping[str, Any] | None = None,
    steps: int | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    start: str | Path | None = None,
    probe: Probe | None = None,
    probe_every: int = 500,
    trackers: Sequence[str] | None = None,
) -> Path:
    """Train an encoder or a codec and return its folder.

    Args:
        recipe: name of a recipe (`carrara ls recipes`), or a recipe.
        corpus: files and folders of audio, manifests, tar shards; for tags a dataset or a folder with labels.csv.
        output: folder of the encoder.
        scale: one of the recipe's scales; ignored where a recipe itself is given.
        changes: settings to change, by dotted path.
        steps: steps of the whole run, instead of the recipe's.
        resume: continue the run in `output`, or start it where there is none; a finished run is left as it is.
        device: auto, cpu, cuda, cuda:1, mps.
        start: initial weights: an encoder as `carrara.load` takes it, for masked prediction also an official file or
            the folder of a former run, for the codec the folder of a codec; None for those of the recipe.
        probe: encoder → scores by name (see state.py); has no effect on the training.
        probe_every: steps between two probes.
        trackers: what gets the log besides the folder: tensorboard, trackio, wandb; None for TensorBoard where it is
            installed.

    Raises:
        UsageError: an unknown recipe, setting or tracker, or settings that do not go together.
        DataError: no usable corpus, or labels that cannot be right.
        StoreError: the folder holds a run already, or one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    changes = {**(changes or {}), **({"steps": steps} if steps is not None else {})}
    resolved: Any = resolve(recipe, scale, changes) if isinstance(recipe, str) else replace(recipe, changes)
    paths, folder = user_paths(corpus, "corpus"), user_path(output, "output")
    torch_device = torch.device(pick_device(device))
    if probe and isinstance(resolved, CodecRecipe):
        raise UsageError("--probe measures encoders, and a codec is none; leave it out")
    if probe_every < 1:
        raise UsageError(f"--probe-every {probe_every}: give a number of steps, at least 1")
    tracker_names = check_trackers(trackers)
    with init_dist(torch_device, resolved.timeout_seconds) as dist, ExitStack() as stack:
        dist.on_rank_zero(lambda: stack.enter_context(lock_run(folder)))
        run = build_run(resolved, paths, folder, resume, dist, str(start or ""), tracker_names)
        run.probe, run.probe_every = probe, probe_every
        encoder = run.objective.encoder
        try:
            with one_thread_if_small(encoder.card.parameters if encoder else math.inf, dist.device):
                train(run)
        finally:
            run.log.close()
        dist.on_rank_zero(lambda: plot_log(folder))
    return folder


def build_run(
    recipe: TrainingSettings,
    corpus: Sequence[str | Path],
    folder: Path,
    resume: bool,
    dist: Dist,
    start: str = "",
    trackers: Sequence[str] = (),
) -> Run:
    """Return the run at its last checkpoint or at step 0; a new run that cannot start leaves the folder as it was.

    Args:
        recipe: the resolved recipe.
        corpus: files and folders of audio, or what else the objective takes.
        folder: of the run.
        resume: whether the folder may hold a run.
        dist: the ranks.
        start: where the initial weights come from; empty for those of the recipe.
        trackers: names of those that get the log too.

    Raises:
        CarraraError: the run cannot be trained, or the folder holds another.
    """
    with free_folder_on_failure(folder) if dist.is_main else nullcontext():
        if recipe.accumulation_steps == "auto":
            former = dist.on_rank_zero(lambda: former_accumulation_steps(folder))
            recipe = replace(recipe, {"accumulation_steps": former or "auto"})
        kind = next(objective for settings, objective in OBJECTIVES.items() if isinstance(recipe, settings))
        objective: Objective = kind(recipe, corpus, folder, start, dist)
        encoder = objective.encoder
        if encoder:
            encoder.card = trained_card(objective, encoder.card)
        if encoder and not getattr(objective.corpus, "dataset", ""):  # taggers name their dataset themselves
            trained_on = tuple(dict.fromkeys([*encoder.card.trained_on, *identify_corpus(corpus)]))
            encoder.card = encoder.card.model_copy(update={"trained_on": trained_on})
        record = objective.initialization.record
        changes = dist.on_rank_zero(lambda: prepare_run_file(folder, recipe, objective.corpus, resume, record))
        objective.prepare(folder)
        if recipe.accumulation_steps == "auto":
            with dist.report_once():
                steps = choose_accumulation_steps(objective, available_memory(dist.device))
            recipe = objective.recipe = replace(recipe, {"accumulation_steps": steps})
            dist.on_rank_zero(lambda: prepare_run_file(folder, recipe, objective.corpus, True, record))
            if dist.is_main:
                print(f"{folder}: accumulation_steps={steps} fits {dist.device}", file=sys.stderr)
        if recipe.compile:
            objective.module.compile()
        with dist.report_once():
            if recipe.fsdp:
                apply_fsdp(objective.module, objective.fsdp_layers(), dist)
                network = objective.module
            else:
                network = wrap_ddp(objective.module, dist, objective.has_unused_parameters)
        run = Run(
            folder=folder,
            recipe=recipe,
            objective=objective,
            network=network,
            optimiser=build_optimiser(objective.module, recipe.optimiser),
            dist=dist,
            log=MetricsLog(folder, 0, silent=True),
        )
        checkpoint = load_checkpoint(folder / TRAINING)
        if checkpoint:
            if checkpoint.warning and dist.is_main:
                warnings.warn(checkpoint.warning, stacklevel=2)
            run.load_state_dict(checkpoint.state)
            if changes:  # with other settings the run may roll back as often as a new one
                run.guard.rollbacks = 0
            with dist.report_once():
                restore_checkpoint(checkpoint, objective.module, run.optimiser, objective.ema_modules())
        dist.on_rank_zero(partial(_continue_folder, run, checkpoint, trackers))
        for change in changes:
            run.log.write({"step": run.step, "event": CHANGED, **asdict(change)})
        if record and not any(event["event"] == STARTED for event in read_events(folder / LOG_FILE)):
            run.log.write({"step": 0, "event": STARTED, **record})
            if dist.is_main:
                print(f"{folder}: {objective.initialization.summary()}", file=sys.stderr)
    return run


def _continue_folder(run: Run, checkpoint: SavedState | None, trackers: Sequence[str]) -> None:
    """Open the log, and write what is trained if the folder does not hold the checkpoint's, as after a kill."""
    run.log = MetricsLog(run.folder, run.step, False, trackers, run.recipe.model_dump(mode="json"))
    if checkpoint:
        weights = run.objective.saved_weights(checkpoint.tensors)
        if not all(holds_weights(run.folder / name, tensors) for name, tensors in weights.items()):
            run.objective.save(run.folder, checkpoint.tensors, run.step, run.seconds)
