"""config.json and preprocessor_config.json of Hugging Face's layout, for a HuBERT, MERT or data2vec.

Fields that do not concern a frozen network (SpecAugment, labels, tokens) are ignored; fields of another network than
these are refused. Of transformers' data2vec only what its code reads is read.
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
# These networks have no other value; if a key is absent, transformers' default is the same.
FIXED_FIELDS = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
}
MODEL_TYPES = ("hubert", "music_hubert", "mert", "mert_model", "data2vec-audio")


def parse_network(folder: Path, config: Mapping[str, Any], name: str) -> tuple[EncoderFamily, Any]:
    """Return the family and the settings of the network that a folder's config describes.

    Raises:
        UsageError: The model or a part of it is not known here, or a value is invalid.
    """
    source = folder / CONFIG
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UsageError(f"{source}: a {kind!r} model; known here are {', '.join(MODEL_TYPES)}")
    if config.get("feature_extractor_cqt") or config.get("deepnorm"):
        raise UsageError(f"{source}: a MERT with CQT input or DeepNorm, which no published one is; not read here")
    for key, value in FIXED_FIELDS.items():
        if config.get(key, value) != value:
            raise UsageError(f"{source}: {key} is {config[key]!r}, and {value!r} in a HuBERT or data2vec as read here")
    channels = config.get("conv_dim", (512,))
    if not isinstance(channels, (list, tuple)) or not channels or not all(isinstance(count, int) for count in channels):
        raise UsageError(f"{source}: conv_dim is {channels!r}, not a list of whole numbers; fetch it again")
    if len(set(channels)) > 1:
        raise UsageError(f"{source}: convolutions of {len(set(channels))} widths; only networks of one are known")
    processor = read_json_file(folder / PROCESSOR)
    rate = read_sample_rate(processor, config) or 16_000
    is_data2vec = kind == "data2vec-audio"
    if is_data2vec:
        variant = "music2vec-v1"
    else:
        variant = "mert-v0" if rate == MERT_RATE or "mert" in name.lower() else "hubert-base"
    family: EncoderFamily = REGISTRY.get(variant)
    published = find_published(family, name)
    values = {ours: config[theirs] for ours, theirs in FIELDS.items() if theirs in config}
    if is_data2vec:
        values["position_depth"] = config.get("num_conv_pos_embeddings", 5)
        values["position_kernel"] = config.get("conv_pos_kernel_size", 19)
    else:
        values["position_kernel"] = config.get("num_conv_pos_embeddings", 128)
    values |= {
        "sample_rate": rate,
        "conv_channels": channels[0],
        # transformers' data2vec has layer norms and post-LN whatever its config says.
        "conv_norm": "layer" if is_data2vec else config.get("feat_extract_norm", "group"),
        "norm_placement": "pre" if config.get("do_stable_layer_norm") and not is_data2vec else "post",
        "standardise": read_standardise(folder, processor, published[1].standardise if published else is_data2vec),
    }
    return family, parse_settings(family.settings, values, str(source))


def read_sample_rate(processor: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return the sample rate in a folder's configs; None if they have none."""
    return processor.get("sampling_rate") or processor.get("sample_rate") or config.get("sample_rate")


def read_standardise(folder: Path, processor: Mapping[str, Any], default: bool) -> bool:
    """Return whether a folder's preprocessor_config standardises waveforms; `default` if it does not say.

    Raises:
        UsageError: The value is neither true nor false.
    """
    value = processor.get("do_normalize", default)
    if not isinstance(value, bool):
        raise UsageError(f"{folder / PROCESSOR}: do_normalize is {json.dumps(value)}; write true or false")
    return value


def find_published(family: EncoderFamily, repository: str) -> tuple[Card, Any] | None:
    """Return card and settings of the variant whose files are in this repository on the hub; None if there is none."""
    for card, settings in family.variants.values():
        if any("/".join(address.split("/")[:2]) == repository for address in card.files):
            return card, settings
    return None


def read_json_file(path: Path) -> dict[str, Any]:
    """Return the dictionary in a JSON file; empty if there is no file, or something else in it.

    Raises:
        UsageError: The file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return content if isinstance(content, dict) else {}
