"""A pre-training run from a recipe and a corpus to an encoder folder, resumable at any point.

The output folder is an encoder at every checkpoint (`carrara.load` reads it). It also holds `run.json` (the resolved
recipe and the corpus), `targets/` (fitted once), `labels/` (of whole files), `metrics.jsonl` and `training/`
(checkpoints). Under torchrun rank 0 writes all of it and the others read it, so every rank must see the folder.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders._hubert.network import HubertEncoder, hubert_card
from carrara.nn.conv.waveform_frontend import receptive_field
from carrara.nn.device import pick_device
from carrara.pretrain.card import pretraining_card
from carrara.pretrain.checkpoint import (
    TRAINING,
    collect_tensors,
    load_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.label_store import open_label_stores
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.dist import Dist, apply_fsdp, init_dist
from carrara.pretrain.fit_targets import fit_missing, load_targets
from carrara.pretrain.initialize import copy_targets, load_encoder, load_heads
from carrara.pretrain.label_checks import MISSING_FRAMES, check_labels
from carrara.pretrain.loop import train
from carrara.pretrain.metrics_log import LOG_FILE, STARTED, MetricsLog, read_events
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.optimiser import adamw
from carrara.pretrain.process import one_thread_if_small
from carrara.pretrain.recipes._base import Recipe, resolve
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.run_file import prepare_run_file
from carrara.pretrain.rvq_vae import train_codec
from carrara.pretrain.state import Probe, Run
from carrara.pretrain.tagging.settings import TaggingRecipe
from carrara.pretrain.tagging.train import train_tagger
from carrara.pretrain.targets._base import FrameGrid

LABELS = "labels"
CHECKED_CROPS = 8


def pretrain(
    recipe: str | Recipe,
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
) -> Path:
    """Train an encoder and return its folder.

    Args:
        recipe: name of a recipe (`carrara ls recipes`), or a recipe.
        corpus: files and folders of audio, manifests, tar shards; for tags a dataset or a folder with labels.csv.
        output: folder of the encoder.
        scale: one of the recipe's scales; ignored where a recipe itself is given.
        changes: settings to change, by dotted path.
        steps: steps of the whole run, instead of the recipe's.
        resume: continue the run in `output`, or start it where there is none; a finished run is left as it is.
        device: auto, cpu, cuda, cuda:1, mps.
        start: an encoder as `carrara.load` takes it, an official file or the folder of a former run; None for random
            weights.
        probe: encoder → scores by name (see state.py); has no effect on the training.
        probe_every: steps between two probes.

    Raises:
        UsageError: an unknown recipe or setting, or settings that do not go together.
        DataError: no usable corpus, or labels that cannot be right.
        StoreError: the folder holds a run already, or one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    changes = {**(changes or {}), **({"steps": steps} if steps is not None else {})}
    resolved: Any = resolve(recipe, scale, changes) if isinstance(recipe, str) else replace(recipe, changes)
    paths = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    folder, torch_device = Path(output), torch.device(pick_device(str(device)))
    if not isinstance(resolved, Recipe) and (start or probe):
        raise UsageError("--from and --probe go with recipes of masked prediction; leave them out")
    if isinstance(resolved, TaggingRecipe):
        return train_tagger(resolved, paths, folder, resume, torch_device)
    if isinstance(resolved, CodecRecipe):
        return train_codec(resolved, paths, folder, resume, torch_device)
    if probe_every < 1:
        raise UsageError(f"--probe-every {probe_every}: give a number of steps, at least 1")
    with init_dist(torch_device, resolved.timeout_seconds) as dist:
        run = build_run(resolved, paths, folder, resume, dist, str(start or ""))
        run.probe, run.probe_every = probe, probe_every
        try:
            with one_thread_if_small(run.model.encoder.card.parameters, run.device):
                train(run, _save)
        finally:
            run.log.close()
    return folder


