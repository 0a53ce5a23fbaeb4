"""Official files of HuBERT, MERT, Music2Vec and data2vec-audio in Hugging Face's layout, read without transformers.

A folder holds `config.json`, perhaps `preprocessor_config.json` (sample rate, whether waveforms are standardised), and
the weights as safetensors or as a pickle that is read without running anything, in one file or in shards. MERT's own
remote code is never run: its network is HuBERT's. The kind of model follows from its shapes, since MERT's files call
themselves hubert, music_hubert or mert_model [notes/pretraining §2.1, §2.4]. Prefixes that a class adds to names are
stripped; heads of fine-tuning and of pre-training are left out by name; every other tensor must match. Several of the
published networks have equal shapes, so whatever else the files say is compared with the expected network.

A pre-LN network's last layer is taken after its final norm, which is what transformers 4 gave and 5 does not
[notes/pretraining §2.4]; the setting `final_norm` is that choice. Fields of config.json that do not concern a frozen
network (SpecAugment, labels, tokens) are ignored; fields of another network than these are refused. Of transformers'
data2vec only what its code reads is read.

A single file is read, too, whether a dictionary of tensors or a training checkpoint of fairseq's (fairseq.py).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json
from carrara.encoders import REGISTRY
from carrara.encoders._base import WEIGHT_FACTS, Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._hubert import fairseq
from carrara.encoders._hubert.network import FREE_SETTINGS, HubertSettings, hubert_card
from carrara.formats.magic import is_pickle, read_magic
from carrara.formats.safe_pickle import UnknownObject, read_torch_checkpoint
from carrara.formats.weights import read_tensors

PREFIX = re.compile(r"^(hubert|mert_model|music_hubert|data2vec_audio|wav2vec2|model)\.")
NOT_NETWORK = re.compile(
    r"^(lm_head|classifier|projector|layer_weights|final_proj|label_embs_concat|quantizer|project_hid|project_q"
    r"|encoder_cqt_model|encoder_mel_model)\b"
)
PICKLE, SAFETENSORS = "pytorch_model.bin", "model.safetensors"
SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
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
STANDARDISED = {
    True: "each clip's samples are scaled to mean 0 and variance 1",
    False: "samples go into the network as they are",
}
MODEL_TYPES = ("hubert", "music_hubert", "mert", "mert_model", "data2vec-audio")


def load_hubert_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of an official folder.

    Raises:
        UsageError: The model or a part of it is not known here, or a config is invalid.
        WeightsError: The weights are missing, damaged, or not this network's.
    """
    family, settings = _parse_network(folder, config, name)
    published = _find_published(family, name)
    if not published and "do_normalize" not in _read_json_file(folder / PROCESSOR):
        how = f"{STANDARDISED[settings.standardise]}, as in MARBLE"
        warnings.warn(f"{folder}: {how}; no {PROCESSOR} in it says do_normalize", stacklevel=2)
    facts = published[0].model_dump(include={"files", *WEIGHT_FACTS}) if published else {}
    card = hubert_card(name, settings, window_seconds=30.0, **facts)
    tensors = _read_files(folder).network
    if settings.num_layers > len(tensors):
        raise WeightsError(f"{folder}: {CONFIG} states {settings.num_layers} layers, but its weights hold fewer")
    return build_with_weights(family.build, settings, card, tensors, str(folder))


def read_hubert_weights(name: str, path: Path) -> dict[str, Tensor]:
    """Return the network's tensors of an official folder or file, by the network's names, in single precision.

    Raises:
        WeightsError: The files are missing, damaged, or not the weights of such a network.
    """
    return _read_files(path).network


def read_hubert_heads(path: Path) -> dict[str, Tensor]:
    """Return what only pre-training needs of an official folder or file, by the authors' names.

    Hugging Face's own conversions hold none; fairseq's checkpoints hold all (see `fairseq.HubertFile`).

    Raises:
        WeightsError: As `read_hubert_weights`.
    """
    return _read_files(path).heads


