"""The objectives without a corpus, for measurements: random weights, crops of anything, labels drawn at random.

Micro-batches and losses are the objectives' own. Targets that are fitted on a corpus or need weights give random labels
of as many classes, clusters of spectra those of random centroids from `compute_labels` on; others (CQT, teacher) are as
they are.

Letters: B batch, T samples, F frames, Q codebooks, N clips, C tags.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.settings import replace
from carrara.encoders._frame_encoder import FrameGrid
from carrara.encoders._hub.load import build_encoder
from carrara.encoders._maest.network import MaestEncoder
from carrara.nn.quantize.rvq_vae import RVQVAE
from carrara.nn.spectral.multiscale_loss import SpectralDistance
from carrara.pretrain.corpus.stream import CropStream
from carrara.pretrain.distributed import Dist
from carrara.pretrain.objectives._base import Objective
from carrara.pretrain.objectives._masked_network import MaskedPrediction
from carrara.pretrain.objectives._patch_predictor import JointEmbedding
from carrara.pretrain.objectives.codec import CodecObjective
from carrara.pretrain.objectives.contrastive import ContrastiveObjective, PairNetwork, build_spectra_encoder
from carrara.pretrain.objectives.joint_embedding import JointEmbeddingObjective, build_patch_encoder
from carrara.pretrain.objectives.masked_prediction import MaskedPredictionObjective, build_student
from carrara.pretrain.objectives.tagging import TaggingObjective
from carrara.pretrain.recipes._base import Recipe, TrainingSettings
from carrara.pretrain.recipes.contrastive import ContrastiveRecipe
from carrara.pretrain.recipes.joint_embedding import JointEmbeddingRecipe
from carrara.pretrain.recipes.rvq_vae import CodecRecipe
from carrara.pretrain.tagging.data import BalancedCrops, build_tagged_corpus
from carrara.pretrain.tagging.network import TaggingNetwork, build_tagger
from carrara.pretrain.tagging.settings import TaggingRecipe
from carrara.pretrain.targets import REGISTRY as TARGETS
from carrara.pretrain.targets._base import Target


class _RandomClasses(Target):
    """Random labels in place of those of a target that is fitted on a corpus or needs weights."""

    def __init__(self, settings: Any, grid: FrameGrid) -> None:
        super().__init__(settings, grid)
        is_codes = settings.target == "codes"
        self.num_classes = (settings.codebook_size,) * settings.num_codebooks if is_codes else (settings.k,)
        self.use = settings.use if is_codes else "all"
        self.computed: Target | None = None

    def compute(self) -> None:
        """Compute labels from now on as a run does, of random centroids, unless the features are an encoder's."""
        if self.settings.target == "clusters" and getattr(self.settings, "encoder", None) is None:
            self.computed = TARGETS.get("clusters")(self.settings, self.grid)
            self.computed.get_buffer("centroids_KD").normal_()

    def labels(self, samples_BT: Tensor, frames: int) -> Tensor:
        """Return random classes `[B, F, Q]`; see the base class."""
        if self.computed is not None:
            return self.computed.to(samples_BT.device).labels(samples_BT, frames)
        shape = (len(samples_BT), frames, len(self.num_classes))
        return torch.randint(self.num_classes[0], shape, device=samples_BT.device)


class _MaskedDryRun(MaskedPredictionObjective):
    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.dist, self.steps, self.label_stores = recipe, Dist(device=device), recipe.steps, {}
        encoder = self.encoder = build_student(recipe).to(device)
        encoder.stack.activation_checkpointing = recipe.activation_checkpointing
        self.grid = encoder.grid
        samples = round(recipe.crop_seconds * self.grid.sample_rate)
        self.stream = _empty_stream(samples, self.grid.hop, recipe)
        self.targets = {}
        for name, target_settings in recipe.targets.items():
            drawn = target_settings.target in ("clusters", "codes")
            kind = _RandomClasses if drawn else TARGETS.get(target_settings.target)
            self.targets[name] = kind(target_settings, self.grid).to(device)
            self.targets[name].attach(encoder)
        by_vector = recipe.masking.replacement == "vector"
        module = MaskedPrediction(encoder, self.targets, recipe.objective, recipe.seed, by_vector)
        self.module = module.to(device)
        silence_BT, frames = torch.zeros(1, samples, device=device), encoder.num_frames(samples)
        fixed = [target for target in self.targets.values() if not target.is_ema]
        self.num_frames = min([frames, *(target.labels(silence_BT, frames).shape[1] for target in fixed)])

    def compute_labels(self) -> None:
        """Compute labels from now on, for their time; before, drawn ones keep their operations out of the plan."""
        for target in self.targets.values():
            if isinstance(target, _RandomClasses):
                target.compute()