def build_run(
    recipe: Recipe, corpus: Sequence[str | Path], folder: Path, resume: bool, dist: Dist, start: str = ""
) -> Run:
    """Return the run at its last checkpoint or at step 0, with its targets fitted."""
    device = dist.device
    with dist.report_once():
        encoder = build_encoder(recipe.encoder, recipe.seed, recipe.network.model_dump())
        if not isinstance(encoder, HubertEncoder):
            raise UsageError(
                f"encoder {recipe.encoder!r} has no frames to mask; choose one of HuBERT's kind, such as mert-v0"
            )
        settings, card = encoder.settings, encoder.card
        known = {"window_seconds": card.window_seconds, "parameters": card.parameters}
        encoder.card = hubert_card(folder.resolve().name, settings, paper=card.paper, **known)
        initialization = load_encoder(start, recipe, encoder, folder)
        centre = receptive_field(settings.conv_kernels, settings.conv_strides) // 2
        grid = FrameGrid(settings.sample_rate, settings.stride, centre)
        crop_samples = _check_crop(recipe, encoder)
        check_batch_division(recipe, dist.world_size)
    corpus_items = dist.on_rank_zero(lambda: build_corpus(corpus, grid.sample_rate, crop_samples))
    dist.on_rank_zero(lambda: prepare_run_file(folder, recipe, corpus_items, resume, initialization.record))
    dist.on_rank_zero(lambda: copy_targets(initialization, folder))
    stream = CropStream(corpus_items, crop_samples, grid.hop, recipe.batch, recipe.seed, recipe.target_rms)
    dist.on_rank_zero(lambda: fit_missing(folder, recipe, grid, stream, device))
    targets = load_targets(folder, recipe, grid, device)
    encoder.to(device)
    encoder.encoder.activation_checkpointing = recipe.activation_checkpointing
    num_frames = encoder.num_frames(crop_samples)
    with dist.report_once():
        for target in targets.values():
            target.attach(encoder)
        fixed_targets = {name: target for name, target in targets.items() if not target.is_ema}
        check_labels(fixed_targets, first_batch(stream, device), num_frames)
        model = MaskedPrediction(encoder, targets, recipe.objective, recipe.seed).to(device)
        load_heads(initialization, model, targets)
        if recipe.fsdp:
            apply_fsdp(model, dist, has_ema_target=len(fixed_targets) < len(targets))
    silence_BT = torch.zeros(1, crop_samples, device=device)
    labelled_frames = min(target.labels(silence_BT, num_frames).shape[1] for target in targets.values())
    # Rank 0 fills the stores, then every rank opens them.
    dist.on_rank_zero(lambda: bool(open_label_stores(folder / LABELS, targets, stream.corpus, device)))
    run = Run(
        folder=folder,
        recipe=recipe,
        model=model,
        optimiser=adamw(model, recipe.optimiser),
        targets=targets,
        stream=stream,
        log=MetricsLog(folder, 0, silent=True),
        device=device,
        num_frames=labelled_frames,
        dist=dist,
        label_stores=open_label_stores(folder / LABELS, targets, stream.corpus, device),
        init_summary=initialization.summary(),
    )
    checkpoint = load_checkpoint(folder / TRAINING)
    if checkpoint:
        if checkpoint.warning and dist.is_main:
            warnings.warn(checkpoint.warning, stacklevel=2)
        with dist.report_once():
            restore_checkpoint(checkpoint, model, run.optimiser, run.ema_targets())
        run.load_state_dict(checkpoint.state)
    run.log = MetricsLog(folder, run.step, silent=not dist.is_main)
    if initialization.record and not any(event["event"] == STARTED for event in read_events(folder / LOG_FILE)):
        run.log.write({"step": 0, "event": STARTED, **initialization.record})
        if dist.is_main:
            print(f"{folder}: {run.init_summary}", file=sys.stderr)
    return run


def check_batch_division(recipe: Recipe, world_size: int) -> None:
    """Refuse a batch that does not divide over the ranks.

    Raises:
        UsageError: a rank would have no crop, or a pool of mixup would be divided between ranks.
    """
    edges, pool = [rank * recipe.batch // world_size for rank in range(world_size)], recipe.mixup.pool
    if recipe.mixup.probability and any(edge % pool for edge in edges):
        raise UsageError(
            f"mixup.pool {pool} does not fit the {recipe.batch} crops of a step on {world_size} ranks: mixing would "
            f"depend on their number; set mixup.pool to a divisor of {recipe.batch // world_size}"
        )
    if recipe.batch < world_size:
        raise UsageError(f"batch {recipe.batch} is less than one crop for each of {world_size} ranks; raise batch")


def first_batch(stream: CropStream, device: torch.device) -> torch.Tensor:
    """Return some crops of the first batch with readable files.

    Raises:
        DataError: no file can be read.
    """
    for step in range(math.ceil(len(stream.corpus.items) / stream.batch_size)):
        batch = stream.read_batch(step)
        if batch.item_indices:
            return batch.samples_BT[:CHECKED_CROPS].to(device)
    raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.errors[-1]}")


def _check_crop(recipe: Recipe, encoder: HubertEncoder) -> int:
    """Return the samples of a crop, and refuse masks that do not fit it."""
    sample_rate, masking = encoder.settings.sample_rate, recipe.masking
    crop_samples = round(recipe.crop_seconds * sample_rate)
    frames, needed = encoder.num_frames(crop_samples), masking.mask_length + MISSING_FRAMES
    if frames <= needed:
        tenths = next(each for each in count(1) if encoder.num_frames(each * sample_rate // 10) > needed)
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {frames} frames, too few for masks of {masking.mask_length}; "
            f"use {tenths / 10:g} or more, or a smaller masking.mask_length"
        )
    if masking.mask_channel_prob and masking.mask_channel_length >= encoder.settings.dim:
        raise UsageError(
            f"masking.mask_channel_length {masking.mask_channel_length} masks all {encoder.settings.dim} channels of "
            "the network; lower it"
        )
    return crop_samples


def _save(run: Run) -> None:
    tensors = collect_tensors(run.model, run.optimiser, run.ema_targets())

    def write() -> None:
        write_checkpoint(run.folder / TRAINING, tensors, run.state_dict())
        encoder = run.model.encoder
        if run.recipe.fsdp:
            prefix = "model.encoder."
            encoder = HubertEncoder(encoder.settings, encoder.card)
            encoder.load_state_dict(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            )
        try:
            save_pretrained(encoder, run.folder, pretraining_card(run))
        except StoreError as problem:
            raise StoreError(f"{problem}; make room and resume") from None

    run.dist.on_rank_zero(write)
