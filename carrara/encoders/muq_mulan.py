"""MuQ-MuLan: MuQ and XLM-R trained against each other on music and texts, in English and Chinese.

[zhu2025]. 24 kHz, clips of 10 s. The layers are those of its MuQ, which was trained further; the mean over the frames
of the last one, projected twice and of unit length, is a clip's vector of 512 numbers in the joint space. A text's is
the mean over the tokens of XLM-R's output after eight more layers, projected. These layers have norms without bias,
unit queries and keys with learned factors, and GEGLU. The code is MIT, the weights are CC BY-NC 4.0.

A clip longer than 10 s is the mean of its windows; the last one is filled up with the clip's beginning, and so is a
shorter clip, once, as the authors do it. The authors average over a batch's padding too, so that a text has another
vector beside longer ones; here it has the one that it has alone.

The official folder (huggingface.co/OpenMuQ/MuQ-MuLan-large) holds all weights; the vocabulary is XLM-R's. Its
config.json has no sizes of MuQ and XLM-R, so they follow from the tensors, with heads of 64 in XLM-R. The statistics of
decibels are those of MuQ-large-msd-iter. Dropped by name: what MuQ drops, XLM-R's pooler, the aggregator of layers,
which is never called, and the loss's temperature.

Letters: B batch, T samples, F frames or tokens, W windows, N texts, D dimension, H heads, E features of a head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import parse_settings
from carrara.core.strict_json import read_json_object
from carrara.encoders._base import WEIGHT_FACTS, Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._conformer.network import (
    FREQUENCIES,
    MSD_MEAN,
    MSD_STD,
    SAMPLE_RATE,
    ConformerEncoder,
    ConformerSettings,
    conformer_card,
    convert_conformer_tensors,
    update_conformer_card,
)
from carrara.encoders._text.tower import TextEncoder, XlmRobertaSettings, read_tokenizer
from carrara.encoders._windows import split_clips
from carrara.formats.weights import read_tensors
from carrara.nn.init import init_weights
from carrara.nn.transformer.bert import Bert, init_normal

VARIANTS = {"muq-mulan": "MuQ-MuLan, 646M, 24 kHz: MuQ and a text tower (XLM-R) in one space, English and Chinese"}
FILES = {
    "muq-mulan": {
        "OpenMuQ/MuQ-MuLan-large/pytorch_model.bin": "",
        "OpenMuQ/MuQ-MuLan-large/config.json": "",
        "FacebookAI/xlm-roberta-base/tokenizer.json": "",
    }
}
CLIP_SECONDS = 10
_BATCH_SIZE = 8  # windows
_TEXT_HEAD = 64
_CONFIG, _WEIGHTS, _PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
_MUQ = "mulan.audio.model."
_UNUSED = re.compile(
    r"^mulan\.(contrast\.|audio\.aggregator\.|text\.model\.pooler\.|text\.model\.embeddings\.\w+_ids$)"
)
# The authors' names of what is not MuQ, and ours.
_RENAMED = {
    r"^mulan\.audio\.proj\.": "audio_projection.",
    r"^mulan\.(audio|text)_to_latents\.": r"\1_to_joint.",
    r"^mulan\.text\.model\.": "text_model.",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.0\.norm\.learned_gamma$": r"text_layers.\1.attention_norm.weight",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.0\.to_out\.0\.": r"text_layers.\1.to_out.",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.0\.": r"text_layers.\1.",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.1\.0\.learned_gamma$": r"text_layers.\1.ffn_norm.weight",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.1\.1\.": r"text_layers.\1.ffn_in.",
    r"^mulan\.text\.transformer\.layers\.(\d+)\.1\.4\.": r"text_layers.\1.ffn_out.",
}
_FIXED = {
    "mulan": {"sr": SAMPLE_RATE, "clip_secs": CLIP_SECONDS, "hierarchical_contrastive_loss": False},
    "audio_model": {"use_layer_idx": -1},
    "audio_transformer": {"tf_depth": 0},
    "text_transformer": {"ff_mult": 4},
}


class MulanSettings(ConformerSettings, XlmRobertaSettings):
    """Settings of a MuQ-MuLan; the defaults are the published ones.

    Attributes:
        projected_dim: between the two projections of audio.
        joint_dim: size of the joint space.
        top_layers, top_heads, top_head_dim: of the layers after it.
    """

    projected_dim: int = Field(default=768, ge=1)
    joint_dim: int = Field(default=512, ge=1)
    top_layers: int = Field(default=8, ge=0)
    top_heads: int = Field(default=8, ge=1)
    top_head_dim: int = Field(default=64, ge=1)


class MulanLayer(nn.Module):
    """One of the layers after XLM-R: pre-norm attention and GEGLU, without biases."""

    scale = 8.0  # of the product of unit queries and keys

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        inner, hidden = num_heads * head_dim, dim * 8 // 3
        self.attention_norm = nn.LayerNorm(dim, bias=False)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.q_scale, self.k_scale = (nn.Parameter(torch.ones(head_dim)) for _ in range(2))
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.ffn_norm = nn.LayerNorm(dim, bias=False)
        self.ffn_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.ffn_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_NFD: Tensor, valid_NF: Tensor) -> Tensor:
        """Return `[texts, tokens, dim]`; tokens where `valid_NF` is false are not attended to."""
        normed_NFD = self.attention_norm(x_NFD)
        q_NHFE, k_NHFE, v_NHFE = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.to_q(normed_NFD), *self.to_kv(normed_NFD).chunk(2, dim=-1))
        )
        q_NHFE = functional.normalize(q_NHFE, dim=-1) * self.q_scale
        k_NHFE = functional.normalize(k_NHFE, dim=-1) * self.k_scale
        mask = valid_NF[:, None, None]
        out_NHFE = functional.scaled_dot_product_attention(q_NHFE, k_NHFE, v_NHFE, mask, scale=self.scale)
        x_NFD = x_NFD + self.to_out(out_NHFE.transpose(1, 2).flatten(2))
        hidden, gate = self.ffn_in(self.ffn_norm(x_NFD)).chunk(2, dim=-1)
        return x_NFD + self.ffn_out(functional.gelu(gate) * hidden)


class MulanEncoder(ConformerEncoder, TextEncoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: MulanSettings
    pad_token = 1

    def __init__(self, settings: MulanSettings, card: Card, seed: int = 0) -> None:
        super().__init__(settings, card, seed)
        self.max_tokens = settings.positions - 2
        with torch.device("meta"):
            self.audio_projection = nn.Linear(settings.dim, settings.projected_dim)
            self.audio_to_joint = nn.Linear(settings.projected_dim, settings.joint_dim)
            self.text_model = Bert(settings.text_shape(), has_pooler=False)
            self.text_layers = nn.ModuleList(
                MulanLayer(settings.text_dim, settings.top_heads, settings.top_head_dim)
                for _ in range(settings.top_layers)
            )
            self.text_to_joint = nn.Linear(settings.text_dim, settings.joint_dim)
        parts = (self.audio_projection, self.audio_to_joint, self.text_model, self.text_layers, self.text_to_joint)
        for part in parts:
            init_weights(part, partial(_init_part, part), seed)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = self.card.model_copy(update={"parameters": parameters, "joint_dim": settings.joint_dim})

    @torch.no_grad()
    def encode_audio_joint(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return each clip's unit vector in the space of `encode_text`: the mean of its windows' unit vectors."""
        vectors = []
        for samples_T in split_clips(samples_BT, lengths_B):
            batches = split_into_mulan_windows(samples_T).split(_BATCH_SIZE)
            frames_WFD = torch.cat([self.forward(windows_WT)[:, -1] for windows_WT in batches])
            joint_WD = self.audio_to_joint(self.audio_projection(frames_WFD).mean(dim=1)).float()
            vectors.append(functional.normalize(joint_WD, dim=-1).mean(dim=0))
        return functional.normalize(torch.stack(vectors), dim=-1)

    def forward_text(self, tokens_NF: Tensor, valid_NF: Tensor) -> Tensor:
        """Return the projection of the mean over each text's own tokens, `[texts, dim]`."""
        x_NFD = self.text_model(tokens_NF, valid_NF)
        for layer in self.text_layers:
            x_NFD = layer(x_NFD, valid_NF)
        own_NFD = x_NFD.masked_fill(~valid_NF[..., None], 0)
        return self.text_to_joint(own_NFD.sum(dim=1) / valid_NF.sum(dim=1, keepdim=True))


