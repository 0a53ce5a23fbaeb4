"""Encoders written for others: Carrara's own folder, a folder that `transformers` loads, or an ONNX file.

What was written is read back and compared: a folder must give the same weights, bit for bit, an ONNX file the same
layers. A MAEST's folder holds its positions summed and no second head; what it does hold must be the same.

A folder for `transformers` opens as HubertModel, Data2VecAudioModel or, of a MAEST, ASTForAudioClassification, with all
hidden states equal. One choice is the reader's: of a pre-LN network, `hidden_states[-1]` of transformers 5 is the last
layer before the stack's final norm and `last_hidden_state` is after it; transformers 4 gave the latter for both, and so
does Carrara unless `final_norm` is off. Padded batches differ a little: transformers has the published padding
("original" here).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch

from carrara.core.errors import StoreError, UsageError, did_you_mean
from carrara.core.io import file_lock, write_text
from carrara.encoders._base import Encoder
from carrara.encoders._hub.export_onnx import export_onnx
from carrara.encoders._hub.load import README, load, model_card, save_pretrained
from carrara.encoders._hub.official import HEADS, read_heads
from carrara.encoders._hub.spec import CONFIG
from carrara.encoders._hubert.huggingface import FIELDS, PROCESSOR, SAFETENSORS
from carrara.encoders._hubert.network import HubertSettings
from carrara.encoders._maest.files import check_ast, save_ast_folder
from carrara.encoders._maest.keys import to_ast
from carrara.encoders._maest.network import MaestEncoder
from carrara.formats.weights import hash_tensors, save_tensors

FORMATS = ("transformers", "carrara", "onnx")


def export_encoder(encoder: Encoder, kind: str, folder: Path, source: str | Path | None = None) -> Path:
    """Write an encoder in another format and return the folder.

    Args:
        encoder: A loaded encoder.
        kind: transformers, carrara or onnx.
        folder: Created if missing.
        source: What it was loaded from; pre-training heads kept there are written along with "carrara".

    Raises:
        UsageError: There is no such format, or it cannot hold this network.
        StoreError: The folder cannot be written, or what was written is not the same when read back.
    """
    if kind not in FORMATS:
        raise UsageError(
            f"--format {kind}: no such format.{did_you_mean(kind, FORMATS)} There are {', '.join(FORMATS)}."
        )
    folder = Path(folder)
    if kind == "onnx":
        export_onnx(encoder, folder)
        return folder
    if kind == "transformers":
        _check_transformers(encoder)  # before the lock makes the folder
    heads = read_heads(source) if kind == "carrara" and source is not None else None
    with file_lock(folder / ".lock"):  # or files of two encoders could be mixed
        if kind == "carrara":
            save_pretrained(encoder, folder, heads=heads)
        else:
            _export_transformers(encoder, folder)
            (folder / HEADS).unlink(missing_ok=True)  # of another encoder
        _read_back(encoder, folder)
    return folder


def _check_transformers(encoder: Encoder) -> None:
    if isinstance(encoder, MaestEncoder):
        check_ast(encoder)
        return
    settings = encoder.settings
    if not isinstance(settings, HubertSettings):
        raise UsageError(
            f"{encoder.card.name}: --format transformers holds networks of HuBERT's, data2vec's and MAEST's shape only"
        )
    stacked, pre = settings.positions == "data2vec", settings.norm_placement == "pre"
    if settings.deepnorm or (stacked and (pre or settings.conv_norm != "layer")):
        raise UsageError(
            f"{encoder.card.name}: transformers has no network of this kind (DeepNorm, or data2vec's positions with "
            "pre-LN or group norm); --format carrara or onnx holds it"
        )


def _export_transformers(encoder: Encoder, folder: Path) -> None:
    if isinstance(encoder, MaestEncoder):
        save_ast_folder(encoder, folder)
        return
    settings = cast(HubertSettings, encoder.settings)
    stacked, pre = settings.positions == "data2vec", settings.norm_placement == "pre"
    positions: dict[str, Any] = {"num_conv_pos_embeddings": settings.position_kernel}
    if stacked:
        depth = settings.position_depth
        positions = {"num_conv_pos_embeddings": depth, "conv_pos_kernel_size": settings.position_kernel}
    config = {
        "architectures": ["Data2VecAudioModel" if stacked else "HubertModel"],
        "model_type": "data2vec-audio" if stacked else "hubert",
        **{theirs: getattr(settings, ours) for ours, theirs in FIELDS.items()},
        **positions,
        "conv_dim": [settings.conv_channels] * len(settings.conv_kernels),
        "num_feat_extract_layers": len(settings.conv_kernels),
        "feat_extract_norm": settings.conv_norm,
        "do_stable_layer_norm": pre,
        "sample_rate": settings.sample_rate,
        "apply_spec_augment": False,
    }
    processor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": settings.sample_rate,
        "do_normalize": settings.standardise,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    model = config["architectures"][0]
    readme = f"Written by `carrara export --format transformers`; open it with `transformers.{model}.from_pretrained`."
    if pre:
        readme += (
            "\n\nThe layers are normalised before, not after (pre-LN). In transformers 5 `hidden_states[-1]` is the "
            "last layer before the final norm, `last_hidden_state` after it; Carrara's last layer is the latter unless "
            "`final_norm` is off."
        )
    save_tensors(encoder.state_dict(), folder / SAFETENSORS)
    write_text(folder / PROCESSOR, json.dumps(processor, indent=2) + "\n")
    write_text(folder / README, f"{model_card(encoder.card)}\n{readme}\n")
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def _read_back(encoder: Encoder, folder: Path) -> None:
    written = load(folder)
    same = written.card.weights_sha256 == hash_tensors(encoder.state_dict())
    if isinstance(written, MaestEncoder) and not same:
        tensors, expected = to_ast(written.state_dict()), to_ast(encoder.state_dict())
        same = all(torch.allclose(tensors[name], expected[name], atol=1e-6) for name in expected)
    if not same:
        raise StoreError(f"{folder}: what was written did not come back the same; check the disk")
