"""Training of our own codec, resumable at any step; its codes are a target that can be listened to.

The loss is the spectral distance plus weighted L1 of the waveform and commitment; there is no discriminator. Every draw
of a step depends on (seed, step). The folder holds the codec (`config.json`, `model.safetensors`), `sound/` with one
crop as it was and reconstructed from 1, 2, 4, … codebooks, `run.json`, `metrics.jsonl` and `training/`.

Log keys: `loss`, `spectral`, `waveform`, `commitment`, `gradient_norm` (means over the steps since the last line),
`steps`, `skipped`, `missing`, `usage/Q` (relative perplexity of codebook Q's running counts), `distance/Q` (spectral
distance of some crops reconstructed from the first Q codebooks; it should fall with Q), `learning_rate`, `seconds`.

Letters: B batch, T samples, F frames, Q codebooks, K codes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import DataError, UsageError
from carrara.core.io import atomic_write
from carrara.core.progress import progress
from carrara.nn.quantize.residual_quantizer import relative_perplexity
from carrara.nn.quantize.rvq_vae import RVQVAE
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain.checkpoint import (
    TRAINING,
    collect_tensors,
    load_checkpoint,
    restore_checkpoint,
    write_checkpoint,
)
from carrara.pretrain.codec_folder import save_codec
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.metrics_log import MetricAverager, MetricsLog
from carrara.pretrain.optimiser import adamw, scheduled_rate
from carrara.pretrain.process import interruptible
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.run_file import prepare_run_file

SOUND = "sound"
CHECKED_CROPS = 4
SEED_STRIDE = 1_000_003


@dataclass
class _Run:
    """The state of a run; `checked_BT` are the crops that are reconstructed for the log."""

    folder: Path
    recipe: CodecRecipe
    codec: RVQVAE
    distance: SpectralDistance
    optimiser: torch.optim.Optimizer
    stream: CropStream
    log: MetricsLog
    checked_BT: Tensor
    device: torch.device
    step: int = 0
    seconds: float = 0.0


def train_codec(
    recipe: CodecRecipe, corpus: Sequence[str | Path], folder: Path, resume: bool, device: torch.device
) -> Path:
    """Train a codec and return its folder.

    Args:
        recipe: resolved recipe.
        corpus: files and folders of audio.
        folder: of the codec.
        resume: continue the run in the folder, or start it where there is none.
        device: where to train.

    Raises:
        UsageError: a step has fewer frames than a codebook has codes.
        DataError: no usable corpus.
        StoreError: the folder holds a run already, or one of another recipe or corpus, or cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is written.
    """
    network = recipe.network
    crop_samples = round(recipe.crop_seconds * network.sample_rate)
    frames = recipe.batch * math.ceil(crop_samples / network.hop)
    if frames < network.codebook_size:
        raise UsageError(
            f"a step of {recipe.batch} crops of {recipe.crop_seconds:g} s has {frames} frames, too few to start "
            f"{network.codebook_size} codes from; raise batch or crop_seconds, or lower network.codebook_size"
        )
    items = build_corpus(corpus, network.sample_rate, crop_samples)
    prepare_run_file(folder, recipe, items, resume)
    stream = CropStream(items, crop_samples, network.hop, recipe.batch, recipe.seed, recipe.target_rms)
    codec = RVQVAE(network, recipe.seed).to(device)
    optimiser = adamw(codec, recipe.optimiser)
    checkpoint = load_checkpoint(folder / TRAINING)
    if checkpoint:
        if checkpoint.warning:
            warnings.warn(checkpoint.warning, stacklevel=2)
        restore_checkpoint(checkpoint, codec, optimiser)
    first_batch = stream.read_batch(0)
    if not first_batch.item_indices:
        raise DataError(f"no file of the first step can be read, the last for this reason: {first_batch.errors[-1]}")
    state: dict[str, Any] = checkpoint.state if checkpoint else {"step": 0, "seconds": 0.0}
    run = _Run(
        folder=folder,
        recipe=recipe,
        codec=codec,
        distance=SpectralDistance(network.sample_rate).to(device),
        optimiser=optimiser,
        stream=stream,
        log=MetricsLog(folder, state["step"]),
        checked_BT=first_batch.samples_BT[:CHECKED_CROPS].to(device),
        device=device,
        step=state["step"],
        seconds=state["seconds"],
    )
    try:
        if run.step < recipe.steps:
            _train(run)
    finally:
        run.log.close()
    return folder


def _train(run: _Run) -> None:
    recipe, averager, unread = run.recipe, MetricAverager(), 0
    with interruptible() as interrupted, progress("training the codec", recipe.steps) as advance:
        advance(run.step)
        for batch in run.stream.iter_batches(run.step, recipe.steps):
            loss = _step(run, batch, averager)
            unread = 0 if batch.item_indices else unread + run.stream.batch_size
            if unread >= len(run.stream.corpus.items):
                raise DataError(f"no file of the corpus can be read, the last for this reason: {batch.errors[-1]}")
            run.step += 1
            advance(1, f"loss {loss:.3f}")
            stop = interrupted.is_set()
            save_due = stop or run.step == recipe.steps or run.step % recipe.checkpoint_every == 0
            if save_due or run.step % recipe.log_every == 0:
                _write_line(run, averager)
                averager = MetricAverager()
            if save_due:
                state = {"step": run.step, "seconds": run.seconds}
                write_checkpoint(run.folder / TRAINING, collect_tensors(run.codec, run.optimiser), state)
                save_codec(run.codec, run.folder)
                _write_sound(run)
            if stop:
                raise KeyboardInterrupt


def _step(run: _Run, batch: CropBatch, averager: MetricAverager) -> float:
    """Take one step and return its loss, NaN where it is skipped."""
    recipe, settings = run.recipe, run.recipe.optimiser
    averager.steps += 1
    averager.missing += len(batch.errors)
    # The codebooks start from the first whole batch; a smaller one could have fewer frames than codes.
    if not batch.item_indices or (batch.errors and not bool(run.codec.books.started)):
        averager.skipped += 1
        return math.nan
    for group in run.optimiser.param_groups:
        group["lr"] = scheduled_rate(batch.step, recipe.steps, settings)
    generator = torch.Generator().manual_seed(recipe.seed * SEED_STRIDE + batch.step)
    samples_BT = batch.samples_BT.to(run.device, non_blocking=True)
    output = run.codec.train()(samples_BT, generator)
    parts = {
        "spectral": run.distance(output.samples_BT, samples_BT),
        "waveform": (output.samples_BT - samples_BT).abs().mean(),
        "commitment": output.commitment,
    }
    loss = parts["spectral"] + recipe.waveform * parts["waveform"] + recipe.commitment * parts["commitment"]
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(run.codec.parameters(), settings.max_grad_norm or math.inf))
    if not math.isfinite(norm):
        averager.skipped += 1
        return math.nan
    run.optimiser.step()
    losses = {name: float(part.detach()) for name, part in {"loss": loss, **parts}.items()}
    averager.add({**losses, "gradient_norm": norm})
    return losses["loss"]


@torch.no_grad()
def _write_line(run: _Run, averager: MetricAverager) -> None:
    run.seconds += time.monotonic() - averager.started
    codec = run.codec.eval()
    line: dict[str, float] = {"step": run.step, **averager.means()}
    codes_BFQ = codec.encode(run.checked_BT)
    for count, counts_K in enumerate(codec.books.counts_QK, 1):
        line[f"usage/{count}"] = relative_perplexity(counts_K)
        decoded_BT = codec.decode(codes_BFQ[..., :count])[:, : run.checked_BT.shape[1]]
        line[f"distance/{count}"] = float(run.distance(decoded_BT, run.checked_BT))
    line["learning_rate"] = run.optimiser.param_groups[0]["lr"]
    line["seconds"] = run.seconds
    run.log.write(line)


def _write_sound(run: _Run) -> None:
    """Write one crop as it was and as the first codebooks reconstruct it."""
    import soundfile

    sounds = {"original": run.checked_BT[:1]}
    codes_BFQ, count = run.codec.encode(run.checked_BT[:1]), 1
    while count <= run.recipe.network.num_codebooks:
        sounds[f"codebooks-{count}"] = run.codec.decode(codes_BFQ[..., :count])
        count *= 2
    for name, samples_1T in sounds.items():
        with atomic_write(run.folder / SOUND / f"{name}.wav") as tmp:
            soundfile.write(tmp, samples_1T[0].clamp(-1, 1).cpu().numpy(), run.recipe.network.sample_rate)