def split_into_mulan_windows(samples_T: Tensor) -> Tensor:
    """Return a clip's windows of 10 s, `[windows, samples]` (see the head of this file); one sample or more each."""
    length = CLIP_SECONDS * SAMPLE_RATE
    whole = len(samples_T) // length * length
    windows_WT = samples_T[:whole].view(-1, length)
    rest_T = samples_T[whole:]
    if not len(rest_T) and whole:
        return windows_WT
    last_T = torch.cat([rest_T, samples_T[: length - len(rest_T)]])
    return torch.cat([windows_WT, last_T[None]]) if whole else last_T[None]


@torch.no_grad()
def _init_part(part: nn.Module, generator: torch.Generator) -> None:
    init_normal(part, generator)
    for name, parameter in part.named_parameters():
        if name.endswith(("q_scale", "k_scale")):
            parameter.fill_(1.0)


def load_mulan_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of a folder as the authors' program writes it, of any size.

    Args:
        folder: holds the weights, and XLM-R's tokenizer.json if it is to read texts.
        config: content of its config.json; it has `mulan`.
        name: name of the encoder.

    Raises:
        UsageError: a config of a network that is not supported.
        WeightsError: weights that are missing, damaged or of another network.
    """
    file = _weights_file(folder)
    tensors = read_tensors(file)
    settings = _parse_mulan_settings(config, tensors, str(folder / _CONFIG))
    published = _CARD if f"/{Path(name).name}/{_PICKLE}" in next(iter(_CARD.files)) else None
    facts = published.model_dump(include={*WEIGHT_FACTS, "files"}) if published else {"paper": _PAPER}
    card = _card(name, settings, **facts)
    encoder = build_with_weights(
        MulanEncoder, settings, card, convert_mulan_tensors(tensors, settings, str(file)), str(file)
    )
    encoder.tokenizer_json = read_tokenizer(encoder.card, folder)
    return encoder


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of the authors' folder, or of the file in it, by the network's own names.

    Raises:
        UsageError: the folder's config is of a network that is not supported.
        WeightsError: weights that are missing, damaged, or of another network than the variant's.
    """
    file = _weights_file(path) if path.is_dir() else path
    tensors = read_tensors(file)
    config_file = file.parent / _CONFIG
    if config_file.is_file():
        try:
            config = read_json_object(config_file)
        except (OSError, ValueError) as problem:
            raise UsageError(f"{config_file}: cannot be read ({problem}); fetch it again") from None
        if "mulan" in config:
            _parse_mulan_settings(config, tensors, str(config_file))
    settings = ENCODER.variants[name][1]
    assert isinstance(settings, MulanSettings)
    return convert_mulan_tensors(tensors, settings, str(file))


