"""One pre-training from a recipe and a corpus to an encoder folder; stopped anywhere, it goes on exactly.

The output folder is an encoder at every checkpoint (`carrara.load` reads it) and holds what made it: `run.json` (the
resolved recipe and the corpus), `targets/` (fitted once), `journal.jsonl`, `training/` (checkpoints). Under torchrun
the first rank writes all of it and the others read it, so it lies where all of them see it.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import DataError, StoreError, UsageError
from carrara.core.settings import replace
from carrara.encoders._hub.load import build, save_pretrained
from carrara.encoders._hubert.network import HubertEncoder, describe
from carrara.nn.device import pick_device
from carrara.pretrain import checkpoint, fit_targets, label_checks, rvq_vae
from carrara.pretrain.card import readme
from carrara.pretrain.corpus.label_store import LabelStore, stores
from carrara.pretrain.corpus.stream import Stream, find
from carrara.pretrain.dist import Ranks, joined
from carrara.pretrain.fsdp import divide
from carrara.pretrain.initialize import begin, fetch, put
from carrara.pretrain.loop import TRAINING, adamw, train
from carrara.pretrain.metrics_log import NAME, STARTED, Journal, events
from carrara.pretrain.objective import MaskedPrediction
from carrara.pretrain.probes import Probe, Probes
from carrara.pretrain.recipes._base import Recipe, resolve
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.run_file import prepare
from carrara.pretrain.state import Run
from carrara.pretrain.tagging import run as tagging
from carrara.pretrain.tagging.settings import TaggingRecipe
from carrara.pretrain.targets._base import FrameGrid, Target

LABELS = "labels"
CHECKED_CROPS = 8
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
    start: str | Path | None = None,
    probe: Probe | None = None,
    probe_every: int = 500,
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
        start: an encoder as `carrara.load` takes it, or the folder of a former run; none: random weights.
        probe: encoder → by a name its score with "low" and "high", "metric" and "seconds" (see probes.py); changes
            nothing of what is learnt.
        probe_every: steps from one probe to the next.

    Raises:
        UsageError: an unknown recipe or setting, or settings that do not go together.
        DataError: no usable corpus, or labels that cannot be right.
        StoreError: the folder holds a run already, one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    wanted = dict(changes or {}) | ({"steps": steps} if steps is not None else {})
    full: Any = resolve(recipe, scale, wanted) if isinstance(recipe, str) else replace(recipe, wanted)
    folder = Path(output)
    given = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if not isinstance(full, Recipe) and (start or probe):
        raise UsageError("--from and --probe go with recipes that predict what is masked; leave them out")
    if isinstance(full, TaggingRecipe):
        return tagging.teach(full, given, folder, resume, torch.device(pick_device(str(device))))
    if isinstance(full, CodecRecipe):
        return rvq_vae.teach(full, given, folder, resume, torch.device(pick_device(str(device))))
    with joined(torch.device(pick_device(str(device))), full.timeout_seconds) as ranks:
        run = _made(full, given, folder, resume, ranks, str(start or ""))
        run.probes = Probes(probe, probe_every)
        try:
            with _threads(run.model.encoder, run.device):
                train(run, _save)
        finally:
            run.journal.close()
    return folder


def _made(
    recipe: Recipe, corpus: Sequence[str | Path], folder: Path, resume: bool, ranks: Ranks, start: str = ""
) -> Run:
    """Return the run, its targets fitted, as far as it has got."""
    with ranks.alike():
        encoder = _encoder(recipe, folder.resolve().name)
        begun = begin(start, recipe, encoder, folder)
        grid = _grid(encoder)
        crop = _crop(recipe, encoder, grid)
        _divisible(recipe, ranks)
    found = ranks.lead(lambda: find(corpus, grid.sample_rate, crop))
    ranks.lead(lambda: prepare(folder, recipe, found, resume, begun.record))
    ranks.lead(lambda: fetch(begun, folder))
    stream = Stream(found, crop, grid.hop, recipe.batch, recipe.seed, recipe.target_rms)
    ranks.lead(lambda: fit_targets.fitted(folder, recipe, grid, stream, ranks.device))
    targets = fit_targets.targets(folder, recipe, grid, ranks.device)
    encoder.to(ranks.device)
    encoder.encoder.recompute = recipe.activation_checkpointing
    still = {name: target for name, target in targets.items() if not target.is_ema}
    with ranks.alike():
        for target in targets.values():
            target.attach(encoder)
        label_checks.check(still, _some(stream, ranks.device), encoder.frames(crop))
        model = MaskedPrediction(encoder, targets, recipe.objective, recipe.seed).to(ranks.device)
        put(begun, model, targets)
        divide(model, recipe, ranks, moving=len(still) < len(targets))

    def labelled() -> dict[str, LabelStore]:
        return stores(folder / LABELS, targets, stream.corpus, ranks.device)

    ranks.lead(labelled)
    run = Run(
        folder=folder,
        recipe=recipe,
        model=model,
        optimiser=adamw(model, recipe.optimiser),
        targets=targets,
        stream=stream,
        journal=Journal(folder, 0, silent=True),
        device=ranks.device,
        frames=_frames(targets, encoder, crop, ranks.device),
        ranks=ranks,
        stores=labelled(),
        told=begun.told(),
    )
    _restore(run)
    run.journal = Journal(folder, run.step, silent=not ranks.first)
    if begun.record and not any(event["event"] == STARTED for event in events(folder / NAME)):
        run.journal.write({"step": 0, "event": STARTED, **begun.record})
        if ranks.first:
            print(f"{folder}: {begun.told()}", file=sys.stderr)
    return run


def _divisible(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse mixup whose pools would be cut by the edges between ranks."""
    edges, pool = [rank * recipe.batch // ranks.size for rank in range(ranks.size)], recipe.mixup.pool
    if recipe.mixup.probability and any(edge % pool for edge in edges):
        raise UsageError(
            f"mixup.pool {pool} does not fit the {recipe.batch} crops of a step on {ranks.size} ranks: mixing would "
            f"depend on their number; set mixup.pool to a divisor of {recipe.batch // ranks.size}"
        )
    if recipe.batch < ranks.size:
        raise UsageError(f"batch {recipe.batch} is less than one crop for each of {ranks.size} ranks; raise batch")


def _frames(targets: Mapping[str, Target], encoder: HubertEncoder, crop: int, device: torch.device) -> int:
    """Return how many frames of a crop every target has labels for."""
    silence_BT, frames = torch.zeros(1, crop, device=device), encoder.frames(crop)
    return min(target.labels(silence_BT, frames).shape[1] for target in targets.values())


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


def _grid(encoder: HubertEncoder) -> FrameGrid:
    settings = encoder.settings
    receptive = 1
    for kernel, stride in zip(reversed(settings.conv_kernels), reversed(settings.conv_strides)):
        receptive = (receptive - 1) * stride + kernel
    return FrameGrid(settings.sample_rate, settings.stride, receptive // 2)


def _crop(recipe: Recipe, encoder: HubertEncoder, grid: FrameGrid) -> int:
    crop = round(recipe.crop_seconds * grid.sample_rate)
    span = max([recipe.masking.mask_length, *(span for _, _, span in recipe.masking.schedule)])
    frames, needed = encoder.frames(crop), span + label_checks.FEWER_FRAMES
    if frames <= needed:
        tenths = next(one for one in count(1) if encoder.frames(one * grid.sample_rate // 10) > needed)
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {frames} frames, too few for spans of {span}; "
            f"use {tenths / 10:g} or more, or a shorter masking.mask_length (and in masking.schedule)"
        )
    if recipe.masking.channels and recipe.masking.channel_span >= encoder.settings.dim:
        raise UsageError(
            f"masking.channel_span {recipe.masking.channel_span} silences all {encoder.settings.dim} channels of the "
            "network; lower it"
        )
    return crop


def _some(stream: Stream, device: torch.device) -> torch.Tensor:
    """Return the first crops that can be read, for the labels to be looked at."""
    for step in range(math.ceil(len(stream.corpus.items) / stream.batch)):
        batch = stream.at(step)
        if batch.items:
            return batch.samples_BT[:CHECKED_CROPS].to(device)
    raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")


def _restore(run: Run) -> None:
    found = checkpoint.load(run.folder / TRAINING)
    if found is None:
        return
    if found.note and run.ranks.first:
        warnings.warn(found.note, stacklevel=3)
    with run.ranks.alike():
        checkpoint.restore(found, run.model, run.optimiser, run.moving())
    run.recall(found.state)


def _save(run: Run) -> None:
    tensors = checkpoint.gather(run.model, run.optimiser, run.moving())

    def write() -> None:
        checkpoint.write(run.folder / TRAINING, tensors, run.state())
        encoder = run.model.encoder
        if run.recipe.fsdp:
            prefix = "model.encoder."
            encoder = HubertEncoder(encoder.settings, encoder.card)
            encoder.load_state_dict(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            )
        try:
            save_pretrained(encoder, run.folder, readme(run))
        except StoreError as problem:
            raise StoreError(f"{problem}; make room and resume") from None

    run.ranks.lead(write)