def hubert_settings_from_files(name: str, settings: HubertSettings, path: Path) -> HubertSettings:
    """Return a variant's settings, with `standardise` as in the preprocessor_config.json beside the file, if any.

    Raises:
        UsageError: A config is invalid.
        WeightsError: The config, or a fairseq checkpoint's run, describes another network.
    """
    if folder := config_folder(path):
        config, processor = _read_json_file(folder / CONFIG), _read_json_file(folder / PROCESSOR)
        described = _parse_network(folder, config, name)[1].model_dump()
        unchecked = FREE_SETTINGS if _read_sample_rate(processor, config) else {*FREE_SETTINGS, "sample_rate"}
        for field, value in settings.model_dump().items():
            if field not in unchecked and described[field] != value:
                raise WeightsError(f"{folder}: not {name}: its {field} is {described[field]} where {name} has {value}")
        standardise = _read_standardise(folder, processor, settings.standardise)
        return settings.model_copy(update={"standardise": standardise})
    if path.is_file() and is_pickle(read_magic(path)) and fairseq.is_fairseq(content := _read_file(path)):
        trained = {
            "sample_rate": settings.sample_rate,
            "layer_norm_first": settings.norm_placement == "pre",
            "activation_fn": "gelu",
        }
        fairseq.check_run(content, trained, name, str(path))
    return settings


def config_folder(path: Path) -> Path | None:
    """Return the folder of Hugging Face's layout that a path is, or is the weights of; None if it is neither."""
    if path.is_file() and not path.name.startswith(("pytorch_model", "model")):
        return None
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG
    return folder if config.is_file() and b'"model_type"' in config.read_bytes() else None


def standardise_note(name: str, path: Path, own: HubertSettings, imported: HubertSettings) -> str:
    """Return a line that says whether the imported encoder standardises waveforms, and why."""
    if imported.standardise != own.standardise:
        value, default = json.dumps(imported.standardise), json.dumps(own.standardise)
        return f"{name}: {PROCESSOR} says do_normalize {value}, where {name} alone has {default}; {value} is used"
    folder = config_folder(path)
    if folder and "do_normalize" in _read_json_file(folder / PROCESSOR):
        return f"{name}: {STANDARDISED[imported.standardise]}, as its {PROCESSOR} says"
    return f"{name}: {STANDARDISED[imported.standardise]}, the default of {name}; its files do not say"


def has_evidence(path: Path, card: Card) -> bool:
    """Return whether more than shapes identifies a variant: a known hash, a sample rate, a run's settings or labels.

    Args:
        path: An official file or folder that was read successfully.
        card: The variant's card.

    Raises:
        WeightsError: As `read_hubert_weights`.
    """
    if path.is_file() and any(
        address.rpartition("/")[2] == path.name and sha256 for address, sha256 in card.files.items()
    ):
        return True
    if folder := config_folder(path):
        return bool(_read_sample_rate(_read_json_file(folder / PROCESSOR), _read_json_file(folder / CONFIG)))
    if path.is_dir() or not is_pickle(read_magic(path)):
        return False
    content = _read_file(path)
    return fairseq.is_fairseq(content) and bool(fairseq.run_settings(content) or fairseq.count_label_rows(content))


def _read_files(path: Path) -> fairseq.HubertFile:
    """Return the tensors of an official folder or file under the names without prefixes, in single precision."""
    content = _read_folder(path) if path.is_dir() else _read_file(path)
    if fairseq.is_fairseq(content):
        return fairseq.parse_fairseq(content, str(path))
    network: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    for full_name, tensor in content.items():
        name = PREFIX.sub("", full_name)
        if not NOT_NETWORK.match(name):
            fairseq.add_tensor(network, name, tensor.float(), str(path))
        if fairseq.HEAD_NAMES.match(name) and not fairseq.FIXED_NAMES.match(name):
            heads[name] = tensor.float()
    return fairseq.HubertFile(network, heads)


