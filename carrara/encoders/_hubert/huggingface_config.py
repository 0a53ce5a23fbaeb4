"""What the config.json and preprocessor_config.json of Hugging Face's layout say of a HuBERT, MERT or data2vec.

Fields that say nothing about a frozen network (SpecAugment, labels, tokens) are passed over; those that tell of another
network than these are refused. Of transformers' data2vec only what its code reads is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.encoders import REGISTRY
from carrara.encoders._base import Card, EncoderFamily

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
MERT_RATE = 24_000
FIELDS = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_bias": "conv_bias",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "feat_proj_dropout",
    "layerdrop": "layerdrop",
    "position_groups": "num_conv_pos_embedding_groups",
}
# What these networks have no other form of; absent keys are transformers' defaults, which are the same.
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
}
KINDS = ("hubert", "music_hubert", "mert", "mert_model", "data2vec-audio")


def parse_network(folder: Path, config: Mapping[str, Any], name: str) -> tuple[EncoderFamily, Any]:
    """Return the family and the settings of the network that a folder's config tells of.

    Raises:
        UsageError: a kind of model or a part of one that is not known here, or a value that does not fit.
    """
    source = folder / CONFIG
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UsageError(f"{source}: a {kind!r} model; known here are {', '.join(KINDS)}")
    if config.get("feature_extractor_cqt") or config.get("deepnorm"):
        raise UsageError(f"{source}: a MERT with CQT input or DeepNorm, which no published one is; not read here")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UsageError(f"{source}: {key} is {config[key]!r}, and {value!r} in a HuBERT or data2vec as read here")
    channels = config.get("conv_dim", (512,))
    if not isinstance(channels, (list, tuple)) or not channels or not all(isinstance(each, int) for each in channels):
        raise UsageError(f"{source}: conv_dim is {channels!r}, not a list of whole numbers; fetch it again")
    if len(set(channels)) > 1:
        raise UsageError(f"{source}: convolutions of {len(set(channels))} widths; only networks of one are known")
    sound = read_json_file(folder / PROCESSOR)
    rate = read_sample_rate(sound, config) or 16_000
    stacked = kind == "data2vec-audio"
    shelf = "music2vec-v1" if stacked else "mert-v0" if rate == MERT_RATE or "mert" in name.lower() else "hubert-base"
    family: EncoderFamily = REGISTRY.get(shelf)
    known = find_published(family, name)
    values = {ours: config[theirs] for ours, theirs in FIELDS.items() if theirs in config}
    positions = config.get("num_conv_pos_embeddings", 5 if stacked else 128)
    values |= {"position_depth": positions, "position_kernel": config.get("conv_pos_kernel_size", 19)} if stacked else {
        "position_kernel": positions
    }  # fmt: skip
    values |= {
        "sample_rate": rate,
        "conv_channels": channels[0],
        # transformers' data2vec has layer norms and post-LN whatever its config says.
        "conv_norm": "layer" if stacked else config.get("feat_extract_norm", "group"),
        "norm_placement": "pre" if config.get("do_stable_layer_norm") and not stacked else "post",
        "standardise": read_standardise(folder, sound, known[1].standardise if known else stacked),
    }
    return family, parse_settings(family.settings, values, str(source))


def read_sample_rate(sound: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return the sample rate that a folder's files tell; none where they tell none."""
    return sound.get("sampling_rate") or sound.get("sample_rate") or config.get("sample_rate")


def read_standardise(folder: Path, sound: Mapping[str, Any], default: bool) -> bool:
    """Return whether a folder's preprocessor_config says that waveforms are standardised; `default` where it is silent.

    Raises:
        UsageError: it says neither true nor false.
    """
    found = sound.get("do_normalize", default)
    if not isinstance(found, bool):
        raise UsageError(f"{folder / PROCESSOR}: do_normalize is {json.dumps(found)}; write true or false")
    return found


def find_published(family: EncoderFamily, name: str) -> tuple[Card, Any] | None:
    """Return card and settings of the variant whose files are of this repository on the hub; none where none's are."""
    found = (both for both in family.variants.values() if any(_repository(key) == name for key in both[0].files))
    return next(found, None)


def _repository(file: str) -> str:
    return "/".join(file.split("/")[:2])


def read_json_file(path: Path) -> dict[str, Any]:
    """Return the table in a JSON file; an empty one where there is no file, or something else in it.

    Raises:
        UsageError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return found if isinstance(found, dict) else {}
