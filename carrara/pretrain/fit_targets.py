"""The targets of a run: each fitted once on random crops of its share of the corpus, written, and read from there.

`targets/NAME.safetensors` holds what was fitted, `NAME.json` the report. A file that is there already is not made
again: a run that goes on has its own, one that starts from a former run may have that one's (see start.py).
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import WeightsError
from carrara.core.io import write_text
from carrara.core.progress import progress
from carrara.formats.weights import load_strictly, read_tensors, save_tensors
from carrara.pretrain.corpus.stream import Stream
from carrara.pretrain.recipes._base import Recipe
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import FrameGrid, Target

TARGET_FOLDER = "targets"
FITTING_CROPS = 32


def fitted(folder: Path, recipe: Recipe, grid: FrameGrid, stream: Stream, device: torch.device) -> None:
    """Fit the targets that are not there yet, and write them.

    Raises:
        CarraraError: the corpus does not allow it.
        StoreError: they cannot be written.
    """
    for number, (name, settings) in enumerate(recipe.targets.items()):
        path = target_path(folder, name)
        if not path.exists():
            target = TARGETS.get(settings.target)(settings, grid).to(device)
            report = _fit(name, target, stream, recipe.seed + 1 + number, device)
            write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
            save_tensors(target.state_dict(), path)


def targets(folder: Path, recipe: Recipe, grid: FrameGrid, device: torch.device) -> dict[str, Target]:
    """Return the targets as they were fitted, on the device.

    Raises:
        WeightsError: a file is not whole, or of another target.
    """
    made = {}
    for name, settings in recipe.targets.items():
        target, path = TARGETS.get(settings.target)(settings, grid), target_path(folder, name)
        try:
            load_strictly(target, read_tensors(path), str(path))
        except WeightsError as problem:
            reason = str(problem).removeprefix(f"{path}: ").removesuffix("; fetch it again")
            raise WeightsError(f"{path}: {reason}; remove it, and resuming fits the same target again") from None
        made[name] = target.to(device)
    return made


def target_path(folder: Path, name: str) -> Path:
    """Return the file of a target of the run in a folder."""
    return folder / TARGET_FOLDER / f"{name}.safetensors"


def _fit(name: str, target: Target, stream: Stream, seed: int, device: torch.device) -> dict[str, Any]:
    """Fit a target on random crops of its share of the corpus, and return its report."""
    share = target.settings.fraction
    crops = math.ceil(share * stream.corpus.seconds * stream.corpus.sample_rate / stream.crop)
    drawn = dataclasses.replace(stream, batch=FITTING_CROPS, seed=seed)
    steps = math.ceil(crops / FITTING_CROPS)
    with progress(f"fitting target {name}", steps) as advance:

        def batches() -> Any:
            for batch in drawn.batches(0, steps):
                if batch.items:
                    yield batch.samples_BT.to(device)
                advance()

        report = target.fit(batches(), seed)
    return {"share": share, "crops": steps * FITTING_CROPS, **report}
