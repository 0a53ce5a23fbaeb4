"""MAEST from the files that people have: GitHub's checkpoints with names beside them, Hugging Face's folders; and back.

Hugging Face's config has the names of the styles as `id2label`. A folder that is written for Hugging Face loses the
second head, which nothing there has a place for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from carrara.core.errors import UsageError, WeightsError
from carrara.core.io import write_text
from carrara.core.settings import parse_settings
from carrara.encoders._base import Card
from carrara.encoders._maest.keys import TIME, from_hub, to_hub
from carrara.encoders._maest.labels import named
from carrara.encoders._maest.network import SAMPLE_RATE, MaestEncoder, MaestSettings
from carrara.encoders.maest import ENCODER, PAPER
from carrara.formats.weights import load_strictly, read_tensors, save_tensors, tensors_identity
from carrara.nn.transformer.vit import EPS

AST = "audio-spectrogram-transformer"
CONFIG, SOUND, WEIGHTS, PICKLE = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "pytorch_model.bin",
)
SIZES = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
}
# transformers writes all of these. Where one is absent, a person left it out, and a MAEST's is meant.
FIXED = {
    "num_mel_bins": 96,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 10,
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
    "qkv_bias": True,
}
# transformers' own default for ASTs; the difference is below any that shows in float32.
ALIKE = {"layer_norm_eps": (1e-12,)}


def from_ast_folder(folder: Path, config: Mapping[str, Any], name: str) -> MaestEncoder:
    """Return the encoder of a folder of Hugging Face's layout.

    Args:
        folder: holds the weights, and perhaps a preprocessor_config.json.
        config: what its config.json says.
        name: of the encoder.

    Raises:
        UsageError: an AST that is no MAEST, a file of settings that cannot be read, or labels that are not one a style.
        WeightsError: weights that are missing, not whole or not this network's.
    """
    source = str(folder / CONFIG)
    for key, value in FIXED.items():
        alike = (value, *ALIKE.get(key, ()))
        if config.get(key, value) not in alike:
            raise UsageError(f"{source}: {key} is {config[key]!r}, and {value!r} in a MAEST; other ASTs are not read")
    weights = next((folder / file for file in (WEIGHTS, PICKLE) if (folder / file).is_file()), None)
    if weights is None:
        raise WeightsError(f"{folder}: neither {WEIGHTS} nor {PICKLE} in it; fetch the folder again")
    shape = MaestSettings().shape
    tensors = from_hub(read_tensors(weights), shape.rows, str(weights))
    if "head.1.weight" not in tensors or TIME not in tensors:
        raise WeightsError(f"{weights}: has no positions or no classifier; give ASTForAudioClassification's weights")
    classes, columns = len(tensors["head.1.weight"]), tensors[TIME].shape[-1]
    frames = (columns - 1) * shape.stride + shape.patch
    sound = _read_sound(folder / SOUND)
    if sound.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise UsageError(f"{folder / SOUND}: hears {sound['sampling_rate']} Hz, and a MAEST {SAMPLE_RATE} Hz")
    values = {ours: config[theirs] for ours, theirs in SIZES.items() if theirs in config} | {
        "frames": config.get("max_length", frames),
        "classes": classes,
        "labels": named(config.get("id2label", {}), classes, source),
        "distillation_head": False,
        "framing": "maest-hf",
    }
    for ours, theirs in (("mean", "mean"), ("deviation", "std")):
        if theirs in sound:
            values[ours] = sound[theirs]
    settings = parse_settings(MaestSettings, values, source)
    if shape.time_patches(settings.frames) != columns:
        raise WeightsError(
            f"{source}: max_length is {settings.frames}, but the weights beside it have positions for {frames} frames "
            f"({columns * 0.16:.0f} s); fetch both files again, from one place"
        )
    settings = settings.model_copy(update={"frames": frames})
    file = f"/{Path(name).name}-swa.ckpt"
    known = next((card for card, _ in ENCODER.variants.values() if "".join(card.files).endswith(file)), None)
    facts = known.model_dump(include={"license", "commercial_use", "trained_on"}) if known else {}
    card = Card(name=name, sample_rate=SAMPLE_RATE, frame_rate=None, num_layers=0, dim=1, paper=PAPER, **facts)
    return _loaded(settings, card, tensors, str(weights))


def save_ast_folder(encoder: MaestEncoder, folder: Path) -> None:
    """Write an encoder as a folder that transformers' ASTForAudioClassification loads, without its second head.

    Raises:
        UsageError: its heads answer separately, which an AST cannot.
        StoreError: the folder cannot be written.
    """
    settings, folder = encoder.settings, Path(folder)
    if settings.distilled != "mean":
        raise UsageError(f"{encoder.card.name}: tells styles from cls alone, which Hugging Face's AST cannot")
    shape = settings.shape
    labels = settings.labels or tuple(f"LABEL_{place}" for place in range(settings.classes))
    config = {
        "model_type": AST,
        "architectures": ["ASTForAudioClassification"],
        **{theirs: getattr(settings, ours) for ours, theirs in SIZES.items()},
        **FIXED,
        "max_length": (shape.columns - 1) * shape.stride + shape.patch,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
    }
    sound = {"sampling_rate": SAMPLE_RATE, "mean": settings.mean, "std": settings.deviation}
    save_tensors(to_hub(encoder.state_dict()), folder / WEIGHTS)
    write_text(folder / SOUND, json.dumps(sound, indent=2) + "\n")
    write_text(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _read_sound(path: Path) -> dict[str, Any]:
    """Return what a preprocessor_config.json says; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        sound = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    if not isinstance(sound, dict):
        raise UsageError(f"{path}: is not the config of a feature extractor; fetch it again, or remove it")
    return sound


def _loaded(settings: MaestSettings, card: Card, tensors: dict[str, Any], source: str) -> MaestEncoder:
    with torch.device("meta"):
        encoder = MaestEncoder(settings, card)
    load_strictly(encoder, tensors, source)
    encoder.card = encoder.card.model_copy(update={"weights_sha256": tensors_identity(encoder.state_dict())})
    return encoder
