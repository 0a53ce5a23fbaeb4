"""The networks that learn tags, MAEST's Transformer and EfficientNet: input, logits, patchout, and the teacher.

Structured time patchout drops whole columns of patches, drawn uniformly, the same ones for the whole batch, after
positions are added: 15, 30, 60, 90 of the 30, 61, 124, 186 columns of 5, 10, 20, 30 s. Training then computes half of
the patches, which makes long crops affordable [notes/encoders §1.4].

The convolutional baseline splits a crop into adjacent patches of its own length and averages their logits; it has
neither positions nor columns to drop.

Letters: B batch, T samples, F frames, M mel bands, N patches of a crop, C tags, D channels, K kept columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import build_encoder, load
from carrara.encoders._maest.network import MaestEncoder
from carrara.encoders.effnet_discogs import PATCH_FRAMES, EffnetDiscogs
from carrara.nn.transformer.vit import NUM_PREFIX_TOKENS
from carrara.pretrain.tagging.data import check_same_tags
from carrara.pretrain.tagging.settings import TaggingRecipe

Tagger = MaestEncoder | EffnetDiscogs
HEADS = ("head.", "head_dist.", "classifier.")
MIN_SECONDS = 0.3  # that contain a patch of 16 frames
MEAN_LOG_MEL = 2.07  # of music, for a network that does not subtract it [notes/encoders §1.1]
TEACHER_THRESHOLD = 0.45


def build_tagger(recipe: TaggingRecipe, tags: Sequence[str], name: str, dataset: str) -> Tagger:
    """Return the network with random weights, a head for these tags, and the model card of the run.

    Args:
        recipe: the resolved recipe.
        tags: names of the outputs.
        name: of the new encoder.
        dataset: that it is trained on.

    Raises:
        UsageError: the network cannot learn tags, or patchout and crops do not fit it.
    """
    network = recipe.network.model_dump()
    changes: dict[str, Any] = {"labels": tuple(tags), "classes": len(tags)}
    if recipe.teacher.weights:
        changes["distilled"] = "separated"
    elif network.get("distilled") == "separated":
        raise UsageError(
            "the second head learns from a teacher: --set teacher.weights=FOLDER (a MAEST trained on the same tags), "
            "or --set network.distilled=mean for one head"
        )
    network |= {key: value for key, value in changes.items() if key in network}
    encoder = build_encoder(recipe.encoder, recipe.seed, network)
    if not isinstance(encoder, Tagger):
        raise UsageError(f"encoder {recipe.encoder!r} cannot be trained on tags; take maest-30s or another MAEST")
    frames = encoder.mel.spectrum.framing.num_frames(round(recipe.crop_seconds * encoder.card.sample_rate))
    crop = f"crop_seconds {recipe.crop_seconds:g}"
    if isinstance(encoder, MaestEncoder):
        columns = encoder.vit.shape.num_columns(frames)
        if columns < 1:
            raise UsageError(f"{crop} is shorter than a patch; give --set crop_seconds={MIN_SECONDS:g} or more")
        check_positions(encoder, recipe.crop_seconds)
        if recipe.patchout >= columns:
            raise UsageError(
                f"patchout {recipe.patchout} would drop every one of the {columns} columns of patches of a crop; give "
                f"--set patchout={columns // 2}"
            )
        encoder.vit.activation_checkpointing = recipe.activation_checkpointing
    elif recipe.patchout or recipe.teacher.weights:
        raise UsageError(
            "a convolutional network has no patches to drop and no second head; give --set patchout=0 --set "
            "teacher.weights="
        )
    elif frames < PATCH_FRAMES:
        framing = encoder.mel.spectrum.framing
        tenths = next(
            each for each in count(1) if framing.num_frames(each * encoder.card.sample_rate // 10) >= PATCH_FRAMES
        )
        raise UsageError(
            f"{crop} is {frames} frames, less than a patch of {PATCH_FRAMES}; give --set crop_seconds={tenths / 10:g}"
        )
    card = {"name": name, "trained_on": (dataset,), "license": "", "commercial_use": None}
    encoder.card = encoder.card.model_copy(update=card | {"files": {}, "weights_sha256": ""})
    return encoder


@torch.no_grad()
def input_mel(encoder: Tagger, samples_BT: Tensor) -> Tensor:
    """Return the network's input, log-mel frames `[B, F, M]`."""
    mel_BFM = encoder.mel(samples_BT)
    return encoder.normalize(mel_BFM) if isinstance(encoder, MaestEncoder) else mel_BFM