def convert_mulan_tensors(tensors: Mapping[str, Tensor], settings: MulanSettings, source: str) -> dict[str, Tensor]:
    """Return the network's own tensors, by our names, in single precision."""
    muq = {key.removeprefix(_MUQ): tensor for key, tensor in tensors.items() if key.startswith(_MUQ)}
    ours = convert_conformer_tensors(muq, settings, source)
    ours |= {"mel_mean": torch.tensor(MSD_MEAN), "mel_deviation": torch.tensor(MSD_STD)}
    for key, tensor in tensors.items():
        if not key.startswith(_MUQ) and not _UNUSED.match(key):
            for theirs, name in _RENAMED.items():
                key = re.sub(theirs, name, key)
            ours[key] = tensor.float()
    return ours


def _parse_mulan_settings(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> MulanSettings:
    """Return the settings that a config.json and the shapes of the tensors state.

    Raises:
        UsageError: the config is of a network that is not supported.
        WeightsError: the tensors are another network's.
    """
    for table, fixed in _FIXED.items():
        part = config.get(table, {})
        for key, value in fixed.items():
            if not isinstance(part, Mapping) or part.get(key, value) != value:
                raise UsageError(
                    f"{source}: {table}.{key} is not {value!r} as in a MuQ-MuLan; others are not supported"
                )
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}

    def count(pattern: str) -> int:
        return len({match[1] for key in shapes if (match := re.match(pattern, key))})

    try:
        body, text = f"{_MUQ}model.", "mulan.text.model."
        ffn_dim, dim = shapes[f"{body}conformer.layers.0.ffn1.intermediate_dense.weight"]
        vocabulary, text_dim = shapes[f"{text}embeddings.word_embeddings.weight"]
        values = {
            "dim": dim,
            "ffn_dim": ffn_dim,
            "num_layers": count(rf"{re.escape(body)}conformer\.layers\.(\d+)\."),
            "num_heads": dim // (2 * shapes[body + FREQUENCIES][0]) if body + FREQUENCIES in shapes else dim // 64,
            "kernel": shapes[f"{body}conformer.layers.0.conv_module.depthwise_conv.weight"][-1],
            "channels": shapes[f"{body}conv.conv.0.conv1.weight"][0],
            "projected_dim": shapes["mulan.audio.proj.weight"][0],
            "joint_dim": shapes["mulan.text_to_latents.weight"][0],
            "text_dim": text_dim,
            "vocabulary": vocabulary,
            "positions": shapes[f"{text}embeddings.position_embeddings.weight"][0],
            "text_layers": count(rf"{re.escape(text)}encoder\.layer\.(\d+)\."),
            "text_heads": text_dim // _TEXT_HEAD,
            "text_ffn_dim": shapes[f"{text}encoder.layer.0.intermediate.dense.weight"][0],
            "top_layers": count(r"mulan\.text\.transformer\.layers\.(\d+)\."),
        }
    except (KeyError, IndexError, ValueError) as problem:
        raise WeightsError(f"{source}: the weights beside it are not those of a MuQ-MuLan ({problem})") from None
    top, sizes = config.get("text_transformer", {}), {"top_heads": "heads", "top_head_dim": "dim_head"}
    values |= {ours: top[theirs] for ours, theirs in sizes.items() if theirs in top}
    return parse_settings(MulanSettings, values, source)


