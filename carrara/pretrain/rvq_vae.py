"""The training of our own codec, stopped anywhere and gone on exactly; every checkpoint is a teacher one can listen to.

Loss: the spectral distance, the waveform's L1 and the commitment (carrara/nn/quantize/rvq_vae.py); no discriminator.
Every draw of a step comes from (seed, step). The folder holds the codec (`config.json`, `model.safetensors`), `sound/`
with one crop as it was and as 1, 2, 4, … books give it back, `run.json`, `journal.jsonl` and `training/`.

Journal keys: `loss`, `spectral`, `waveform`, `commitment` (means over the steps since the line before), `usage/Q` (exp
of the entropy of book Q's running counts over its size), `distance/Q` (spectral distance of the checked crops from the
first Q books alone; it should fall with Q), `gradient_norm`, `skipped`, `missing`, `learning_rate`, `seconds`.

Letters: B batch, T samples.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from carrara.core.errors import DataError, UsageError
from carrara.core.io import atomic_write
from carrara.core.progress import progress
from carrara.nn.quantize.residual_quantizer import evenness
from carrara.nn.quantize.rvq_vae import RVQVAE, save
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain import checkpoint
from carrara.pretrain.corpus.stream import Batch, Stream, find
from carrara.pretrain.loop import adamw, interruptible
from carrara.pretrain.lr_schedule import learning_rate
from carrara.pretrain.metrics_log import Journal
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.run_file import prepare

TRAINING, SOUND = "training", "sound"
CHECKED_CROPS = 4


@dataclass
class _Training:
    """One training in the making."""

    folder: Path
    recipe: CodecRecipe
    codec: RVQVAE
    distance: SpectralDistance
    optimiser: torch.optim.Optimizer
    stream: Stream
    journal: Journal
    checked_BT: Tensor
    device: torch.device
    step: int
    seconds: float


@dataclass
class _Sums:
    """What happened since the journal's last line."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    skipped: int = 0
    missing: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, float]:
        taken = max(self.steps - self.skipped, 1)
        means = {name: part / taken for name, part in self.parts.items()}
        return {"steps": self.steps, "skipped": self.skipped, "missing": self.missing, **means}


