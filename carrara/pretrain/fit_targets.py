"""The targets of a run, each fitted once on random crops of a fraction of the corpus and saved.

`targets/NAME.safetensors` holds the fitted target, `NAME.json` its report. A file that exists is not fitted again: a
resumed run has its own, a run with initial weights may have a copy of the former run's (initialize.py).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import CarraraError, WeightsError
from carrara.core.io import write_text
from carrara.core.progress import progress
from carrara.encoders._frame_encoder import FrameGrid
from carrara.formats.weights import load_state_dict_strict, read_tensors, save_tensors
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import Target

TARGET_FOLDER = "targets"
FITTING_BATCH = 32


def target_path(folder: Path, name: str) -> Path:
    """Return the file of a target in the folder of a run."""
    return folder / TARGET_FOLDER / f"{name}.safetensors"


def fit_missing(folder: Path, recipe: Recipe, grid: FrameGrid, stream: CropStream, dist: Dist) -> None:
    """Fit the targets that have no file yet, and save them; every rank reads its part of the crops, rank 0 fits.

    Raises:
        CarraraError: the corpus does not suffice.
        StoreError: they cannot be written.
    """
    for number, (name, settings) in enumerate(recipe.targets.items()):
        path = target_path(folder, name)
        if dist.on_rank_zero(path.exists):
            continue
        seed = recipe.seed + 1 + number
        crops = settings.fraction * stream.corpus.seconds * stream.corpus.sample_rate / stream.crop_samples
        steps = math.ceil(math.ceil(crops) / FITTING_BATCH)
        fitting_stream = dataclasses.replace(stream, batch_size=FITTING_BATCH, seed=seed)
        batches = _iter_crops(fitting_stream, steps, f"fitting target {name}", dist)
        problem: CarraraError | None = None
        if dist.is_main:
            problem = _fit_and_save(path, settings, grid, batches, seed, steps, dist.device)
        for _ in batches:
            pass  # the parts of the other ranks; rank 0 reads what an error has left, so that none of them waits
        dist.on_rank_zero(partial(_raise_if, problem))


def _fit_and_save(
    path: Path, settings: Any, grid: FrameGrid, batches: Iterator[Tensor], seed: int, steps: int, device: torch.device
) -> CarraraError | None:
    """Fit a target and save it with its report; return the error where it cannot be."""
    try:
        target = TARGETS.get(settings.target)(settings, grid).to(device)
        report = target.fit(batches, seed)
        report = {"fraction": settings.fraction, "crops": steps * FITTING_BATCH, **report}
        write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
        save_tensors(target.state_dict(), path)
    except CarraraError as problem:
        return problem
    return None


def _raise_if(problem: CarraraError | None) -> None:
    if problem:
        raise problem


def _iter_crops(stream: CropStream, steps: int, title: str, dist: Dist) -> Iterator[Tensor]:
    """Yield the crops of all ranks, in the order of one process; every rank must take all of them."""
    bar: Any = progress(title, steps) if dist.is_main else nullcontext(lambda: None)
    with bar as advance:
        for batch in stream.iter_batches(0, steps, dist.rank, dist.world_size):
            samples_BT = torch.cat(dist.all_gather(batch.samples_BT))
            if len(samples_BT):
                yield samples_BT.to(dist.device)
            advance()


def load_targets(folder: Path, recipe: Recipe, grid: FrameGrid, device: torch.device) -> dict[str, Target]:
    """Return the fitted targets on the device.

    Raises:
        WeightsError: a file is not whole, or of another target.
    """
    targets = {}
    for name, settings in recipe.targets.items():
        target, path = TARGETS.get(settings.target)(settings, grid), target_path(folder, name)
        try:
            load_state_dict_strict(target, read_tensors(path), str(path))
        except WeightsError as problem:
            reason = str(problem).removeprefix(f"{path}: ").removesuffix("; fetch it again")
            raise WeightsError(f"{path}: {reason}; remove it, and resuming fits the same target again") from None
        targets[name] = target.to(device)
    return targets
