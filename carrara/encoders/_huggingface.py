"""Official folders of Hugging Face's layout: HuBERT, MERT, Music2Vec and data2vec-audio, without transformers.

A folder holds `config.json`, perhaps `preprocessor_config.json` (sample rate, whether waveforms are standardised), and
the weights as safetensors or as a pickle that is read without running anything, whole or in shards. MERT's own remote
code is never run: its network is HuBERT's. What a model is follows from its shapes, since MERT's files call themselves
hubert, music_hubert or mert_model (pretraining.md 2.1 and 2.4). Names lose whichever prefix their class gave them;
heads of fine-tuning and of pre-training are left out by name; every other tensor must find its place.

Fields that say nothing about a frozen network (SpecAugment, labels, tokens) are passed over. A pre-LN network's last
row is taken after its final norm, which is what transformers 4 gave and 5 does not (pretraining.md 2.4); the setting
`final_norm` is that choice.

A lone file is read too, whether a table of tensors or fairseq's training checkpoint (_fairseq.py): `official` gives the
network's tensors of either, `pretraining_heads` what only pre-training needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import UsageError, WeightsError
from carrara.encoders import SHELF, _fairseq
from carrara.encoders._base import Encoder, Family
from carrara.encoders._hubert import HubertSettings, describe
from carrara.nn.unpickle import Inert, read_checkpoint
from carrara.nn.weights import is_pickle, load_strictly, opening, read_tensors, tensors_identity

PREFIX = re.compile(r"^(hubert|mert_model|music_hubert|data2vec_audio|wav2vec2|model)\.")
LEFT_OUT = re.compile(
    r"^(lm_head|classifier|projector|layer_weights|final_proj|label_embs_concat|quantizer|project_hid|project_q"
    r"|encoder_cqt_model|encoder_mel_model)\b"
)
FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
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
KINDS = ("hubert", "music_hubert", "mert", "mert_model", "data2vec-audio")
# What a folder may leave open or its training chose otherwise, without another network (pretraining.md 2.4).
FREE = {
    "conv_gradient", "final_norm", "attention", "relaxation", "dropout", "attention_dropout", "activation_dropout",
    "input_dropout", "layerdrop", "standardise", "padding",
}  # fmt: skip
PICKLE, SAFE, SHARDS = "pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
MERT_RATE = 24_000


def from_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of an official folder.

    Raises:
        UsageError: a kind of model or a part of one that is not known here.
        WeightsError: weights that are missing, not whole, or not this network's.
    """
    family, settings = _network(folder, config, name)
    known = next((card for card, _ in family.variants.values() if f"{name}/" in "".join(card.files)), None)
    facts = known.model_dump(include={"license", "commercial_use", "trained_on", "paper", "files"}) if known else {}
    card = describe(name, settings, window_seconds=30.0, **facts)
    with torch.device("meta"):
        encoder = family.network(settings, card, 0)
    tensors = bare(_tensors(folder))
    load_strictly(encoder, tensors, str(folder))
    encoder.card = encoder.card.model_copy(update={"weights": tensors_identity(encoder.state_dict())})
    return encoder


def official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the network's tensors of an official folder or of a lone file, by our names, in single precision.

    Raises:
        WeightsError: missing, not whole, or something else than the weights of such a network.
    """
    return bare(_tensors(path)) if path.is_dir() else _file(path)[0]


def pretraining_heads(path: Path) -> dict[str, Tensor]:
    """Return what only pre-training needs of an official folder or file, by the authors' names; often nothing.

    Hugging Face's own conversions hold none; fairseq's checkpoints hold all (see `_fairseq.Checkpoint`).

    Raises:
        WeightsError: as for `official`.
    """
    return _heads(_tensors(path)) if path.is_dir() else _file(path)[1]


def told(name: str, settings: HubertSettings, path: Path) -> HubertSettings:
    """Return a variant's settings with the word of a config.json beside its file, where there is one (`agreed`)."""
    folder = config_beside(path)
    return agreed(settings, folder, name) if folder else settings