def teach(recipe: CodecRecipe, corpus: Sequence[str | Path], folder: Path, resume: bool, device: torch.device) -> Path:
    """Train a codec and return its folder.

    Args:
        recipe: the resolved recipe.
        corpus: files and folders of audio.
        folder: to be made.
        resume: go on with the run in the folder, or start it where there is none.
        device: where to train.

    Raises:
        UsageError: a step hears fewer frames than a book has codes.
        DataError: no usable corpus.
        StoreError: the folder holds a run already, one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    network = recipe.network
    crop = round(recipe.crop_seconds * network.sample_rate)
    frames = recipe.batch * math.ceil(crop / network.hop)
    if frames < network.codebook_size:
        raise UsageError(
            f"a step of {recipe.batch} crops of {recipe.crop_seconds:g} s has {frames} frames, too few to start "
            f"{network.codebook_size} codes from; raise batch or crop_seconds, or lower network.codebook_size"
        )
    found = find(corpus, network.sample_rate, crop)
    prepare(folder, recipe, found, resume)
    stream = Stream(found, crop, network.hop, recipe.batch, recipe.seed, recipe.target_rms)
    codec = RVQVAE(network, recipe.seed).to(device)
    optimiser = adamw(codec, recipe.optimiser)
    step, seconds = _restore(folder, codec, optimiser)
    checked_BT = stream.at(0).samples_BT[:CHECKED_CROPS].to(device)
    if not len(checked_BT):
        raise DataError(f"no file of the first step can be read, the last for this reason: {stream.at(0).bad[-1]}")
    run = _Training(
        folder=folder,
        recipe=recipe,
        codec=codec,
        distance=SpectralDistance(network.sample_rate).to(device),
        optimiser=optimiser,
        stream=stream,
        journal=Journal(folder, step),
        checked_BT=checked_BT,
        device=device,
        step=step,
        seconds=seconds,
    )
    try:
        if step < recipe.steps:
            _train(run)
    finally:
        run.journal.close()
    return folder


def _restore(folder: Path, codec: RVQVAE, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    found = checkpoint.load(folder / TRAINING)
    if found is None:
        return 0, 0.0
    if found.note:
        warnings.warn(found.note, stacklevel=3)
    checkpoint.restore(found, codec, optimiser)
    return found.state["step"], found.state["seconds"]


def _train(run: _Training) -> None:
    recipe, sums, unheard = run.recipe, _Sums(), 0
    with interruptible() as interrupted, progress("training the codec", recipe.steps) as advance:
        advance(run.step)
        for batch in run.stream.batches(run.step, recipe.steps):
            loss = _step(run, batch, sums)
            unheard = 0 if batch.items else unheard + run.stream.batch
            if unheard >= len(run.stream.corpus.items):
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.bad[-1]}")
            run.step += 1
            advance(1, f"loss {loss:.3f}")
            due = interrupted.is_set() or run.step == recipe.steps or run.step % recipe.checkpoint_every == 0
            if due or run.step % recipe.log_every == 0:
                _write(run, sums)
                sums = _Sums()
            if due:
                state = {"step": run.step, "seconds": run.seconds}
                checkpoint.save(run.folder / TRAINING, run.codec, run.optimiser, state)
                save(run.codec, run.folder)
                _write_sound(run)
            if interrupted.is_set():
                raise KeyboardInterrupt


def _step(run: _Training, batch: Batch, sums: _Sums) -> float:
    """Take one step and return its loss, NaN where it was skipped."""
    recipe, settings = run.recipe, run.recipe.optimiser
    sums.steps += 1
    sums.missing += len(batch.bad)
    # The codebooks start from the first batch that is whole; a smaller one could have fewer frames than codes.
    if not batch.items or (batch.bad and not bool(run.codec.books.started)):
        sums.skipped += 1
        return math.nan
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(
            batch.step, recipe.steps, settings.learning_rate, settings.warmup_fraction, settings.poly_power
        )
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + batch.step)
    samples_BT = batch.samples_BT.to(run.device, non_blocking=True)
    coded = run.codec.train()(samples_BT, generator)
    parts = {
        "spectral": run.distance(coded.samples_BT, samples_BT),
        "waveform": (coded.samples_BT - samples_BT).abs().mean(),
        "commitment": coded.commitment,
    }
    loss = parts["spectral"] + recipe.waveform * parts["waveform"] + recipe.commitment * parts["commitment"]
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(run.codec.parameters(), settings.max_grad_norm or math.inf))
    if not math.isfinite(norm):
        sums.skipped += 1
        return math.nan
    run.optimiser.step()
    for name, part in {"loss": loss, **parts}.items():
        sums.parts[name] = sums.parts.get(name, 0.0) + float(part.detach())
    sums.parts["gradient_norm"] = sums.parts.get("gradient_norm", 0.0) + norm
    return float(loss.detach())


@torch.no_grad()
def _write(run: _Training, sums: _Sums) -> None:
    run.seconds += time.monotonic() - sums.began
    codec = run.codec.eval()
    line: dict[str, float] = {"step": run.step, **sums.line()}
    codes_BFQ = codec.encode(run.checked_BT)
    for book, counts_K in enumerate(codec.books.counts_QK):
        line[f"usage/{book + 1}"] = evenness(counts_K)
        heard_BT = codec.decode(codes_BFQ[..., : book + 1])[:, : run.checked_BT.shape[1]]
        line[f"distance/{book + 1}"] = float(run.distance(heard_BT, run.checked_BT))
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["seconds"] = run.seconds
    run.journal.write(line)


def _write_sound(run: _Training) -> None:
    """Write one crop as it was and as the first books give it back, for people to hear."""
    import soundfile

    sounds = {"original": run.checked_BT[:1]}
    codes_BFQ, books = run.codec.encode(run.checked_BT[:1]), 1
    while books <= run.recipe.network.num_codebooks:
        sounds[f"books-{books}"] = run.codec.decode(codes_BFQ[..., :books])
        books *= 2
    for name, samples_1T in sounds.items():
        with atomic_write(run.folder / SOUND / f"{name}.wav") as draft:
            soundfile.write(draft, samples_1T[0].clamp(-1, 1).cpu().numpy(), run.recipe.network.sample_rate)
