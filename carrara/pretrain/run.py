"""One pre-training from a recipe and a corpus to an encoder folder; stopped anywhere, it goes on exactly.

The output folder is an encoder at every checkpoint (`carrara.load` reads it) and holds what made it: `run.json` (the
resolved recipe and the corpus), `targets/` (fitted once), `journal.jsonl`, `training/` (checkpoints).
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import carrara
from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.files import write_text
from carrara.core.progress import progress
from carrara.core.settings import paths, replace
from carrara.encoders._hubert import HubertEncoder, describe
from carrara.encoders._load import build, save_pretrained
from carrara.nn.device import pick_device
from carrara.nn.weights import load_strictly, read_tensors, save_tensors
from carrara.pretrain import checkpoint, sanity
from carrara.pretrain.card import readme
from carrara.pretrain.journal import Journal
from carrara.pretrain.loop import Run, adamw, train
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.recipes._base import Recipe, resolve
from carrara.pretrain.stream import Corpus, Stream, find
from carrara.pretrain.targets import SHELF as TARGETS
from carrara.pretrain.targets._base import Grid, Target

RUN, TRAINING, TARGET_FOLDER = "run.json", "training", "targets"
# These say how a run is watched, not what it makes, so a resumed run may have others.
FREE = ("checkpoint_every", "journal_every")
FITTING_CROPS, CHECKED_CROPS = 32, 8
SMALL = 5_000_000


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
) -> Path:
    """Train an encoder and return its folder.

    Args:
        recipe: a name on the shelf of recipes, or a recipe.
        corpus: files and folders of audio.
        output: the folder to be made.
        scale: one of the recipe's scales; ignored where a recipe itself is given.
        changes: settings to change, by dotted path.
        steps: of the whole run, instead of the recipe's.
        resume: go on with the run in `output`, or start it where there is none; a finished run is left as it is.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises:
        UsageError: an unknown recipe or setting, or settings that do not go together.
        DataError: no usable corpus, or labels that cannot be right.
        StoreError: the folder holds a run already, one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    wanted = dict(changes or {}) | ({"steps": steps} if steps is not None else {})
    full = resolve(recipe, scale, wanted) if isinstance(recipe, str) else replace(recipe, wanted)
    folder, place = Path(output), torch.device(pick_device(str(device)))
    given = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    encoder = _encoder(full, folder.resolve().name)
    grid = _grid(encoder)
    crop = _crop(full, encoder, grid)
    found = find([Path(path) for path in given], grid.sample_rate, crop)
    _prepare(folder, full, found, resume)
    stream = Stream(found, crop, grid.hop, full.batch, full.seed, full.level)
    targets = {name: target.to(place) for name, target in _targets(folder, full, grid, stream, place).items()}
    sanity.check(targets, _some(stream, place), encoder.frames(crop))
    model = MaskedPrediction(encoder, targets, full.objective, full.seed).to(place)
    optimiser = adamw(model, full.optimiser)
    step, seconds = _restore(folder, model, optimiser)
    journal = Journal(folder, step)
    run = Run(folder, full, model, optimiser, targets, stream, journal, place, step, seconds)
    try:
        if step < full.steps:
            with _threads(encoder, place):
                train(run, _save)
    finally:
        journal.close()
    return folder


