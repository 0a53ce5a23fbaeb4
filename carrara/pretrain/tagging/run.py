"""One training on tags, from a recipe and a tagged corpus to a tagger's folder."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from carrara.core.errors import UsageError
from carrara.core.io import write_text
from carrara.encoders import REGISTRY as ENCODERS
from carrara.pretrain import checkpoint
from carrara.pretrain.metrics_log import Journal
from carrara.pretrain.precision import LossScale
from carrara.pretrain.run_file import prepare
from carrara.pretrain.tagging.crops import BalancedCrops, MiddleCrops
from carrara.pretrain.tagging.initial import begin_from
from carrara.pretrain.tagging.network import Tagger, framing, made
from carrara.pretrain.tagging.settings import TaggingOptimiserSettings, TaggingRecipe
from carrara.pretrain.tagging.state import TRAINING, Training
from carrara.pretrain.tagging.tagged import LABELS, Tagged, find, read_labels, see_same
from carrara.pretrain.tagging.teacher import teacher_of
from carrara.pretrain.tagging.train import train

SMALL = 5_000_000
MANY = 0.1


def teach(
    recipe: TaggingRecipe, corpus: Sequence[str | Path], folder: Path, resume: bool, device: torch.device
) -> Path:
    """Train a tagger and return its folder.

    Args:
        recipe: the resolved recipe.
        corpus: one dataset's name or folder, or a folder with labels.csv.
        folder: to be made.
        resume: go on with the run in the folder, or start it where there is none; a finished run is left as it is.
        device: where to train.

    Raises:
        UsageError: corpus, labels, patchout, initial weights or teacher do not go together with the network.
        DataError: no usable corpus.
        WeightsError: initial weights that are not whole or not such weights.
        StoreError: the folder holds a run already, one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("training on tags runs in one process; leave torchrun out, and raise batch on one large GPU")
    rate = ENCODERS.get(recipe.encoder).variants[ENCODERS.entry(recipe.encoder).name][0].sample_rate
    train_side, valid_side = find(corpus, recipe.labels, rate)
    _see_lengths(train_side, recipe.crop_seconds)
    encoder = made(recipe, train_side.names, folder.resolve().name, train_side.dataset)
    teacher = teacher_of(recipe.teacher, train_side.names, device)
    _see_labels(folder, train_side)
    if not checkpoint.stands(folder / TRAINING):
        # Before anything is written, so that what is refused leaves the folder free.
        begin_from(encoder, recipe.initial, train_side.names)
    encoder.to(device)
    prepare(folder, recipe, train_side, resume)
    write_text(folder / LABELS, json.dumps(train_side.names, ensure_ascii=False, indent=0) + "\n")
    cut = (round(recipe.crop_seconds * rate), framing(encoder).hop, recipe.batch, recipe.seed)
    precision = "float32" if device.type == "cpu" else recipe.precision
    run = Training(
        folder=folder,
        recipe=recipe,
        encoder=encoder,
        average=copy.deepcopy(encoder),
        optimiser=_adamw(encoder, recipe.optimiser),
        teacher=teacher,
        crops=BalancedCrops(train_side, *cut, clips=recipe.epoch_clips),
        middles=MiddleCrops(valid_side, *cut),
        device=device,
        precision=precision,
        scale=LossScale.of(precision, recipe.loss_scale),
    )
    run.restore()
    run.journal = Journal(folder, run.step)
    try:
        if run.step < run.steps:
            with _threads(encoder, device):
                train(run)
    finally:
        run.journal.close()
    return folder


def _adamw(encoder: Tagger, settings: TaggingOptimiserSettings) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        encoder.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _see_lengths(corpus: Tagged, seconds: float) -> None:
    """Warn where many clips are shorter than a crop."""
    short = float((corpus.items.table["samples"].to_numpy() < int(seconds * corpus.sample_rate)).mean())
    if short > MANY:
        warnings.warn(
            f"{short:.0%} of the clips are shorter than a crop of {seconds:g} s and are followed by silence; choose a "
            "recipe of shorter crops, or lower crop_seconds and network.frames",
            stacklevel=2,
        )


def _see_labels(folder: Path, corpus: Tagged) -> None:
    """Refuse to go on with other tags than a run began with, and say which."""
    before = read_labels(folder)
    if before:
        see_same(corpus.names, before, f"the run in {folder}", "give its corpus, or another folder with -o")


@contextmanager
def _threads(encoder: Tagger, device: torch.device) -> Iterator[None]:
    """Train a small network on one thread of a CPU, where two would mostly wait for one another."""
    before = torch.get_num_threads()
    if device.type == "cpu" and encoder.card.parameters < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
