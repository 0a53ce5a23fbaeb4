"""Training of our own codec; its codes are a target that can be listened to.

The loss is the spectral distance plus weighted L1 of the waveform and commitment; there is no discriminator. The
codebooks follow the vectors of the whole batch, over all ranks and micro-batches; they start from the first batch that
has enough frames. The folder holds the codec (`config.json`, `model.safetensors`), `sound/` with one crop as it was and
reconstructed from 1, 2, 4, … codebooks, `run.json`, `metrics.jsonl` and `training/`.

Log keys besides those of every run (metrics_log.py): `spectral`, `waveform`, `commitment`, `usage/Q` (relative
perplexity of codebook Q's running counts), `distance/Q` (spectral distance of some crops reconstructed from the first Q
codebooks; it should fall with Q).

Letters: B batch, T samples, F frames, N vectors, C latent dimensions, Q codebooks, K codes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.core.io import atomic_write
from carrara.formats.weights import hash_tensors
from carrara.nn.quantize.residual_quantizer import relative_perplexity
from carrara.nn.quantize.rvq_vae import RVQVAE, CodecOutput
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint, without_prefix
from carrara.pretrain.codec_folder import load_codec, save_codec
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.initialize import Initialization, former_record
from carrara.pretrain.objectives._base import SEED_STRIDE, MicroBatch, Objective, check_batch, split_rows
from carrara.pretrain.objectives._losses import CLIPS, Losses, LossTerm
from carrara.pretrain.optimiser import scheduled_rate
from carrara.pretrain.precision import autocast
from carrara.pretrain.recipes.rvq_vae import CodecRecipe

SOUND = "sound"
CHECKED_CROPS = 4


@dataclass(frozen=True, kw_only=True)
class _CodecCrops(MicroBatch):
    """Some crops of a step, and how many codebooks the step uses."""

    samples_BT: Tensor
    active: int


class CodecObjective(Objective):
    """The objective of RVQ-VAE."""

    recipe: CodecRecipe
    module: RVQVAE

    def __init__(self, recipe: CodecRecipe, corpus: Sequence[str | Path], folder: Path, start: str, dist: Dist) -> None:
        """Build the codec at its initial weights, and the corpus.

        Raises:
            UsageError: a step has fewer frames than a codebook has codes, or the initial codec is of another shape.
            WeightsError: the initial codec is not whole.
            DataError: no usable corpus.
        """
        self.recipe, self.dist, self.steps = recipe, dist, recipe.steps
        network = recipe.network
        crop_samples = round(recipe.crop_seconds * network.sample_rate)
        self.crop_frames = math.ceil(crop_samples / network.hop)
        with dist.report_once():
            check_batch(recipe.batch, dist.world_size)
            if recipe.batch * self.crop_frames < network.codebook_size:
                raise UsageError(
                    f"a step of {recipe.batch} crops of {recipe.crop_seconds:g} s has "
                    f"{recipe.batch * self.crop_frames} frames, too few to start {network.codebook_size} codes from; "
                    f"raise --set batch={math.ceil(network.codebook_size / self.crop_frames)}, or lower --set "
                    f"network.codebook_size={recipe.batch * self.crop_frames}"
                )
            self.module = RVQVAE(network, recipe.seed)
            self.initialization = self._load_start(start, folder)
        self.corpus = dist.on_rank_zero(lambda: build_corpus(corpus, network.sample_rate, crop_samples))
        self.stream = CropStream(self.corpus, crop_samples, network.hop, recipe.batch, recipe.seed)

    def prepare(self, folder: Path) -> None:
        """Read the crops that are reconstructed for the log.

        Raises:
            DataError: no file of the first step can be read.
        """
        self.module.to(self.dist.device)
        self.module.activation_checkpointing = self.recipe.activation_checkpointing
        self.distance = SpectralDistance(self.recipe.network.sample_rate).to(self.dist.device)
        with self.dist.report_once():
            self.checked_BT = self.stream.first_readable_batch().samples_BT[:CHECKED_CROPS].to(self.dist.device)
        self.outputs: list[tuple[Tensor, Tensor]] = []
        self.follows_batch = True

    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's crops, and start the codebooks if this is the first step; see the base class."""
        recipe, books = self.recipe, self.module.books
        self.clips_by_rank = self.dist.gather_counts(len(batch.samples_BT))
        self.outputs, self.follows_batch = [], bool(books.started)
        self.generator = torch.Generator().manual_seed(recipe.seed * SEED_STRIDE + batch.step)
        active = recipe.network.num_codebooks
        if self.follows_batch:
            active = self.module.draw_active(self.generator)
        elif sum(self.clips_by_rank) * self.crop_frames < recipe.network.codebook_size:
            return []
        else:
            self._start_codebooks(batch.samples_BT)
        return [
            _CodecCrops(
                index=index,
                divisors={CLIPS: len(rows)},
                is_padding=not len(rows),
                samples_BT=self.device_crops(batch.samples_BT[rows]),
                active=active,
            )
            for index, rows in split_rows(len(batch.samples_BT), recipe.accumulation_steps, self.dist)
        ]

    def losses(self, network: nn.Module, micro_batch: _CodecCrops, step: int) -> Losses:
        """Return the errors of the reconstructions; see the base class."""
        samples_BT, clips = micro_batch.samples_BT, len(micro_batch.samples_BT)
        with autocast(self.recipe.precision, self.dist.device):
            output: CodecOutput = network(samples_BT, micro_batch.active)
        counted = slice(0 if micro_batch.is_padding else None)
        self.outputs.append((output.vectors_QNC[:, counted], output.codes_QN[:, counted]))
        decoded_BT = output.samples_BT.float()
        # Means over equally long crops times their number are sums over crops.
        return Losses(
            {
                "spectral": LossTerm(clips * self.distance(decoded_BT, samples_BT)),
                "waveform": LossTerm(clips * (decoded_BT - samples_BT).abs().mean(), weight=self.recipe.waveform),
                "commitment": LossTerm(clips * output.commitment, weight=self.recipe.commitment),
            }
        )

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step; see the base class."""
        return scheduled_rate(step, self.steps, self.recipe.optimiser)

    def after_step(self, step: int, is_taken: bool) -> None:
        """Let the codebooks follow the batch."""
        if is_taken and self.follows_batch:
            vectors_by_rank = [clips * self.crop_frames for clips in self.clips_by_rank]
            self.module.books.update(
                list(torch.cat([vectors_QNC for vectors_QNC, _ in self.outputs], 1)),
                list(torch.cat([codes_QN for _, codes_QN in self.outputs], 1)),
                self.generator,
                sum(vectors_by_rank[: self.dist.rank]),
                sum(vectors_by_rank),
                self.dist.sum_tensor,
            )
        self.outputs = []

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the mean losses of a crop; see the base class."""
        if not float(sums.get(CLIPS, 0)):
            return {}
        parts = {name: float(sums[name] / sums[CLIPS]) for name in ("spectral", "waveform", "commitment")}
        weights = {"spectral": 1.0, "waveform": self.recipe.waveform, "commitment": self.recipe.commitment}
        return {"loss": sum(weights[name] * part for name, part in parts.items()), **parts}

    @torch.no_grad()
    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return usage of the codebooks and distances of reconstructions; see the base class."""
        if not self.dist.is_main:
            return {}
        line: dict[str, float] = {}
        codec = self.module.eval()
        codes_BFQ = codec.encode(self.checked_BT)
        for count, counts_K in enumerate(codec.books.counts_QK, 1):
            line[f"usage/{count}"] = relative_perplexity(counts_K)
            decoded_BT = codec.decode(codes_BFQ[..., :count])[:, : self.checked_BT.shape[1]]
            line[f"distance/{count}"] = float(self.distance(decoded_BT, self.checked_BT))
        return line

    def saved_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the codec; see the base class."""
        return {"": without_prefix(tensors, "model.")}

    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write the codec, and a crop as it was and as the first codebooks reconstruct it; see the base class."""
        import soundfile

        codec = self.module
        sounds = {"original": self.checked_BT[:1]}
        codes_BFQ, count = codec.encode(self.checked_BT[:1]), 1
        while count <= self.recipe.network.num_codebooks:
            sounds[f"codebooks-{count}"] = codec.decode(codes_BFQ[..., :count])
            count *= 2
        for name, samples_1T in sounds.items():
            with atomic_write(folder / SOUND / f"{name}.wav") as tmp:
                soundfile.write(tmp, samples_1T[0].clamp(-1, 1).cpu().numpy(), self.recipe.network.sample_rate)
        save_codec(codec, folder)  # last: a resumed run sees by the codec whether all was written

    def _start_codebooks(self, samples_BT: Tensor) -> None:
        """Start the codebooks from the vectors of the whole batch, on rank 0 for all."""
        latent_NC = self.module.latents(self.device_crops(samples_BT))[: len(samples_BT) * self.crop_frames]
        rows = [clips * self.crop_frames for clips in self.clips_by_rank]
        whole_NC, books = self.dist.gather_rows(latent_NC, rows), self.module.books

        def start() -> dict[str, Tensor]:
            books.start(whole_NC, self.generator)
            return {name: tensor.cpu() for name, tensor in books.state_dict().items()}

        books.load_state_dict(self.dist.on_rank_zero(start))

    def _load_start(self, start: str, folder: Path) -> Initialization:
        """Load the weights of another codec, unless the run has a checkpoint already."""
        if not start:
            return Initialization()
        record: dict[str, Any] = {"from": start}
        if has_checkpoint(folder / TRAINING):
            return Initialization(former_record(folder) | record)
        codec = load_codec(Path(start).expanduser())
        ours, theirs = self.recipe.network.model_dump(), codec.settings.model_dump()
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            listing = ", ".join(f"{name} is {theirs[name]} there and {ours[name]} here" for name in differing)
            cure = " ".join(
                f"--set network.{name}={json.dumps(theirs[name], separators=(',', ':'))}" for name in differing
            )
            raise UsageError(f"--from {start}: is another codec: {listing}; choose its scale, or {cure}")
        self.module.load_state_dict(codec.state_dict())
        return Initialization(record | {"weights_sha256": hash_tensors(codec.state_dict())})
