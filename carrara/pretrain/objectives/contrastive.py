"""Contrastive pairs: a view of a recording must be nearer to another view of it than to any view of others.

[saeed2021] [chen2020] (recipes/contrastive.py). A crop is played at a random speed; two views that do not overlap are
cut from it. The encoder's last layer, averaged over time, goes through two linear maps with a GELU between, and

    loss = mean over the 2 G views of a group of −log softmax(cosines / temperature)[the other view]

over all views of the group but the view itself. Views of the same recording at the same speed that met in a group at
the edge of two epochs are no negatives of one another.

The folder holds the encoder, `run.json`, `metrics.jsonl` and `training/`. Log keys besides those of every run:
`accuracy` (fraction of views whose nearest is the other view of their crop), `rank/0` … `rank/last`.

Letters: B crops, V = 2 B views, T samples, G frames, M values of a frame, D dim, P projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import DataError, UsageError
from carrara.encoders._base import untrained_card
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders.cqt_mel import SAMPLE_RATE, CqtMelEncoder
from carrara.nn.spectral.framing import no_autocast
from carrara.pretrain.card import pretraining_card
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.initialize import load_start
from carrara.pretrain.monitors import MEASURED_CROPS, effective_rank
from carrara.pretrain.objectives._base import MicroBatch, Objective, split_rows
from carrara.pretrain.objectives._losses import CLIPS, Losses, LossTerm
from carrara.pretrain.optimiser import cosine_decay
from carrara.pretrain.precision import autocast
from carrara.pretrain.recipes.contrastive import ContrastiveRecipe, PairSettings

STATISTICS_CROPS = 256
VIEW_DRAW = 3  # distinguishes the draws of speed and views from those of the crops


@dataclass(frozen=True, kw_only=True)
class _Views(MicroBatch):
    """The views of some crops of a step, first views before second ones, and which recording each crop is of."""

    views_VT: Tensor
    recording_B: Tensor


class PairNetwork(nn.Module):
    """The encoder and the projection in whose space views are compared."""

    def __init__(self, encoder: CqtMelEncoder, settings: PairSettings, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        dim = encoder.settings.dim
        self.projection = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, settings.projection_dim))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.projection.parameters():
                parameter.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)

    def forward(self, values_VGM: Tensor) -> Tensor:
        """Return the projections of views, `[V, P]`, of norm 1, from the encoder's input."""
        mean_VD = self.encoder.transformed(values_VGM)[-1].mean(1)
        projected_VP = self.projection(mean_VD)
        with no_autocast(projected_VP):
            return functional.normalize(projected_VP.float(), dim=-1)


