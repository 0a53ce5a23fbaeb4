"""The folder of a trained codec: its settings in config.json, its weights in model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from carrara.core.errors import WeightsError
from carrara.core.io import write_text
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json_object
from carrara.formats.weights import load_state_dict_strict, read_tensors, save_tensors
from carrara.nn.quantize.rvq_vae import RVQVAE, CodecSettings

CODEC_CONFIG, CODEC_KEY = "config.json", "rvq-vae"
WEIGHTS = "model.safetensors"


def save_codec(codec: RVQVAE, folder: Path) -> None:
    """Write a codec as a folder that `load_codec` reads.

    Raises:
        StoreError: the folder cannot be written.
    """
    save_tensors(codec.state_dict(), folder / WEIGHTS)
    write_text(folder / CODEC_CONFIG, json.dumps({CODEC_KEY: codec.settings.model_dump(mode="json")}, indent=2) + "\n")


def load_codec(folder: Path) -> RVQVAE:
    """Return the codec of a folder, in evaluation mode, on the CPU.

    Raises:
        WeightsError: the folder holds no codec, or its weights are incomplete.
        UsageError: a setting is unknown.
    """
    path = Path(folder) / CODEC_CONFIG
    try:
        settings = read_json_object(path)[CODEC_KEY]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(f"{path}: no RVQ-VAE ({problem}); train one with `carrara pretrain rvq-vae`") from None
    codec = RVQVAE(parse_settings(CodecSettings, settings, str(path)))
    load_state_dict_strict(codec, read_tensors(Path(folder) / WEIGHTS), str(Path(folder) / WEIGHTS))
    return codec.eval()
