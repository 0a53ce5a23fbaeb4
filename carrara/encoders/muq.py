"""MuQ: MusicFM's network taught the codes of a mel residual vector quantiser; it leads MARBLE among the published.

Zhu et al. 2025, "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector Quantization" (arXiv
2501.01108). The released weights are those of the Million Song Dataset after one more round on codes of the model's own
("msd-iter"); the paper's best numbers are of 160,000 hours in-house, so these may score lower. 24 kHz, 30-s clips, 25
frames a second, 12 layers of 1024. The code is MIT, the weights are CC BY-NC 4.0.

The official folder (huggingface.co/OpenMuQ/MuQ-large-msd-iter) holds the weights beside a config.json of the authors'
own layout, which has the network's sizes and the training set's statistics; both are read, nothing in it is run. Left
out by name: the quantiser, its heads, the cls token, and a convolution of positions that is never called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import parse_settings
from carrara.encoders._base import EncoderFamily
from carrara.encoders._conformer.network import (
    MSD_DEVIATION,
    MSD_MEAN,
    ConformerEncoder,
    ConformerSettings,
    describe,
    known,
    network_tensors,
    statistics,
)
from carrara.formats.weights import load_strictly, read_tensors, tensors_identity
from carrara.nn.transformer.conformer import EPS, ROTARY_BASE

VARIANTS = {"muq": "MuQ, 316M, 24 kHz: MusicFM's network taught mel RVQ codes, on the Million Song Dataset"}
FILES = {
    "muq": {
        "OpenMuQ/MuQ-large-msd-iter/model.safetensors": (
            "273febab2be02872c37d2c37e48a9d6c52c1c9392f3eeeabd498efa281ccb7a6"
        ),
        "OpenMuQ/MuQ-large-msd-iter/config.json": "237335ee27d8fb951ce778701a12a79e06c51ae636dd786f97e45f51ce532543",
    }
}
CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
CONFORMER = "w2v2_config"
SIZES = {"channels": "conv_dim", "dim": "encoder_dim", "num_layers": "encoder_depth"}
CONFORMER_SIZES = {
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "kernel": "conv_depthwise_kernel_size",
}
# What this network has no other form of.
FIXED = {"label_rate": 25, "hop_length": 240, "n_mels": 128}
CONFORMER_FIXED = {
    "hidden_act": "swish",
    "position_embeddings_type": "rotary",
    "rotary_embedding_base": ROTARY_BASE,
    "layer_norm_eps": EPS,
}


class MuqSettings(ConformerSettings):
    """Settings of a MuQ; the defaults are those of the published."""


def official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of the authors' folder, or of the file in it, by the network's own names.

    Raises:
        UsageError: the folder's config tells of a network that is none of these.
        WeightsError: weights that are missing, not whole, or of another network than the variant's.
    """
    config = path / CONFIG if path.is_dir() else path.parent / CONFIG
    settings = ENCODER.variants[name][1]
    assert isinstance(settings, MuqSettings)
    numbers: Mapping[str, Any] = {"melspec_2048_mean": MSD_MEAN, "melspec_2048_std": MSD_DEVIATION}
    told = _read(config) if config.is_file() else {}
    if CONFORMER in told:
        _agree(settings, _settings(told, str(config)), name, str(config))
        numbers = _statistics(told)
    file = _weights(path) if path.is_dir() else path
    return {**network_tensors(read_tensors(file), settings, str(file)), **statistics(numbers, str(config))}


def from_folder(folder: Path, config: Mapping[str, Any], name: str) -> ConformerEncoder:
    """Return the encoder of a folder as the authors' program writes it, of any size.

    Args:
        folder: holds the weights.
        config: what its config.json says; it has `w2v2_config`.
        name: of the encoder.

    Raises:
        UsageError: a config that tells of a network that is none of these.
        WeightsError: weights that are missing, not whole, or not this network's.
    """
    settings = _settings(config, str(folder / CONFIG))
    file = _weights(folder)
    tensors = network_tensors(read_tensors(file), settings, str(file))
    tensors |= statistics(_statistics(config), str(folder / CONFIG))
    card = CARD if any(f"{name}/" in key for key in CARD.files) else known(name, paper=PAPER)
    with torch.device("meta"):
        encoder = ConformerEncoder(settings, card.model_copy(update={"name": name}), 0)
    load_strictly(encoder, tensors, str(file))
    encoder.card = encoder.card.model_copy(update={"weights_sha256": tensors_identity(encoder.state_dict())})
    return encoder


def _settings(config: Mapping[str, Any], source: str) -> MuqSettings:
    inside = config[CONFORMER]
    if not isinstance(inside, Mapping):
        raise UsageError(f"{source}: its {CONFORMER} is no table; fetch it again")
    for table, fixed in ((config, FIXED), (inside, CONFORMER_FIXED)):
        for key, value in fixed.items():
            if table.get(key, value) != value:
                raise UsageError(f"{source}: {key} is {table[key]!r}, and {value!r} in a MuQ; others are not read")
    values = {ours: config[theirs] for ours, theirs in SIZES.items() if theirs in config}
    values |= {ours: inside[theirs] for ours, theirs in CONFORMER_SIZES.items() if theirs in inside}
    return parse_settings(MuqSettings, values, source)


def _statistics(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("stat")
    return found if isinstance(found, Mapping) else {}


def _agree(wanted: MuqSettings, told: MuqSettings, name: str, source: str) -> None:
    for field, value in wanted.model_dump().items():
        if getattr(told, field) != value:
            raise WeightsError(
                f"{source}: not {name}: its {field} is {getattr(told, field)} where {name} has {value}; "
                "`carrara.load(FOLDER)` reads it as it is"
            )


def _weights(folder: Path) -> Path:
    for file in (WEIGHTS, PICKLE):
        if (folder / file).is_file():
            return folder / file
    raise WeightsError(f"{folder}: neither {WEIGHTS} nor {PICKLE} in it; fetch the folder again")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path}: cannot be read ({problem}); fetch it again") from None
    return found if isinstance(found, dict) else {}


PAPER = "Zhu et al. 2025, MuQ: Self-Supervised Music Representation Learning, https://arxiv.org/abs/2501.01108"
CARD = describe(
    known(
        "muq",
        parameters=316_343_296,
        license="CC-BY-NC-4.0",
        commercial_use=False,
        trained_on=("Million Song Dataset",),
        paper=PAPER,
        benchmark_setup="MARBLE as its authors ran it: windows not stated; mean over frames, layers 0 to 12; decibels "
        "standardised with the training set's mean and deviation",
        files=FILES["muq"],
    ),
    MuqSettings(),
)
ENCODER = EncoderFamily(
    settings=MuqSettings,
    build=ConformerEncoder,
    variants={"muq": (CARD, MuqSettings())},
    update_card=describe,
    load_official=official,
)