class ContrastiveObjective(Objective):
    """The objective of contrastive pairs."""

    recipe: ContrastiveRecipe
    module: PairNetwork
    encoder: CqtMelEncoder

    def __init__(
        self, recipe: ContrastiveRecipe, corpus: Sequence[str | Path], folder: Path, start: str, dist: Dist
    ) -> None:
        """Build the encoder at its initial weights, and the corpus.

        Raises:
            UsageError: settings do not go together, or the initial weights are another network's.
            DataError: no usable corpus.
            WeightsError: the initial weights are not whole.
        """
        self.recipe, self.dist, self.steps = recipe, dist, recipe.steps
        with dist.report_once():
            check_groups(recipe, dist.world_size)
            self.encoder = build_spectra_encoder(recipe)
            self.encoder.card = untrained_card(self.encoder.card, folder.resolve().name)
            self.initialization = load_start(start, self.encoder, folder)
        crop_samples = round(recipe.crop_seconds * SAMPLE_RATE)
        self.corpus = dist.on_rank_zero(lambda: build_corpus(corpus, SAMPLE_RATE, crop_samples))
        with dist.report_once():
            if len(self.corpus.items) < 2:
                raise DataError("a corpus of one file has nothing to tell it apart from; give more files")
        self.stream = CropStream(self.corpus, crop_samples, 1, recipe.batch, recipe.seed)

    def prepare(self, folder: Path) -> None:
        """Measure mean and standard deviation of the values of the corpus's spectra, and add the projection.

        Raises:
            DataError: no file of the first steps can be read.
        """
        encoder, recipe = self.encoder.to(self.dist.device), self.recipe
        if not self.initialization.record and not has_checkpoint(folder / TRAINING):
            for name, value in self.dist.on_rank_zero(self._input_statistics).items():
                encoder.get_buffer(name).copy_(value)
        encoder.activation_checkpointing = recipe.activation_checkpointing
        self.module = PairNetwork(encoder, recipe.pairs, recipe.seed).to(self.dist.device)

    def _input_statistics(self) -> dict[str, Tensor]:
        steps = -(-STATISTICS_CROPS // self.recipe.batch)
        batches = (batch.samples_BT for batch in self.stream.iter_batches(0, steps) if batch.item_indices)
        return self.encoder.input_statistics(samples_BT.to(self.dist.device) for samples_BT in batches)

    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's micro-batches, of whole groups; see the base class."""
        draws_B = [(self.recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.item_indices)]
        pairs = [cut_views(samples_T, draw, self.recipe.pairs) for samples_T, draw in zip(batch.samples_BT, draws_B)]
        recording_B = torch.tensor([item * 100 + semitones for (*_, item), (_, semitones) in zip(draws_B, pairs)])
        micro_batches: list[MicroBatch] = []
        for index, rows in split_rows(len(draws_B), self.recipe.accumulation_steps, self.dist):
            views = [pairs[row][0][number] for number in range(2) for row in rows]
            silence = torch.zeros(2, round(self.recipe.pairs.view_seconds * SAMPLE_RATE))
            crops = _Views(
                index=index,
                divisors={CLIPS: len(rows)},
                is_padding=not len(rows),
                views_VT=(torch.stack(views) if views else silence).to(self.dist.device),
                recording_B=recording_B[rows] if len(rows) else torch.zeros(1, dtype=torch.int64),
            )
            micro_batches.append(crops)
        return micro_batches

    def losses(self, network: nn.Module, micro_batch: _Views, step: int) -> Losses:
        """Return the cross-entropies of the views, summed over crops; see the base class."""
        values_VGM = self.encoder.values(micro_batch.views_VT)
        with autocast(self.recipe.precision, self.dist.device):
            projected_VP = network(values_VGM)
        crops, size = len(micro_batch.recording_B), self.recipe.pairs.group
        loss, correct = projected_VP.new_zeros(()), projected_VP.new_zeros(())
        for first in range(0, crops, size):
            rows = torch.arange(first, min(first + size, crops), device=projected_VP.device)
            group_VP = projected_VP[torch.cat([rows, rows + crops])]
            recording_B = micro_batch.recording_B.to(rows.device)[rows]
            loss_V, is_correct_V = pair_loss(group_VP, recording_B, self.recipe.pairs.temperature)
            # Both views of a crop are half of its loss.
            loss, correct = loss + loss_V.sum() / 2, correct + is_correct_V.sum() / 2
        return Losses({"contrast": LossTerm(loss)}, {"correct": correct})

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step; see the base class."""
        settings = self.recipe.optimiser
        return cosine_decay(step, self.steps, settings.learning_rate, settings.warmup_fraction)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the mean loss of a view and how often it is recognised; see the base class."""
        if not float(sums.get(CLIPS, 0)):
            return {}
        clips = sums[CLIPS]
        return {"loss": float(sums["contrast"] / clips), "accuracy": float(sums["correct"] / clips)}

    @torch.no_grad()
    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return the effective ranks of the encoder's layers; see the base class."""
        if not self.recipe.fsdp and not (self.dist.is_main and batch.item_indices):
            return {}
        self.module.eval()
        values_BGM = self.encoder.values(self.device_crops(batch.samples_BT[:MEASURED_CROPS]))
        layers = self.encoder.layer_outputs(values_BGM)
        names = [*(f"rank/{index}" for index in range(len(layers) - 1)), "rank/last"]
        return {name: effective_rank(layer_BGD) for name, layer_BGD in zip(names, layers)}

    def fsdp_layers(self) -> list[nn.Module]:
        """Return the layers of the encoder; see the base class."""
        return list(self.encoder.layers)

    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write the encoder with its model card; see the base class."""
        encoder = self.encoder_copy(self.saved_weights(tensors)[""]) if self.recipe.fsdp else self.encoder
        save_pretrained(encoder, folder, pretraining_card(self, self.recipe, folder, step, seconds))


def cut_views(samples_T: Tensor, draw: tuple[int, int, int], settings: PairSettings) -> tuple[list[Tensor], int]:
    """Return two views of a crop at a random speed that do not overlap, and the change of the speed in semitones.

    Args:
        samples_T: the crop.
        draw: (seed, epoch, item), which determine the draws.
        settings: length of a view and largest change.
    """
    rng = np.random.default_rng([*draw, VIEW_DRAW])
    semitones = int(rng.integers(-settings.max_semitones, settings.max_semitones + 1))
    if semitones:
        played = soxr.resample(samples_T.numpy(), SAMPLE_RATE * 2 ** (semitones / 12), SAMPLE_RATE, quality="MQ")
        samples_T = torch.from_numpy(played)
    length = round(settings.view_seconds * SAMPLE_RATE)
    # Two starts in what remains when both views are taken out.
    first, second = sorted(rng.integers(0, len(samples_T) - 2 * length + 1, size=2).tolist())
    return [samples_T[first : first + length], samples_T[second + length : second + 2 * length]], semitones


def pair_loss(projected_VP: Tensor, recording_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return each view's cross-entropy, and whether its nearest view is the other one of its crop, `[V]` each.

    Args:
        projected_VP: first views of all crops, then second ones, of norm 1.
        recording_B: which recording (at which speed) a crop is of; crops of the same are no negatives.
        temperature: divisor of the cosines.
    """
    crops = len(recording_B)
    logits_VV = projected_VP @ projected_VP.T / temperature
    other_V = torch.arange(2 * crops, device=projected_VP.device).roll(crops)
    recording_V = recording_B.repeat(2)
    excluded_VV = recording_V[:, None] == recording_V
    excluded_VV[torch.arange(2 * crops, device=projected_VP.device), other_V] = False
    logits_VV = logits_VV.masked_fill(excluded_VV, -torch.inf)
    return functional.cross_entropy(logits_VV, other_V, reduction="none"), logits_VV.argmax(1) == other_V


def build_spectra_encoder(recipe: ContrastiveRecipe) -> CqtMelEncoder:
    """Return the encoder of a recipe with random weights.

    Raises:
        UsageError: it is no encoder of several spectra.
    """
    encoder = build_encoder(recipe.encoder, recipe.seed, recipe.network.model_dump())
    if not isinstance(encoder, CqtMelEncoder):
        raise UsageError(f"encoder {recipe.encoder!r} is not trained by pairs; take cqt-mel-tiny or cqt-mel-small")
    return encoder


def check_groups(recipe: ContrastiveRecipe, world_size: int) -> None:
    """Refuse a batch whose groups would be divided between ranks or micro-batches.

    Raises:
        UsageError: they would be.
    """
    parts = recipe.num_micro_batches(world_size)
    groups = recipe.batch // recipe.pairs.group
    if groups % parts:
        raise UsageError(
            f"the {recipe.batch} crops of a step are {groups} groups of {recipe.pairs.group}, which do not divide over "
            f"{parts} micro-batches; give --set batch={math.ceil(groups / parts) * parts * recipe.pairs.group}"
        )