def _weights_file(folder: Path) -> Path:
    for file in (_WEIGHTS, _PICKLE):
        if (folder / file).is_file():
            return folder / file
    raise WeightsError(f"{folder}: neither {_WEIGHTS} nor {_PICKLE} in it; fetch the folder again")


_PAPER = "Zhu et al. 2025, MuQ: Self-Supervised Music Representation Learning, https://arxiv.org/abs/2501.01108"


def _update_card(card: Card, settings: MulanSettings) -> Card:
    updated = update_conformer_card(card, settings)
    return updated.model_copy(update={"network": f"{updated.network}; XLM-R for texts"})


def _card(name: str, settings: MulanSettings, **facts: Any) -> Card:
    fixed = {"window_seconds": float(CLIP_SECONDS), "joint_dim": settings.joint_dim, "paper": _PAPER}
    return _update_card(conformer_card(name, settings, **{**fixed, **facts}), settings)


_CARD = _card(
    "muq-mulan",
    MulanSettings(),
    parameters=645_715_968,
    license="CC-BY-NC-4.0",
    commercial_use=False,
    trained_on=("Million Song Dataset", "music-text pairs"),
    pretraining_task="contrastive learning of audio and text, from MuQ",
    context_seconds=10.0,
    benchmark_setup="zero-shot MagnaTagATune as its authors ran it: windows of 10 s, the last one filled up with the "
    "beginning; mean over windows; decibels standardised with the training set's mean and std",
    files=FILES["muq-mulan"],
)
ENCODER = EncoderFamily(
    settings=MulanSettings,
    build=MulanEncoder,
    variants={"muq-mulan": (_CARD, MulanSettings())},
    update_card=_update_card,
    load_official=_load_official,
)
