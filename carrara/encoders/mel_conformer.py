"""Conformers on mel spectrograms with a ConvNeXt in front: MERT-v2, and the same network for pre-training.

MERT-v2 (m-a-p, September 2026; its report is not out) is the successor of MERT [li2024]: 24 kHz, 25 frames a second, 24
layers of 1024. `mert-v2-30s` was trained on 30-s crops; `mert-v2-fullsong` goes on from it with whole songs of 30 to
360 s in one pass. The authors' `hidden_states` have 24 entries, of which the first is layer 1; here layer 0, the input
to layer 1, comes before them, and the guide to layers in their model card counts as here.

The official files are safetensors at huggingface.co/m-a-p/MERT-v2-30s and MERT-v2-FullSong, given only to those who
accept their licence there (CC BY-NC 4.0). The authors pin old versions of torch and transformers and run code of the
repository; neither is needed here. The two variants are of one shape, so a file does not show which of them it is.

`mel-conformer-tiny`, `-small` and `-base` are our own sizes, with a learned mask vector for masked prediction; no
weights of them are published. A mel spectrogram is 3 to 6 times cheaper than HuBERT's convolutions in a small network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.core.strict_json import read_json
from carrara.encoders._base import Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._conformer.mel_conformer import (
    MelConformerEncoder,
    MelConformerSettings,
    convert_mert2_tensors,
    mel_conformer_card,
    parse_mert2_config,
    update_mel_conformer_card,
)
from carrara.formats.weights import read_tensors

VARIANTS = {
    "mert-v2-30s": "MERT v2, 632M, 24 kHz: ConvNeXt and conformer on mel bands, trained on 30-s crops",
    "mert-v2-fullsong": "MERT v2, 632M, 24 kHz, for whole songs of 30 to 360 s",
    "mel-conformer-tiny": "MERT v2's network made small, 24 kHz, for laptops and CI; weights are yours to train",
    "mel-conformer-small": "MERT v2's network of 22M, 24 kHz, for one night on a GPU; weights are yours to train",
    "mel-conformer-base": "MERT v2's network of 96M, 24 kHz: 12 layers of 768; weights are yours to train",
}
FILES = {
    "mert-v2-30s": {"m-a-p/MERT-v2-30s/model.safetensors": ""},
    "mert-v2-fullsong": {"m-a-p/MERT-v2-FullSong/model.safetensors": ""},
}
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_PAPER = "MERT-v2, model card, September 2026, https://huggingface.co/m-a-p/MERT-v2-30s"


def load_mert2_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of an official folder, of any size.

    Args:
        folder: holds the weights.
        config: content of its config.json.
        name: name of the encoder.

    Raises:
        UsageError: a config of a network that is not supported.
        WeightsError: weights that are missing, damaged or of another network.
    """
    settings = parse_mert2_config(config, str(folder / _CONFIG))
    published = [card for card, _ in _VARIANTS.values() if any(f"{name}/" in address for address in card.files)]
    card = published[0] if published else mel_conformer_card(name, settings, paper=_PAPER)
    file = folder / _WEIGHTS
    tensors = convert_mert2_tensors(read_tensors(file))
    named_card = card.model_copy(update={"name": name})
    return build_with_weights(MelConformerEncoder, settings, named_card, tensors, str(file))


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of an official file, or the folder with it, by the network's names.

    Raises:
        UsageError: the config.json beside the file is of a network that is not supported.
        WeightsError: the file is damaged, or it or the config.json is another network's.
    """
    if name not in FILES:
        raise WeightsError(f"{path}: no weights of {name} are published; give mert-v2-30s or mert-v2-fullsong")
    file = path / _WEIGHTS if path.is_dir() else path
    config_file = file.parent / _CONFIG
    if config_file.is_file():
        try:
            config = read_json(config_file)
        except (OSError, ValueError) as problem:
            raise WeightsError(f"{config_file}: cannot be read ({problem}); fetch it again") from None
        stated = parse_mert2_config(config if isinstance(config, dict) else {}, str(config_file))
        for field, value in ENCODER.variants[name][1].model_dump().items():
            if getattr(stated, field) != value:
                raise WeightsError(
                    f"{config_file}: not {name}: its {field} is {getattr(stated, field)} where {name} has {value}; "
                    "`carrara.load(FOLDER)` reads it as it is"
                )
    return convert_mert2_tensors(read_tensors(file))


def _published(name: str, window_seconds: float) -> tuple[Card, MelConformerSettings]:
    settings = MelConformerSettings()
    card = mel_conformer_card(
        name,
        settings,
        window_seconds=window_seconds,
        parameters=632_295_808,
        license="CC-BY-NC-4.0",
        commercial_use=False,
        is_gated=True,
        trained_on=("music, not stated",),
        pretraining_task="not stated",
        context_seconds=30.0 if name == "mert-v2-30s" else 360.0,
        paper=_PAPER,
        benchmark_setup="MARBLE as its authors ran it: windows not stated; mean over frames, layers 1 to 24, one for "
        "each task or an MLP on all; decibels standardised with the checkpoint's means and deviations of each band",
        files=FILES[name],
    )
    return card, settings


def _own(name: str, parameters: int, **sizes: Any) -> tuple[Card, MelConformerSettings]:
    settings = MelConformerSettings(**sizes, dropout=0.1, mask_vector=True)
    card = mel_conformer_card(
        name, settings, window_seconds=30.0, parameters=parameters, license="no published weights", paper=_PAPER
    )
    return card, settings


_VARIANTS: dict[str, tuple[Card, MelConformerSettings]] = {
    "mert-v2-30s": _published("mert-v2-30s", 30.0),
    "mert-v2-fullsong": _published("mert-v2-fullsong", 360.0),
    "mel-conformer-tiny": _own(
        "mel-conformer-tiny",
        1_478_656,
        conv_channels=(128, 128, 128),
        conv_depths=(1, 1, 1),
        dim=128,
        num_layers=4,
        num_heads=4,
        ffn_dim=256,
    ),
    "mel-conformer-small": _own(
        "mel-conformer-small",
        21_826_816,
        conv_channels=(128, 256, 384),
        conv_depths=(2, 2, 2),
        dim=384,
        num_layers=8,
        num_heads=6,
        ffn_dim=768,
    ),
    "mel-conformer-base": _own(
        "mel-conformer-base",
        95_842_432,
        conv_channels=(128, 384, 768),
        conv_depths=(2, 2, 1),
        dim=768,
        num_layers=12,
        num_heads=12,
        ffn_dim=1024,
    ),
}

ENCODER = EncoderFamily(
    settings=MelConformerSettings,
    build=MelConformerEncoder,
    variants=_VARIANTS,
    update_card=update_mel_conformer_card,
    load_official=_load_official,
)
