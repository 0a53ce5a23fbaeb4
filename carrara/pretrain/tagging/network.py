"""What training on tags asks of a network, for the two kinds there are: MAEST's Transformer and EfficientNet.

The convolutional baseline hears a crop in patches of its own length, side by side, and answers with the mean of their
logits; it has no positions and no columns to leave out.

Letters: B batch, T samples, F frames, M mel bands, N patches of a crop, C tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carrara.core.errors import UsageError
from carrara.encoders._hub.load import build
from carrara.encoders._maest.network import MaestEncoder
from carrara.encoders.effnet_discogs import PATCH, EffnetDiscogs
from carrara.nn.transformer.vit import EXTRA
from carrara.pretrain.tagging.patchout import kept_columns, see_possible
from carrara.pretrain.tagging.settings import TaggingRecipe

Tagger = MaestEncoder | EffnetDiscogs
HEADS = ("head.", "head_dist.", "classifier.")
SHORTEST = 0.3  # seconds that hold a patch of 16 frames
MEAN_LOG_MEL = 2.07  # of music in these bands (encoders.md, section 1.1), where a network does not take it off


def made(recipe: TaggingRecipe, names: Sequence[str], title: str, dataset: str) -> Tagger:
    """Return the network with random weights, its head for these tags, its card for what is to come of it.

    Raises:
        UsageError: the network cannot be taught tags, or patchout and crops do not go with it.
    """
    told: dict[str, Any] = {"labels": tuple(names), "classes": len(names), "styles": len(names)}
    own = recipe.network.model_dump()
    if recipe.teacher.weights:
        told["distilled"] = "separated"
    elif own.get("distilled") == "separated":
        raise UsageError(
            "the second head learns from a teacher: --set teacher.weights=FOLDER (a MAEST that was taught the same "
            "tags), or network.distilled=mean for one head"
        )
    encoder = build(recipe.encoder, recipe.seed, own | {name: value for name, value in told.items() if name in own})
    if not isinstance(encoder, Tagger):
        raise UsageError(f"encoder {recipe.encoder!r} cannot be taught tags; take maest-30s or another MAEST")
    frames = framing(encoder).frames(round(recipe.crop_seconds * encoder.card.sample_rate))
    if isinstance(encoder, MaestEncoder):
        _see_columns(encoder, frames, recipe)
        encoder.vit.recompute = recipe.activation_checkpointing
    else:
        _see_patches(recipe, frames)
    known: dict[str, Any] = {"name": title, "trained_on": (dataset,)}
    unknown: dict[str, Any] = {"license": "", "commercial_use": None, "files": {}, "weights_sha256": ""}
    encoder.card = encoder.card.model_copy(update=known | unknown)
    return encoder


def framing(encoder: Tagger) -> Any:
    """Return how the network's spectrogram is cut."""
    return encoder.mel.spectrum.framing


def middle(encoder: Tagger) -> float:
    """Return the value of a spectrogram that says nothing: the mean."""
    return 0.0 if isinstance(encoder, MaestEncoder) else MEAN_LOG_MEL


@torch.no_grad()
def heard(encoder: Tagger, samples_BT: Tensor) -> Tensor:
    """Return log-mel frames as the network hears them, `[B, F, M]`."""
    mel_BFM = encoder.mel(samples_BT)
    return encoder.normalised(mel_BFM) if isinstance(encoder, MaestEncoder) else mel_BFM


def answers(
    encoder: Tagger, mel_BFM: Tensor, patchout: int = 0, draw: np.random.Generator | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the tags' logits `[B, C]`, and those of the dist token where it has a head of its own.

    Args:
        encoder: one that `made` gives.
        mel_BFM: what `heard` gives.
        patchout: columns of patches to be left out.
        draw: which of them, and where in the table of positions the crops begin; none: nothing is left out, and they
            begin at its start.
    """
    if isinstance(encoder, EffnetDiscogs):
        patches_BNFM = mel_BFM.unfold(1, PATCH, PATCH).mT
        features = encoder.network(patches_BNFM.flatten(0, 1))[1]
        return encoder.classifier(features).unflatten(0, patches_BNFM.shape[:2]).mean(1), None
    kept_C, offset = None, 0
    if draw is not None:
        columns = encoder.vit.time_patches(mel_BFM.shape[1])
        kept_C = kept_columns(columns, patchout, draw)
        offset = int(draw.integers(encoder.settings.shape.columns - columns + 1))
    tokens_BND = encoder.vit(mel_BFM, None, kept_C, offset)[-1]
    logits_BC = encoder.logits(tokens_BND)
    if encoder.settings.distilled != "separated":
        return logits_BC, None
    assert encoder.head_dist is not None
    return logits_BC, encoder.head_dist(encoder.vit.norm(tokens_BND[:, 1:EXTRA])[:, 0])


def _see_columns(encoder: MaestEncoder, frames: int, recipe: TaggingRecipe) -> None:
    columns, places = encoder.vit.time_patches(frames), encoder.settings.shape.columns
    if columns < 1:
        raise UsageError(f"crop_seconds {recipe.crop_seconds:g} is shorter than a patch; give at least {SHORTEST:g}")
    if columns > places:
        raise UsageError(
            f"crop_seconds {recipe.crop_seconds:g} gives {columns} columns of patches, the network has places for 1 to "
            f"{places}; set network.frames to {frames}, or crop_seconds to {encoder.card.window_seconds:g}"
        )
    see_possible(columns, recipe.patchout)


def _see_patches(recipe: TaggingRecipe, frames: int) -> None:
    if recipe.patchout or recipe.teacher.weights:
        raise UsageError(
            "a convolutional network has no patches to leave out and no second head; patchout=0, no teacher"
        )
    if frames < PATCH:
        raise UsageError(f"crop_seconds {recipe.crop_seconds:g} is {frames} frames, shorter than a patch of {PATCH}")
