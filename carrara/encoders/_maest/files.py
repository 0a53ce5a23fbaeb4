"""MAEST in Hugging Face's layout: reading folders, and writing them.

Hugging Face's config has the names of the styles as `id2label`. A folder written for Hugging Face loses the second
head, for which that layout has no key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError, WeightsError
from carrara.core.io import write_text
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json
from carrara.encoders._base import WEIGHT_FACTS, Card, Encoder, build_with_weights
from carrara.encoders._maest.keys import TIME, from_ast, to_ast
from carrara.encoders._maest.labels import parse_label_names
from carrara.encoders._maest.network import SAMPLE_RATE, MaestEncoder, MaestSettings
from carrara.encoders.maest import ENCODER, PAPER
from carrara.formats.weights import read_tensors, save_tensors
from carrara.nn.transformer.vit import EPS

AST = "audio-spectrogram-transformer"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
SIZES = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
}
# transformers writes all of these. Where a person left one out, a MAEST's value applies.
FIXED = {
    "num_mel_bins": 96,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 10,
    "hidden_act": "gelu",
    "layer_norm_eps": EPS,
    "qkv_bias": True,
}
# transformers' own default for ASTs; the difference is invisible in float32.
EQUIVALENT = {"layer_norm_eps": (1e-12,)}


def load_ast_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of a folder of Hugging Face's layout.

    Args:
        folder: holds the weights, and perhaps a preprocessor_config.json.
        config: content of its config.json.
        name: name of the encoder.

    Raises:
        UsageError: an AST that is no MAEST, a settings file that cannot be read, or labels that do not match the
            classes.
        WeightsError: weights that are missing, damaged or of another network.
    """
    source = str(folder / CONFIG)
    for key, value in FIXED.items():
        if config.get(key, value) not in (value, *EQUIVALENT.get(key, ())):
            raise UsageError(f"{source}: {key} is {config[key]!r}, and {value!r} in a MAEST; other ASTs are not read")
    weights = next((folder / file for file in (WEIGHTS, PICKLE) if (folder / file).is_file()), None)
    if weights is None:
        raise WeightsError(f"{folder}: neither {WEIGHTS} nor {PICKLE} in it; fetch the folder again")
    shape = MaestSettings().shape
    tensors = from_ast(read_tensors(weights), shape.rows, str(weights))
    if "head.1.weight" not in tensors or TIME not in tensors:
        raise WeightsError(f"{weights}: has no positions or no classifier; give ASTForAudioClassification's weights")
    classes, columns = len(tensors["head.1.weight"]), tensors[TIME].shape[-1]
    frames = (columns - 1) * shape.stride + shape.patch
    preprocessor = _read_preprocessor(folder / PREPROCESSOR)
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UsageError(f"{folder / PREPROCESSOR}: sampling_rate is {rate}, and {SAMPLE_RATE} in a MAEST")
    values = {ours: config[theirs] for ours, theirs in SIZES.items() if theirs in config} | {
        "frames": config.get("max_length", frames),
        "classes": classes,
        "labels": parse_label_names(config.get("id2label", {}), classes, source),
        "distillation_head": False,
        "framing": "maest-hf",
    }
    values |= {key: preprocessor[key] for key in ("mean", "std") if key in preprocessor}
    settings = parse_settings(MaestSettings, values, source)
    if shape.num_columns(settings.frames) != columns:
        raise WeightsError(
            f"{source}: max_length is {settings.frames}, but the weights beside it have positions for {frames} frames "
            f"({columns * 0.16:.0f} s); fetch both files again, from one place"
        )
    settings = settings.model_copy(update={"frames": frames})
    file = f"/{Path(name).name}-swa.ckpt"
    published = next((card for card, _ in ENCODER.variants.values() if "".join(card.files).endswith(file)), None)
    facts = published.model_dump(include=WEIGHT_FACTS - {"paper"}) if published else {}
    fixed = {"sample_rate": SAMPLE_RATE, "frame_rate": None, "input": "log-mel", "paper": PAPER}
    card = Card.model_validate({"name": name, "num_layers": 0, "dim": 1, **fixed, **facts})
    return build_with_weights(MaestEncoder, settings, card, tensors, str(weights))


def check_ast(encoder: MaestEncoder) -> None:
    """Raise an error unless transformers' ASTForAudioClassification can hold an encoder.

    Raises:
        UsageError: its heads are separate or there are none, which an AST does not support.
    """
    if encoder.head is None:
        raise UsageError(
            f"{encoder.card.name}: has no classifier, which Hugging Face's AST needs; use --format carrara"
        )
    if encoder.settings.distilled != "mean":
        raise UsageError(f"{encoder.card.name}: predicts styles from cls alone, which Hugging Face's AST cannot")


def save_ast_folder(encoder: MaestEncoder, folder: Path) -> None:
    """Write an encoder as a folder that transformers' ASTForAudioClassification loads, without its second head.

    Raises:
        UsageError: its heads are separate, which an AST does not support.
        StoreError: the folder cannot be written.
    """
    check_ast(encoder)
    settings, folder = encoder.settings, Path(folder)
    shape = settings.shape
    labels = settings.labels or tuple(f"LABEL_{index}" for index in range(settings.classes))
    config = {
        "model_type": AST,
        "architectures": ["ASTForAudioClassification"],
        **{theirs: getattr(settings, ours) for ours, theirs in SIZES.items()},
        **FIXED,
        "max_length": (shape.columns - 1) * shape.stride + shape.patch,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    preprocessor = {"sampling_rate": SAMPLE_RATE, "mean": settings.mean, "std": settings.std}
    save_tensors(to_ast(encoder.state_dict()), folder / WEIGHTS)
    write_text(folder / PREPROCESSOR, json.dumps(preprocessor, indent=2) + "\n")
    write_text(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _read_preprocessor(path: Path) -> dict[str, Any]:
    """Return the content of a preprocessor_config.json, or nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: is not the config of a feature extractor; fetch it again, or remove it")
    return content