def _read_file(path: Path) -> dict[str, Any]:
    """Return the content of a single file: a dictionary of tensors, or a fairseq checkpoint."""
    if not is_pickle(read_magic(path)):
        return dict(read_tensors(path))
    content = read_torch_checkpoint(path)
    values = list(content.values()) if isinstance(content, Mapping) else []
    if (values and all(isinstance(value, Tensor) for value in values)) or fairseq.is_fairseq(content):
        return dict(content)
    kinds = sorted({value.kind for value in values if isinstance(value, UnknownObject)})
    instead = f" but {', '.join(kinds[:3])}" if kinds else ""
    raise WeightsError(
        f"{path}: holds neither a table of tensors nor a fairseq checkpoint{instead}; nothing in it was run"
    )


def _read_folder(folder: Path) -> dict[str, Tensor]:
    if (folder / SAFETENSORS).is_file():
        return read_tensors(folder / SAFETENSORS)
    index = next((folder / name for name in SHARDS if (folder / name).is_file()), None)
    if index is not None:
        table = _read_json_file(index).get("weight_map")
        shards = table.values() if isinstance(table, dict) else ()
        if not shards or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
            raise WeightsError(f"{index}: names no shards beside it; fetch the folder again")
        tensors: dict[str, Tensor] = {}
        for shard in sorted(set(shards)):
            for name, tensor in read_tensors(folder / shard).items():
                fairseq.add_tensor(tensors, name, tensor, str(folder / shard))
        return tensors
    if (folder / PICKLE).is_file():
        return read_tensors(folder / PICKLE)
    raise WeightsError(f"{folder}: neither {SAFETENSORS} nor {PICKLE} in it; fetch the folder again")


def _parse_network(folder: Path, config: Mapping[str, Any], name: str) -> tuple[EncoderFamily, Any]:
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
    processor = _read_json_file(folder / PROCESSOR)
    rate = _read_sample_rate(processor, config) or 16_000
    is_data2vec = kind == "data2vec-audio"
    if is_data2vec:
        variant = "music2vec-v1"
    else:
        variant = "mert-v0" if rate == MERT_RATE or "mert" in name.lower() else "hubert-base"
    family: EncoderFamily = REGISTRY.get(variant)
    published = _find_published(family, name)
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
    }
    # MARBLE standardises for all of them but MERT-330M, as transformers' feature extractor does by default.
    is_marble_exception = variant == "mert-v0" and values["norm_placement"] == "pre"
    values["standardise"] = _read_standardise(
        folder, processor, published[1].standardise if published else not is_marble_exception
    )
    return family, parse_settings(family.settings, values, str(source))


def _read_sample_rate(processor: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return the sample rate in a folder's configs; None if they have none."""
    return processor.get("sampling_rate") or processor.get("sample_rate") or config.get("sample_rate")


def _read_standardise(folder: Path, processor: Mapping[str, Any], default: bool) -> bool:
    """Return whether a folder's preprocessor_config standardises waveforms; `default` if it does not say.

    Raises:
        UsageError: The value is neither true nor false.
    """
    value = processor.get("do_normalize", default)
    if not isinstance(value, bool):
        raise UsageError(f"{folder / PROCESSOR}: do_normalize is {json.dumps(value)}; write true or false")
    return value


def _find_published(family: EncoderFamily, repository: str) -> tuple[Card, Any] | None:
    """Return card and settings of the variant whose files are in this repository on the hub; None if there is none."""
    for card, settings in family.variants.values():
        if any("/".join(address.split("/")[:2]) == repository for address in card.files):
            return card, settings
    return None


def _read_json_file(path: Path) -> dict[str, Any]:
    """Return the dictionary in a JSON file; empty if there is no file, or something else in it.

    Raises:
        UsageError: The file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return content if isinstance(content, dict) else {}
