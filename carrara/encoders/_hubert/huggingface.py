"""Official folders of Hugging Face's layout: HuBERT, MERT, Music2Vec and data2vec-audio, without transformers.

A folder holds `config.json`, perhaps `preprocessor_config.json` (sample rate, whether waveforms are standardised), and
the weights as safetensors or as a pickle that is read without running anything, whole or in shards. MERT's own remote
code is never run: its network is HuBERT's. What a model is follows from its shapes, since MERT's files call themselves
hubert, music_hubert or mert_model (pretraining.md 2.1 and 2.4). Names lose whichever prefix their class gave them;
heads of fine-tuning and of pre-training are left out by name; every other tensor must find its place. Several of the
published networks have equal shapes, so whatever else the files say of theirs is compared with the one that is wanted.

A pre-LN network's last row is taken after its final norm, which is what transformers 4 gave and 5 does not
(pretraining.md 2.4); the setting `final_norm` is that choice.

A lone file is read too, whether a table of tensors or fairseq's training checkpoint (fairseq.py): `official` gives the
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

from carrara.core.errors import WeightsError
from carrara.encoders._base import Card, Encoder
from carrara.encoders._hubert import fairseq
from carrara.encoders._hubert.huggingface_config import (
    CONFIG,
    PROCESSOR,
    parse_network,
    find_published,
    read_sample_rate,
    read_json_file,
    read_standardise,
)
from carrara.encoders._hubert.network import HubertSettings, hubert_card
from carrara.formats.safe_pickle import UnknownObject, read_torch_checkpoint
from carrara.formats.weights import is_pickle, load_state_dict_strict, read_magic, read_tensors, hash_tensors

PREFIX = re.compile(r"^(hubert|mert_model|music_hubert|data2vec_audio|wav2vec2|model)\.")
LEFT_OUT = re.compile(
    r"^(lm_head|classifier|projector|layer_weights|final_proj|label_embs_concat|quantizer|project_hid|project_q"
    r"|encoder_cqt_model|encoder_mel_model)\b"
)
# What a folder may leave open or its training chose otherwise, without another network (pretraining.md 2.4).
FREE_SETTINGS = {
    "conv_gradient", "final_norm", "attention", "relaxation", "dropout", "attention_dropout", "activation_dropout",
    "input_dropout", "layerdrop", "standardise", "padding",
}  # fmt: skip
PICKLE, SAFE, SHARDS = "pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"


def load_hubert_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of an official folder.

    Raises:
        UsageError: a kind of model or a part of one that is not known here, or a config that is not right.
        WeightsError: weights that are missing, not whole, or not this network's.
    """
    family, settings = parse_network(folder, config, name)
    known = find_published(family, name)
    facts = known[0].model_dump(include={"license", "commercial_use", "trained_on", "paper", "files"}) if known else {}
    card = hubert_card(name, settings, window_seconds=30.0, **facts)
    tensors = strip_names(_tensors(folder), str(folder))
    if settings.num_layers > len(tensors):
        raise WeightsError(f"{folder}: {CONFIG} tells of {settings.num_layers} layers, and its weights hold fewer")
    with torch.device("meta"):
        encoder = family.build(settings, card, 0)
    load_state_dict_strict(encoder, tensors, str(folder))
    encoder.card = encoder.card.model_copy(update={"weights_sha256": hash_tensors(encoder.state_dict())})
    return encoder


def read_hubert_weights(name: str, path: Path) -> dict[str, Tensor]:
    """Return the network's tensors of an official folder or of a lone file, by our names, in single precision.

    Raises:
        WeightsError: missing, not whole, or something else than the weights of such a network.
    """
    if path.is_dir():
        return strip_names(_tensors(path), str(path))
    content = _content(path)
    return fairseq.parse_fairseq(content, str(path)).network if fairseq.is_fairseq(content) else strip_names(content, str(path))


def read_hubert_heads(path: Path) -> dict[str, Tensor]:
    """Return what only pre-training needs of an official folder or file, by the authors' names; often nothing.

    Hugging Face's own conversions hold none; fairseq's checkpoints hold all (see `fairseq.Checkpoint`).

    Raises:
        WeightsError: as for `official`.
    """
    if path.is_dir():
        return _heads(_tensors(path))
    content = _content(path)
    return fairseq.parse_fairseq(content, str(path)).heads if fairseq.is_fairseq(content) else _heads(content)


def hubert_settings_from_files(name: str, settings: HubertSettings, path: Path) -> HubertSettings:
    """Return a variant's settings with the word of a config.json beside its file, where there is one (`agreed`).

    Raises:
        UsageError: a config that is not right.
        WeightsError: the config, or a fairseq checkpoint's run, tells of another network.
    """
    if folder := config_folder(path):
        return _settings_from_folder(settings, folder, name)
    if path.is_file() and is_pickle(read_magic(path)) and fairseq.is_fairseq(content := _content(path)):
        fairseq.check_run(content, _trained(settings), name, str(path))
    return settings