class _TaggingDryRun(TaggingObjective):
    def __init__(self, recipe: TaggingRecipe, device: torch.device, paths: Sequence[str | Path]) -> None:
        self.recipe, self.dist, self.teacher = recipe, Dist(device=device), None
        network: Any = recipe.network
        rate = build_encoder(recipe.encoder, 0, network.model_dump()).card.sample_rate
        corpus = build_tagged_corpus(paths, recipe.labels, rate)[0] if paths else None
        tags = corpus.tags if corpus else recipe.labels.tags or [f"tag {index}" for index in range(network.classes)]
        if getattr(network, "distilled", None) == "separated":
            single = replace(recipe, {"network.distilled": "mean", "teacher.weights": ""})
            teacher: Any = build_tagger(single, tags, "teacher", "")
            self.teacher = teacher.to(device).eval()
            recipe = replace(recipe, {"teacher.weights": recipe.teacher.weights or "teacher"})
        self.encoder = build_tagger(recipe, tags, "dry-run", "").to(device)
        if isinstance(self.encoder, MaestEncoder) and self.encoder.head_dist is not None and self.teacher is None:
            self.encoder.head_dist.requires_grad_(False)
        self.module, self.average = TaggingNetwork(self.encoder), copy.deepcopy(self.encoder)
        samples, hop = round(recipe.crop_seconds * rate), self.encoder.mel.spectrum.framing.hop
        self.stream = _empty_stream(samples, hop, recipe)
        shape = (samples, hop, recipe.batch, recipe.seed)
        per_epoch = math.ceil(recipe.epoch_clips / recipe.batch)
        if corpus:
            per_epoch = BalancedCrops(corpus, *shape, clips=recipe.epoch_clips).steps_per_epoch
        self.steps = min(recipe.epochs * per_epoch, recipe.steps or recipe.epochs * per_epoch)
        clip: Any = SimpleNamespace(tags_NC=np.zeros((1, len(tags)), dtype=np.float32))
        self.corpus = clip


class _CodecDryRun(CodecObjective):
    def __init__(self, recipe: CodecRecipe, device: torch.device) -> None:
        self.recipe, self.dist, self.steps, self.outputs = recipe, Dist(device=device), recipe.steps, []
        network = recipe.network
        samples = round(recipe.crop_seconds * network.sample_rate)
        self.crop_frames = math.ceil(samples / network.hop)
        self.stream = _empty_stream(samples, network.hop, recipe)
        self.module = RVQVAE(network, recipe.seed).to(device)
        self.module.activation_checkpointing = recipe.activation_checkpointing
        self.module.books.codes_QKC.normal_()
        self.module.books.started.fill_(1.0)
        self.distance = SpectralDistance(network.sample_rate).to(device)


class _JointEmbeddingDryRun(JointEmbeddingObjective):
    def __init__(self, recipe: JointEmbeddingRecipe, device: torch.device) -> None:
        self.recipe, self.dist, self.steps = recipe, Dist(device=device), recipe.steps
        self.encoder = build_patch_encoder(recipe).to(device)
        self.encoder.activation_checkpointing = recipe.activation_checkpointing
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.module = JointEmbedding(self.encoder, recipe.predictor, recipe.seed).to(device)
        samples = round(recipe.crop_seconds * self.encoder.card.sample_rate)
        self.stream = _empty_stream(samples, self.encoder.settings.hop, recipe)


class _ContrastiveDryRun(ContrastiveObjective):
    def __init__(self, recipe: ContrastiveRecipe, device: torch.device) -> None:
        self.recipe, self.dist, self.steps = recipe, Dist(device=device), recipe.steps
        self.encoder = build_spectra_encoder(recipe).to(device)
        self.encoder.activation_checkpointing = recipe.activation_checkpointing
        self.module = PairNetwork(self.encoder, recipe.pairs, recipe.seed).to(device)
        self.stream = _empty_stream(round(recipe.crop_seconds * self.encoder.card.sample_rate), 1, recipe)


def _empty_stream(crop_samples: int, hop: int, recipe: TrainingSettings) -> Any:
    nothing: Any = None
    return CropStream(nothing, crop_samples, hop, recipe.batch, recipe.seed)


def dry_objective(recipe: Any, device: torch.device, corpus: Sequence[str | Path]) -> Objective:
    """Return the objective of a recipe with random weights and labels, ready for micro-batches of any crops.

    Args:
        recipe: resolved.
        device: of the network.
        corpus: of training on tags, for their number and that of the clips; empty for as many as published.

    Raises:
        UsageError: the network cannot be trained so.
        DataError: the corpus cannot be used.
    """
    if isinstance(recipe, TaggingRecipe):
        return _TaggingDryRun(recipe, device, corpus)
    if isinstance(recipe, CodecRecipe):
        return _CodecDryRun(recipe, device)
    if isinstance(recipe, JointEmbeddingRecipe):
        return _JointEmbeddingDryRun(recipe, device)
    if isinstance(recipe, ContrastiveRecipe):
        return _ContrastiveDryRun(recipe, device)
    return _MaskedDryRun(recipe, device)