@contextmanager
def _threads(encoder: HubertEncoder, device: torch.device) -> Iterator[None]:
    """Train a small network on one thread of a CPU.

    Its steps are too short to share: two threads gain a third on a quiet machine, and wait for each other up to thirty
    times as long on a busy one.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and encoder.card.parameters < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encoder(recipe: Recipe, name: str) -> HubertEncoder:
    network = recipe.network.model_dump()
    encoder = build(recipe.encoder, recipe.seed, network)
    if not isinstance(encoder, HubertEncoder):
        raise UsageError(
            f"encoder {recipe.encoder!r} has no frames to mask; take one of HuBERT's shape, such as mert-v0"
        )
    known = {"window_seconds": encoder.card.window_seconds, "parameters": encoder.card.parameters}
    encoder.card = describe(name, encoder.settings, paper=encoder.card.paper, **known)
    return encoder


def _grid(encoder: HubertEncoder) -> Grid:
    settings = encoder.settings
    receptive = 1
    for kernel, stride in zip(reversed(settings.conv_kernels), reversed(settings.conv_strides)):
        receptive = (receptive - 1) * stride + kernel
    return Grid(settings.sample_rate, settings.stride, receptive // 2)


def _crop(recipe: Recipe, encoder: HubertEncoder, grid: Grid) -> int:
    crop = round(recipe.crop_seconds * grid.sample_rate)
    frames, needed = encoder.frames(crop), recipe.masking.span + sanity.FEWER_FRAMES
    if frames <= needed:
        shortest = math.ceil(10 * (needed + 2) * grid.hop / grid.sample_rate) / 10
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {frames} frames, too few for spans of {recipe.masking.span}; "
            f"use {shortest:g} or more, or a shorter masking.span"
        )
    return crop


def _prepare(folder: Path, recipe: Recipe, corpus: Corpus, resume: bool) -> None:
    """Write `run.json`, or see that the one there is of the same recipe and corpus."""
    wanted = {
        "recipe": recipe.model_dump(mode="json"),
        "corpus": {
            "identity": corpus.identity(),
            "files": len(corpus.items),
            "seconds": round(corpus.seconds, 1),
            "short": corpus.short,
            "unreadable": list(corpus.unreadable),
        },
        "carrara": carrara.__version__,
    }
    path = folder / RUN
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: is a file; choose a folder with -o")
    if path.exists():
        if not resume:
            raise StoreError(f"{folder}: holds a run already; go on with --resume, or choose another folder with -o")
        _compare(path, wanted)
    write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


def _compare(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, corpus = found["recipe"], found["corpus"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise StoreError(f"{path}: cannot be read ({problem}); choose another folder with -o") from None
    now = wanted["recipe"]
    names = dict.fromkeys([*paths(before), *paths(now)])
    differing = [name for name in names if name not in FREE and _leaf(before, name) != _leaf(now, name)]
    if differing:
        first = differing[0]
        change = f"{first} was {_leaf(before, first)}, now {_leaf(now, first)}"
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise StoreError(
            f"{path.parent}: made with another recipe: {change}{more}; "
            "use the former settings, or choose another folder with -o"
        )
    if corpus["identity"] != wanted["corpus"]["identity"]:
        raise StoreError(
            f"{path.parent}: made from another corpus: {corpus['files']} files of {corpus['seconds']} s then, "
            f"{wanted['corpus']['files']} of {wanted['corpus']['seconds']} s now; give the same, or another folder"
        )


def _leaf(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, "nothing") if isinstance(tree, dict) else "nothing"
    return "set" if isinstance(tree, dict) else tree


def _targets(folder: Path, recipe: Recipe, grid: Grid, stream: Stream, device: torch.device) -> dict[str, Target]:
    """Return the targets, each read where it was fitted before, else fitted and written."""
    made = {}
    for number, (name, settings) in enumerate(recipe.targets.items()):
        target = TARGETS.get(settings.target)(settings, grid)
        path = folder / TARGET_FOLDER / f"{name}.safetensors"
        if path.exists():
            load_strictly(target, read_tensors(path), str(path))
        else:
            report = _fit(name, target.to(device), stream, recipe.seed + 1 + number)
            write_text(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
            save_tensors(target.state_dict(), path)
        made[name] = target
    return made


def _fit(name: str, target: Target, stream: Stream, seed: int) -> dict[str, Any]:
    """Fit a target on random crops of its share of the corpus, and return its report."""
    share = target.settings.share
    crops = math.ceil(share * stream.corpus.seconds * stream.corpus.sample_rate / stream.crop)
    drawn = dataclasses.replace(stream, batch=FITTING_CROPS, seed=seed)
    steps = math.ceil(crops / FITTING_CROPS)
    place = next(iter(target.buffers())).device
    with progress(f"fitting target {name}", steps) as advance:

        def batches() -> Any:
            for batch in drawn.batches(0, steps):
                if batch.items:
                    yield batch.samples_BT.to(place)
                advance()

        report = target.fit(batches(), seed)
    return {"share": share, "crops": steps * FITTING_CROPS, **report}


def _some(stream: Stream, device: torch.device) -> torch.Tensor:
    """Return the first crops that can be read, for the labels to be looked at."""
    for step in range(math.ceil(len(stream.corpus.items) / stream.batch)):
        batch = stream.at(step)
        if batch.items:
            return batch.samples_BT[:CHECKED_CROPS].to(device)
    raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")


def _restore(folder: Path, model: MaskedPrediction, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    found = checkpoint.load(folder / TRAINING)
    if found is None:
        return 0, 0.0
    if found.note:
        warnings.warn(found.note, stacklevel=3)
    checkpoint.restore(found, model, optimiser)
    return found.state["step"], found.state["seconds"]


def _save(run: Run) -> None:
    checkpoint.save(run.folder / TRAINING, run.model, run.optimiser, {"step": run.step, "seconds": run.seconds})
    save_pretrained(run.model.encoder, run.folder, readme(run))