def config_beside(path: Path) -> Path | None:
    """Return the folder of Hugging Face's layout that a path is, or is the weights of."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and not path.name.startswith(("pytorch_model", "model")):
        return None
    config = folder / CONFIG
    return folder if config.is_file() and b'"model_type"' in config.read_bytes() else None


def agreed(settings: HubertSettings, folder: Path, name: str) -> HubertSettings:
    """Return a variant's settings with the folder's word on whether waveforms are standardised.

    Raises:
        WeightsError: the folder's config tells of another network than the variant's.
    """
    config, sound = _json(folder / CONFIG), _json(folder / PROCESSOR)
    told = _network(folder, config, name)[1].model_dump()
    free = FREE if "sampling_rate" in sound or "sample_rate" in config else {*FREE, "sample_rate"}
    for field, value in settings.model_dump().items():
        if field not in free and told[field] != value:
            raise WeightsError(f"{folder}: not {name}: its {field} is {told[field]} where {name} has {value}")
    return settings.model_copy(update={"standardise": sound.get("do_normalize", settings.standardise)})


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's tensors under bare names, without heads; in single precision."""
    named = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    return {name: tensor.float() for name, tensor in named.items() if not LEFT_OUT.match(name)}


def _heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    return {
        name: tensor.float()
        for name, tensor in named.items()
        if _fairseq.HEADS.match(name) and not _fairseq.FIXED.match(name)
    }


def _file(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if not is_pickle(opening(path)):
        content: Any = read_tensors(path)
    else:
        content = read_checkpoint(path)
    if _fairseq.is_checkpoint(content):
        checkpoint = _fairseq.read(content, str(path))
        return checkpoint.network, checkpoint.heads
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return bare(content), _heads(content)
    kinds = (
        {value.kind for value in content.values() if isinstance(value, Inert)} if isinstance(content, Mapping) else ()
    )
    also = f" but {', '.join(sorted(kinds)[:3])}" if kinds else ""
    raise WeightsError(
        f"{path}: holds neither a table of tensors nor a fairseq checkpoint{also}; nothing in it was run"
    )


def _network(folder: Path, config: Mapping[str, Any], name: str) -> tuple[Family, Any]:
    source = folder / CONFIG
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UsageError(f"{source}: a {kind!r} model; known here are {', '.join(KINDS)}")
    if config.get("feature_extractor_cqt") or config.get("deepnorm"):
        raise UsageError(f"{source}: a MERT with CQT input or DeepNorm, which no published one is; not read here")
    channels = set(config.get("conv_dim", (512,)))
    if len(channels) > 1:
        raise UsageError(f"{source}: convolutions of {len(channels)} widths; only networks of one are known")
    sound = _json(folder / PROCESSOR)
    rate = int(sound.get("sampling_rate", config.get("sample_rate", 16_000)))
    stacked = kind == "data2vec-audio"
    shelf = "music2vec-v1" if stacked else "mert-v0" if rate == MERT_RATE or "mert" in name.lower() else "hubert-base"
    family: Family = SHELF.get(shelf)
    values = {ours: config[theirs] for ours, theirs in FIELDS.items() if theirs in config}
    positions = config.get("num_conv_pos_embeddings", 5 if stacked else 128)
    values |= {"position_depth": positions, "position_kernel": config.get("conv_pos_kernel_size", 19)} if stacked else {
        "position_kernel": positions
    }  # fmt: skip
    values |= {
        "sample_rate": rate,
        "conv_channels": channels.pop(),
        "conv_norm": config.get("feat_extract_norm", "layer" if stacked else "group"),
        "norm_placement": "pre" if config.get("do_stable_layer_norm") else "post",
        "standardise": bool(sound.get("do_normalize", stacked)),
    }
    return family, family.settings.model_validate(values)


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / SAFE).is_file():
        return read_tensors(folder / SAFE)
    if (folder / SHARDS).is_file():
        names = sorted(set(_json(folder / SHARDS).get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise WeightsError(f"{folder / SHARDS}: names no shards beside it; fetch the folder again")
        return {name: tensor for shard in names for name, tensor in read_tensors(folder / shard).items()}
    if (folder / PICKLE).is_file():
        return read_tensors(folder / PICKLE)
    raise WeightsError(f"{folder}: neither {SAFE} nor {PICKLE} in it; fetch the folder again")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return found if isinstance(found, dict) else {}