def check_positions(encoder: MaestEncoder, crop_seconds: float) -> None:
    """Raise a UsageError if a crop has more columns of patches than the network has positions."""
    frames = encoder.framing.num_frames(round(crop_seconds * encoder.card.sample_rate))
    columns, positions = encoder.vit.shape.num_columns(frames), encoder.settings.shape.columns
    if columns > positions:
        raise UsageError(
            f"crop_seconds {crop_seconds:g} gives {columns} columns of patches, the network has positions for 1 to "
            f"{positions}; give --set network.frames={frames}, or --set crop_seconds={encoder.card.window_seconds:g}"
        )


class TaggingNetwork(nn.Module):
    """A tagger whose forward pass gives the logits of spectrograms; what is trained."""

    def __init__(self, encoder: Tagger) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, mel_BFM: Tensor, kept_K: Tensor | None, offset: int) -> tuple[Tensor, Tensor | None]:
        """Return `tag_logits`."""
        return tag_logits(self.encoder, mel_BFM, kept_K, offset)


def tag_logits(
    encoder: Tagger, mel_BFM: Tensor, kept_K: Tensor | None = None, offset: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Return the logits of the tags `[B, C]`, and those of the distillation token if it has a head of its own.

    Args:
        encoder: from `build_tagger`.
        mel_BFM: from `input_mel`.
        kept_K, offset: from `draw_patchout`; by default all columns, from the first position on.
    """
    if isinstance(encoder, EffnetDiscogs):
        patches_BNFM = mel_BFM.unfold(1, PATCH_FRAMES, PATCH_FRAMES).mT
        features = encoder.network(patches_BNFM.flatten(0, 1))[1]
        return encoder.classifier(features).unflatten(0, patches_BNFM.shape[:2]).mean(1), None
    tokens_BND = encoder.vit(mel_BFM, None, kept_K, offset)[-1]
    logits_BC = encoder.logits(tokens_BND)
    if encoder.settings.distilled != "separated":
        return logits_BC, None
    assert encoder.head_dist is not None
    return logits_BC, encoder.head_dist(encoder.vit.norm(tokens_BND[:, 1:NUM_PREFIX_TOKENS])[:, 0])


def draw_patchout(encoder: Tagger, frames: int, patchout: int, rng: np.random.Generator) -> tuple[Tensor | None, int]:
    """Return the columns of patches that patchout keeps, None for all, and the crops' offset in the positions.

    Args:
        encoder: from `build_tagger`.
        frames: of a crop.
        patchout: number of columns to drop.
        rng: draws both.
    """
    if isinstance(encoder, EffnetDiscogs):
        return None, 0
    columns = encoder.vit.shape.num_columns(frames)
    kept_K = draw_columns(columns, patchout, rng)
    return kept_K, int(rng.integers(encoder.settings.shape.columns - columns + 1))


def draw_columns(columns: int, dropped: int, rng: np.random.Generator) -> Tensor | None:
    """Return the columns that patchout keeps, sorted, `[K]`; None if it drops none."""
    if not dropped:
        return None
    return torch.from_numpy(np.sort(rng.choice(columns, columns - dropped, replace=False)))


def load_teacher(folder: str, tags: Sequence[str], device: torch.device) -> MaestEncoder | None:
    """Return the teacher of a folder; None if the folder is empty.

    Raises:
        UsageError: it is no tagger, or has other tags.
    """
    if not folder:
        return None
    teacher = load(folder, device)
    if not isinstance(teacher, MaestEncoder):
        raise UsageError(
            f"{folder}: predicts no tags, so it cannot teach them; give a MAEST that does, --set teacher.weights=FOLDER"
        )
    check_same_tags(tags, teacher.settings.labels, f"the teacher {folder}", "give one trained on the same tags")
    return teacher


@torch.no_grad()
def teacher_targets(teacher: MaestEncoder, samples_BT: Tensor) -> Tensor:
    """Return the teacher's targets, 0 or 1, `[B, C]`.

    Probabilities above 0.45 become 1, all others 0; if none is above, the highest becomes 1 [notes/encoders §1.5].
    """
    probability_BC = teacher.predict_tags(samples_BT)
    above_BC = probability_BC > TEACHER_THRESHOLD
    highest_BC = torch.zeros_like(above_BC).scatter(1, probability_BC.argmax(1, keepdim=True), True)
    return torch.where(above_BC.any(1, keepdim=True), above_BC, highest_BC).float()
