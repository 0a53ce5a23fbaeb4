"""Joint embedding: from the visible patches of a crop predict how a moving average of the encoder represents the rest.

M2D [niizumi2023] and I-JEPA [assran2023] (recipes/joint_embedding.py). There are no negatives, so training can collapse
to one representation of everything: the run stops where targets or predictions no longer vary (`recovery`).

The folder holds the encoder, `target/` (the moving average, an encoder too), `run.json`, `metrics.jsonl` and
`training/`. Log keys besides those of every run (metrics_log.py): `relative_mse/patches` (the loss over the least that
is possible without knowing the crop, from a patch's position alone), `std/target/patches` and `std/prediction/patches`
(over crops, of patches at the same position; vectors have norm √D, so 1 is the most), `ema_decay`, `rank/0` …
`rank/last` (effective rank of the encoder's layers).

Letters: B batch, T samples, N patches, K visible and M masked patches, D dim.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carrara.core.errors import DataError, UsageError
from carrara.encoders._base import untrained_card
from carrara.encoders._hub.load import build_encoder, save_pretrained
from carrara.encoders.mel_patch import SAMPLE_RATE, MelPatchEncoder, gather_patches
from carrara.pretrain.card import pretraining_card
from carrara.pretrain.checkpoint import TRAINING, has_checkpoint, without_prefix
from carrara.pretrain.corpus.build import build_corpus
from carrara.pretrain.corpus.stream import CropBatch, CropStream
from carrara.pretrain.distributed import Dist, full_tensor
from carrara.pretrain.initialize import load_start
from carrara.pretrain.monitors import MEASURED_CROPS, effective_rank
from carrara.pretrain.objectives._base import MicroBatch, Objective, check_batch, split_rows
from carrara.pretrain.objectives._losses import CLIPS, Losses, LossTerm
from carrara.pretrain.objectives._patch_predictor import (
    JointEmbedding,
    error_of_positions,
    prediction_error,
    standardize,
    std_over_crops,
    sum_by_position,
)
from carrara.pretrain.optimiser import cosine_decay
from carrara.pretrain.patch_masks import draw_masked_patches
from carrara.pretrain.precision import autocast
from carrara.pretrain.recipes.joint_embedding import JointEmbeddingRecipe

PATCHES = "patches"  # the divisor of the loss: masked patches
TARGET = "target"
STATISTICS_CROPS = 256


@dataclass(frozen=True, kw_only=True)
class _PatchCrops(MicroBatch):
    """Some crops of a step, and the indices of their masked and visible patches."""

    samples_BT: Tensor
    masked_BM: Tensor
    visible_BK: Tensor


class JointEmbeddingObjective(Objective):
    """The objective of M2D and JEPA.

    Attributes:
        target: the moving average of the encoder.
    """

    recipe: JointEmbeddingRecipe
    module: JointEmbedding
    encoder: MelPatchEncoder
    target: MelPatchEncoder

    def __init__(
        self, recipe: JointEmbeddingRecipe, corpus: Sequence[str | Path], folder: Path, start: str, dist: Dist
    ) -> None:
        """Build the encoder at its initial weights, and the corpus.

        Raises:
            UsageError: settings do not go together, or the initial weights are another network's.
            DataError: no usable corpus.
            WeightsError: the initial weights are not whole.
        """
        self.recipe, self.dist, self.steps = recipe, dist, recipe.steps
        with dist.report_once():
            check_batch(recipe.batch, dist.world_size)
            self.encoder = build_patch_encoder(recipe)
            self.encoder.card = untrained_card(self.encoder.card, folder.resolve().name)
            self.initialization = load_start(start, self.encoder, folder)
        crop_samples = round(recipe.crop_seconds * SAMPLE_RATE)
        self.corpus = dist.on_rank_zero(lambda: build_corpus(corpus, SAMPLE_RATE, crop_samples))
        self.stream = CropStream(self.corpus, crop_samples, self.encoder.settings.hop, recipe.batch, recipe.seed)

    def prepare(self, folder: Path) -> None:
        """Measure mean and standard deviation of the corpus's spectrograms, and copy the encoder as the first average.

        Raises:
            DataError: no file of the first steps can be read, or all are silent.
        """
        encoder, recipe = self.encoder.to(self.dist.device), self.recipe
        if not self.initialization.record and not has_checkpoint(folder / TRAINING):
            mean, std = self.dist.on_rank_zero(self._measure_spectrograms)
            encoder.mel_mean.fill_(mean)
            encoder.mel_std.fill_(std)
        encoder.activation_checkpointing = recipe.activation_checkpointing
        self.target = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.module = JointEmbedding(encoder, recipe.predictor, recipe.seed).to(self.dist.device)

    def micro_batches(self, batch: CropBatch) -> list[MicroBatch]:
        """Return this rank's crops with the patches that are masked; see the base class."""
        recipe, settings = self.recipe, self.encoder.settings
        draws_B = [(recipe.seed, epoch, item) for epoch, item in zip(batch.epochs, batch.item_indices)]
        micro_batches: list[MicroBatch] = []
        for index, rows in split_rows(len(draws_B), recipe.accumulation_steps, self.dist):
            draws = [draws_B[row] for row in rows] or [(recipe.seed, 0, 0)]
            masked_BM, visible_BK = draw_masked_patches(draws, settings.columns, settings.rows, recipe.masking)
            crops = _PatchCrops(
                index=index,
                divisors={PATCHES: len(rows) * masked_BM.shape[1], CLIPS: len(rows)},
                is_padding=not len(rows),
                samples_BT=self.device_crops(batch.samples_BT[rows]),
                masked_BM=masked_BM.to(self.dist.device),
                visible_BK=visible_BK.to(self.dist.device),
            )
            micro_batches.append(crops)
        return micro_batches

    def losses(self, network: nn.Module, micro_batch: _PatchCrops, step: int) -> Losses:
        """Return the errors of the predicted patches; see the base class."""
        masked_BM, settings = micro_batch.masked_BM, self.recipe.target
        patches_BNP = self.encoder.patches(micro_batch.samples_BT)
        with autocast(self.recipe.precision, self.dist.device):
            with torch.no_grad():
                if settings.sees == "masked":
                    encoded_BMD = self.target.encode(patches_BNP, masked_BM)[-1]
                else:
                    encoded_BMD = gather_patches(self.target.encode(patches_BNP)[-1], masked_BM)
            predicted_BMD = network(patches_BNP, micro_batch.visible_BK, masked_BM)
        target_BMD = standardize(encoded_BMD)
        error_BM, compared_BMD = prediction_error(predicted_BMD, target_BMD, settings.error)
        scale = target_BMD.shape[2] ** 0.5 if settings.error == "normalized" else 1.0
        positions = patches_BNP.shape[1]
        sums = {
            "positions/target": sum_by_position(target_BMD, masked_BM, positions),
            "positions/prediction": sum_by_position(scale * compared_BMD.detach(), masked_BM, positions),
        }
        return Losses({"prediction": LossTerm(error_BM.sum(), PATCHES)}, sums)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step; see the base class."""
        settings = self.recipe.optimiser
        return cosine_decay(step, self.steps, settings.learning_rate, settings.warmup_fraction)

    @torch.no_grad()
    def after_step(self, step: int, is_taken: bool) -> None:
        """Move the average towards the encoder; where weights are sharded, every rank keeps a whole average."""
        if is_taken:
            for mean, value in zip(self.target.state_dict().values(), self.encoder.state_dict().values(), strict=True):
                mean.lerp_(full_tensor(value), 1 - self.decay_at(step))

    def decay_at(self, step: int) -> float:
        """Return the decay of the average after a step, from 0."""
        settings = self.recipe.target
        return settings.decay + (settings.end_decay - settings.decay) * step / self.steps

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the mean error of a patch, and how much targets and predictions vary; see the base class."""
        if not float(sums.get(PATCHES, 0)):
            return {}
        loss = float(sums["prediction"] / sums[PATCHES])
        baseline = error_of_positions(sums["positions/target"], self.recipe.target.error)
        return {
            "loss": loss,
            "relative_mse/patches": loss / max(baseline, 1e-12),
            "std/target/patches": std_over_crops(sums["positions/target"]),
            "std/prediction/patches": std_over_crops(sums["positions/prediction"]),
        }

    @torch.no_grad()
    def measure(self, batch: CropBatch, step: int) -> dict[str, float]:
        """Return the decay and the ranks of the encoder's layers; see the base class."""
        if not self.recipe.fsdp and not (self.dist.is_main and batch.item_indices):
            return {}
        self.module.eval()
        layers = self.module.all_layers(self.encoder.patches(self.device_crops(batch.samples_BT)[:MEASURED_CROPS]))
        names = [*(f"rank/{index}" for index in range(len(layers) - 1)), "rank/last"]
        ranks = {name: effective_rank(layer_BND) for name, layer_BND in zip(names, layers)}
        return {"ema_decay": self.decay_at(step - 1), **ranks}

    def ema_modules(self) -> dict[str, nn.Module]:
        """Return the target encoder."""
        return {TARGET: self.target}

    def fsdp_layers(self) -> list[nn.Module]:
        """Return the layers of encoder and predictor; see the base class."""
        return [*self.encoder.blocks, *self.module.blocks]

    def saved_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the encoder and of the target encoder; see the base class."""
        return super().saved_weights(tensors) | {TARGET: without_prefix(tensors, f"ema.{TARGET}.")}

    def save(self, folder: Path, tensors: Mapping[str, Tensor], step: int, seconds: float) -> None:
        """Write the encoder with its model card, and the target encoder; see the base class."""
        encoder: Any = self.encoder
        if self.recipe.fsdp:
            encoder = self.encoder_copy(self.saved_weights(tensors)[""])
        readme = pretraining_card(self, self.recipe, folder, step, seconds)
        self.target.card = self.encoder.card
        save_pretrained(self.target, folder / TARGET, readme)
        save_pretrained(encoder, folder, readme)

    @torch.no_grad()
    def _measure_spectrograms(self) -> tuple[float, float]:
        """Return mean and standard deviation of the logarithms over the first crops of the run."""
        parts: list[Tensor] = []
        errors: list[str] = []
        count, step = 0, 0
        while count < STATISTICS_CROPS and step * self.recipe.batch < max(STATISTICS_CROPS, self.recipe.batch):
            batch = self.stream.read_batch(step)
            errors += batch.errors
            samples_BT = batch.samples_BT[: STATISTICS_CROPS - count].to(self.dist.device)
            if len(samples_BT):
                mel_BFM = self.encoder.log_mel(samples_BT).cpu().double()
                parts.append(torch.stack([mel_BFM.new_tensor(mel_BFM.numel()), mel_BFM.sum(), mel_BFM.square().sum()]))
            count, step = count + len(samples_BT), step + 1
        if not parts:
            raise DataError(f"no file of the first crops can be read, the first for this reason: {errors[0]}")
        number, total, squares = torch.stack(parts).sum(0).tolist()
        variance = squares / number - (total / number) ** 2
        if variance < 1e-6:
            raise DataError(
                "the first crops are silent: their spectrograms do not vary; give another corpus with --corpus"
            )
        return total / number, variance**0.5


def build_patch_encoder(recipe: JointEmbeddingRecipe) -> MelPatchEncoder:
    """Return the encoder of a recipe with random weights.

    Raises:
        UsageError: it is no encoder of mel patches, or its columns do not fit the crops.
    """
    encoder = build_encoder(recipe.encoder, recipe.seed, recipe.network.model_dump())
    if not isinstance(encoder, MelPatchEncoder):
        raise UsageError(f"encoder {recipe.encoder!r} has no mel patches to mask; take mel-patch or mel-patch-tiny")
    columns = encoder.num_frames(round(recipe.crop_seconds * SAMPLE_RATE))
    if columns != encoder.settings.columns:
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {columns} columns of patches, network.columns is "
            f"{encoder.settings.columns}; give --set network.columns={columns}, or "
            f"--set crop_seconds={encoder.settings.crop_seconds:g}"
        )
    if columns * encoder.settings.rows < 2:
        seconds = 2 * encoder.settings.patch * encoder.settings.hop / SAMPLE_RATE
        raise UsageError(
            "a crop of one patch has nothing to predict it from; give --set network.columns=2 --set "
            f"crop_seconds={seconds:g}"
        )
    return encoder
