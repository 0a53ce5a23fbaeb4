"""MuQ: MusicFM's network trained on the codes of a mel residual vector quantizer; the best published MARBLE scores.

[zhu2025]. The released weights are those of the Million Song Dataset after one more round on codes of the model's own
("msd-iter"); the paper's best numbers are of 160,000 hours in-house, so these may score lower. 24 kHz, 30-s clips, 25
frames a second, 12 layers of 1024. The code is MIT, the weights are CC BY-NC 4.0.

The official folder (huggingface.co/OpenMuQ/MuQ-large-msd-iter) holds the weights beside a config.json of the authors'
own layout, which has the network's sizes and the training set's statistics; both are read, nothing in it is run.
Dropped by name: the quantizer, its heads, the cls token, and a convolution of positions that is never called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json
from carrara.encoders._base import Encoder, EncoderFamily, build_with_weights
from carrara.encoders._conformer.network import (
    MSD_MEAN,
    MSD_STD,
    ConformerEncoder,
    ConformerSettings,
    conformer_card,
    convert_conformer_tensors,
    mel_statistics,
    update_conformer_card,
)
from carrara.formats.weights import read_tensors
from carrara.nn.transformer.conformer import EPS, ROTARY_BASE

VARIANTS = {"muq": "MuQ, 316M, 24 kHz: MusicFM's network trained on mel RVQ codes, on the Million Song Dataset"}
FILES = {
    "muq": {
        "OpenMuQ/MuQ-large-msd-iter/model.safetensors": (
            "273febab2be02872c37d2c37e48a9d6c52c1c9392f3eeeabd498efa281ccb7a6"
        ),
        "OpenMuQ/MuQ-large-msd-iter/config.json": "237335ee27d8fb951ce778701a12a79e06c51ae636dd786f97e45f51ce532543",
    }
}
_CONFIG, _WEIGHTS, _PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
_CONFORMER = "w2v2_config"
_SIZES = {"channels": "conv_dim", "dim": "encoder_dim", "num_layers": "encoder_depth"}
_CONFORMER_SIZES = {
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "kernel": "conv_depthwise_kernel_size",
}
# Values that this network always has.
_FIXED = {"label_rate": 25, "hop_length": 240, "n_mels": 128}
_CONFORMER_FIXED = {
    "hidden_act": "swish",
    "position_embeddings_type": "rotary",
    "rotary_embedding_base": ROTARY_BASE,
    "layer_norm_eps": EPS,
}


class MuqSettings(ConformerSettings):
    """Settings of a MuQ; the defaults are the published ones."""


def load_muq_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of a folder as the authors' program writes it, of any size.

    Args:
        folder: holds the weights.
        config: content of its config.json; it has `w2v2_config`.
        name: name of the encoder.

    Raises:
        UsageError: a config of a network that is not supported.
        WeightsError: weights that are missing, damaged or of another network.
    """
    source = str(folder / _CONFIG)
    settings = _parse_settings(config, source)
    file = _weights_file(folder)
    tensors = convert_conformer_tensors(read_tensors(file), settings, str(file))
    tensors |= mel_statistics(_read_statistics(config), source)
    is_published = any(f"{name}/" in address for address in _CARD.files)
    card = _CARD if is_published else conformer_card(name, settings, paper=_PAPER)
    named_card = card.model_copy(update={"name": name})
    return build_with_weights(ConformerEncoder, settings, named_card, tensors, str(file))


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of the authors' folder, or of the file in it, by the network's own names.

    Raises:
        UsageError: the folder's config is of a network that is not supported.
        WeightsError: weights that are missing, damaged, or of another network than the variant's.
    """
    config_file = (path if path.is_dir() else path.parent) / _CONFIG
    settings = ENCODER.variants[name][1]
    assert isinstance(settings, MuqSettings)
    statistics: Mapping[str, Any] = {"melspec_2048_mean": MSD_MEAN, "melspec_2048_std": MSD_STD}
    if config_file.is_file():
        try:
            config = read_json(config_file)
        except (OSError, ValueError) as problem:
            raise UsageError(f"{config_file}: cannot be read ({problem}); fetch it again") from None
        if isinstance(config, dict) and _CONFORMER in config:
            statistics = _read_statistics(config)
            stated = _parse_settings(config, str(config_file))
            for field, value in settings.model_dump().items():
                if getattr(stated, field) != value:
                    raise WeightsError(
                        f"{config_file}: not {name}: its {field} is {getattr(stated, field)} where {name} has {value}; "
                        "`carrara.load(FOLDER)` reads it as it is"
                    )
    file = _weights_file(path) if path.is_dir() else path
    tensors = convert_conformer_tensors(read_tensors(file), settings, str(file))
    return {**tensors, **mel_statistics(statistics, str(config_file))}


def _parse_settings(config: Mapping[str, Any], source: str) -> MuqSettings:
    conformer = config[_CONFORMER]
    if not isinstance(conformer, Mapping):
        raise UsageError(f"{source}: its {_CONFORMER} is no table; fetch it again")
    for table, fixed in ((config, _FIXED), (conformer, _CONFORMER_FIXED)):
        for key, value in fixed.items():
            if table.get(key, value) != value:
                raise UsageError(f"{source}: {key} is {table[key]!r}, and {value!r} in a MuQ; others are not supported")
    values = {ours: config[theirs] for ours, theirs in _SIZES.items() if theirs in config}
    values |= {ours: conformer[theirs] for ours, theirs in _CONFORMER_SIZES.items() if theirs in conformer}
    return parse_settings(MuqSettings, values, source)


def _read_statistics(config: Mapping[str, Any]) -> Mapping[str, Any]:
    statistics = config.get("stat")
    return statistics if isinstance(statistics, Mapping) else {}


def _weights_file(folder: Path) -> Path:
    for file in (_WEIGHTS, _PICKLE):
        if (folder / file).is_file():
            return folder / file
    raise WeightsError(f"{folder}: neither {_WEIGHTS} nor {_PICKLE} in it; fetch the folder again")


_PAPER = "Zhu et al. 2025, MuQ: Self-Supervised Music Representation Learning, https://arxiv.org/abs/2501.01108"
_CARD = conformer_card(
    "muq",
    MuqSettings(),
    parameters=316_343_296,
    license="CC-BY-NC-4.0",
    commercial_use=False,
    trained_on=("Million Song Dataset",),
    pretraining_task="masked prediction of codes of mel frames, then of its own features",
    context_seconds=30.0,
    paper=_PAPER,
    benchmark_setup="MARBLE as its authors ran it: windows not stated; mean over frames, layers 0 to 12; decibels "
    "standardised with the training set's mean and std",
    files=FILES["muq"],
)
ENCODER = EncoderFamily(
    settings=MuqSettings,
    build=ConformerEncoder,
    variants={"muq": (_CARD, MuqSettings())},
    update_card=update_conformer_card,
    load_official=_load_official,
)