def config_folder(path: Path) -> Path | None:
    """Return the folder of Hugging Face's layout that a path is, or is the weights of."""
    folder = path if path.is_dir() else path.parent
    if path.is_file() and not path.name.startswith(("pytorch_model", "model")):
        return None
    config = folder / CONFIG
    return folder if config.is_file() and b'"model_type"' in config.read_bytes() else None


def _settings_from_folder(settings: HubertSettings, folder: Path, name: str) -> HubertSettings:
    """Return a variant's settings with the folder's word on whether waveforms are standardised.

    Raises:
        UsageError: a config or preprocessor_config that is not right.
        WeightsError: the folder's config tells of another network than the variant's.
    """
    config, sound = read_json_file(folder / CONFIG), read_json_file(folder / PROCESSOR)
    told = parse_network(folder, config, name)[1].model_dump()
    free = FREE_SETTINGS if read_sample_rate(sound, config) else {*FREE_SETTINGS, "sample_rate"}
    for field, value in settings.model_dump().items():
        if field not in free and told[field] != value:
            raise WeightsError(f"{folder}: not {name}: its {field} is {told[field]} where {name} has {value}")
    return settings.model_copy(update={"standardise": read_standardise(folder, sound, settings.standardise)})


def standardise_note(name: str, own: HubertSettings, made: HubertSettings) -> list[str]:
    """Return the line that tells where a folder's word on standardising is not the variant's; empty where it is."""
    if made.standardise == own.standardise:
        return []
    said, usual = (json.dumps(each.standardise) for each in (made, own))
    return [f"{name}: {PROCESSOR} says do_normalize {said}, where {name} alone has {usual}; the folder's word is taken"]


def has_evidence(path: Path, card: Card) -> bool:
    """Return whether more than shapes speaks for a variant: a known hash, a sample rate, a run's settings or labels.

    Args:
        path: an official file or folder, which `official` took.
        card: the variant's.

    Raises:
        WeightsError: as for `official`.
    """
    if path.is_file() and any(key.rpartition("/")[2] == path.name and known for key, known in card.files.items()):
        return True
    if folder := config_folder(path):
        return bool(read_sample_rate(read_json_file(folder / PROCESSOR), read_json_file(folder / CONFIG)))
    if path.is_dir() or not is_pickle(read_magic(path)):
        return False
    content = _content(path)
    return fairseq.is_fairseq(content) and bool(fairseq.run_settings(content) or fairseq.count_label_rows(content))


def strip_names(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the network's tensors under bare names, without heads; in single precision.

    Raises:
        WeightsError: two names become one.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = PREFIX.sub("", name)
        if not LEFT_OUT.match(name):
            fairseq.add_tensor(found, name, tensor.float(), source)
    return found


def _heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {PREFIX.sub("", name): tensor for name, tensor in tensors.items()}
    return {
        name: tensor.float()
        for name, tensor in named.items()
        if fairseq.HEADS.match(name) and not fairseq.FIXED.match(name)
    }


def _content(path: Path) -> dict[str, Any]:
    """Return what a lone file holds: a table of tensors, or a fairseq checkpoint."""
    if not is_pickle(read_magic(path)):
        return dict(read_tensors(path))
    content = read_torch_checkpoint(path)
    table = isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values())
    if table or fairseq.is_fairseq(content):
        return dict(content)
    kinds = (
        {value.kind for value in content.values() if isinstance(value, UnknownObject)} if isinstance(content, Mapping) else ()
    )
    also = f" but {', '.join(sorted(kinds)[:3])}" if kinds else ""
    raise WeightsError(
        f"{path}: holds neither a table of tensors nor a fairseq checkpoint{also}; nothing in it was run"
    )


def _trained(settings: HubertSettings) -> dict[str, Any]:
    """Return what fairseq's settings say where they trained such a network."""
    return {
        "sample_rate": settings.sample_rate,
        "layer_norm_first": settings.norm_placement == "pre",
        "activation_fn": "gelu",
    }


def _tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / SAFE).is_file():
        return read_tensors(folder / SAFE)
    if (folder / SHARDS).is_file():
        table = read_json_file(folder / SHARDS).get("weight_map")
        names = set(table.values()) if isinstance(table, dict) and all(map(_is_name, table.values())) else set()
        if not names:
            raise WeightsError(f"{folder / SHARDS}: names no shards beside it; fetch the folder again")
        found: dict[str, Tensor] = {}
        for shard in sorted(names):
            for name, tensor in read_tensors(folder / shard).items():
                fairseq.add_tensor(found, name, tensor, str(folder / shard))
        return found
    if (folder / PICKLE).is_file():
        return read_tensors(folder / PICKLE)
    raise WeightsError(f"{folder}: neither {SAFE} nor {PICKLE} in it; fetch the folder again")


def _is_name(shard: Any) -> bool:
    return isinstance(shard, str) and Path(shard).name == shard
