"""LAION-CLAP: audio and text in one space, by an HTSAT and a RoBERTa trained against each other.

[wu2023clap]. 48 kHz; 64 mel bands (Slaney, 50 Hz to 14 kHz) of 1024-sample windows every 480 samples, in decibels;
clips of 10 s. A clip's vector is HTSAT's output, 1024 numbers; its projection to 512 numbers of unit length is in the
joint space (`encode_audio_joint`). A shorter clip is repeated as often as it fits and filled up with zeros, as
transformers' "repeatpad" does. Of a longer one transformers takes a random 10 s; here windows of 10 s follow each
other, the last one moved back so that it ends with the clip, and the clip's vector is the mean over them.

The files are Hugging Face's conversions, laion/larger_clap_music and laion/larger_clap_general (Apache-2.0 on the hub),
as ClapModel reads them, and the authors' own music_audioset_epoch_15_esc_90.14.pt (CC0-1.0). **The text tower of
larger_clap_music is broken**: all texts get nearly the same vector [mteb-5069], so its texts are refused; its audio
vectors can be used. The authors' file is the one for music. Its texts have at most 77 tokens, and RoBERTa's norms an
epsilon of 1e-5, where transformers has 1e-12. Dropped by name from it: what training needs, a tagger, and constants.

Letters: B batch, T samples, F mel frames, M bands, W windows, N texts, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import UsageError, WeightsError
from carrara.core.settings import Settings, parse_settings
from carrara.core.strict_json import read_json_object
from carrara.encoders._base import WEIGHT_FACTS, Card, Encoder, EncoderFamily, build_with_weights
from carrara.encoders._text.tower import TextEncoder, read_tokenizer
from carrara.encoders._windows import mean_over_windows, split_clips
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.formats.weights import read_tensors, strip_wrappers
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.bert import Bert, BertShape, init_normal
from carrara.nn.transformer.swin import Htsat, SwinShape

VARIANTS = {
    "laion-clap-music-audioset": "LAION-CLAP for music, 194M, 48 kHz: the authors' file, 10 s, with a text tower",
    "laion-clap-music": "LAION-CLAP music, 194M, 48 kHz: HTSAT and RoBERTa, 10 s; its text tower is refused",
    "laion-clap-general": "LAION-CLAP general, 194M, 48 kHz: HTSAT and RoBERTa, 10 s, with a text tower",
}
FILES = {
    "laion-clap-music-audioset": {
        "lukewys/laion_clap/music_audioset_epoch_15_esc_90.14.pt": "",
        "FacebookAI/roberta-base/tokenizer.json": "",
    },
    "laion-clap-music": {
        "laion/larger_clap_music/pytorch_model.bin": (
            "5c289311f4a030d768af7ffbfdecd01b008aa64824211899a4e59f4f9d154fd1"
        ),
        "laion/larger_clap_music/config.json": "",
        "laion/larger_clap_music/tokenizer.json": "",
    },
    "laion-clap-general": {
        "laion/larger_clap_general/pytorch_model.bin": "",
        "laion/larger_clap_general/config.json": "",
        "laion/larger_clap_general/tokenizer.json": "",
    },
}
SAMPLE_RATE, CLIP_SECONDS = 48_000, 10
_FRAMING = Framing(1024, 480, 1024, padding="reflect")
# Windows at once. On a CPU more are not faster and take 50 MB each.
_BATCH_SIZE, _GPU_BATCH_SIZE = 2, 8
_CONFIG, _WEIGHTS, _PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
# What a checkpoint of the authors' holds beside the two towers.
_UNUSED_BY_AUTHORS = re.compile(
    r"^(audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|(text|audio)_transform\.|logit_scale)"
    r"|(position_ids|relative_position_index|attn_mask)$"
)
# The authors' names, and transformers', which are ours.
_RENAMED_BY_TRANSFORMERS = {
    r"^audio_branch\.bn0\.": "audio_model.audio_encoder.batch_norm.",
    r"^audio_branch\.": "audio_model.audio_encoder.",
    r"^text_branch\.": "text_model.",
    r"^(text|audio)_projection\.0\.": r"\1_projection.linear1.",
    r"^(text|audio)_projection\.2\.": r"\1_projection.linear2.",
    r"\.attn\.proj\.": ".attention.output.dense.",
    r"\.attn\.": ".attention.self.",
    r"\.norm1\.": ".layernorm_before.",
    r"\.norm2\.": ".layernorm_after.",
    r"\.mlp\.fc1\.": ".intermediate.dense.",
    r"\.mlp\.fc2\.": ".output.dense.",
}
# Scales of the loss, and tables of constants that transformers stores.
_UNUSED = re.compile(r"^logit_scale_[at]$|(position_ids|token_type_ids|relative_position_index)$")
_TEXT_SIZES = {
    "text_dim": "hidden_size",
    "text_layers": "num_hidden_layers",
    "text_heads": "num_attention_heads",
    "text_ffn_dim": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}
_AUDIO_SIZES = {
    "dim": "patch_embeds_hidden_size",
    "depths": "depths",
    "heads": "num_attention_heads",
    "window": "window_size",
    "side": "spec_size",
    "bands": "num_mel_bins",
}
# transformers' defaults, which a config.json leaves out, where they are not ours.
_AUDIO_DEFAULTS = {"dim": 96, "depths": (2, 2, 6, 2)}
_FIXED = {
    "text_config": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 1, "type_vocab_size": 1},
    "audio_config": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "enable_fusion": False,
        "enable_patch_layer_norm": True,
        "qkv_bias": True,
        "mlp_ratio": 4.0,
    },
}


class ClapSettings(Settings):
    """Settings of a LAION-CLAP; the defaults are those of the `larger_clap_…` files.

    Attributes:
        joint_dim: size of the joint space.
        dim, depths, heads, window, side, bands: of HTSAT, as in `carrara.nn.transformer.swin.SwinShape`.
        text_dim, text_layers, text_heads, text_ffn_dim, vocabulary, positions: of RoBERTa, as in
            `carrara.nn.transformer.bert.BertShape`.
        text_eps: of RoBERTa's norms.
        max_tokens: longest text; what is after it is left out.
    """

    joint_dim: int = Field(default=512, ge=1)
    dim: int = Field(default=128, ge=1)
    depths: tuple[int, ...] = (2, 2, 12, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = Field(default=8, ge=2)
    side: int = Field(default=256, ge=4)
    bands: int = Field(default=64, ge=1)
    text_dim: int = Field(default=768, ge=1)
    text_layers: int = Field(default=12, ge=1)
    text_heads: int = Field(default=12, ge=1)
    text_ffn_dim: int = Field(default=3072, ge=1)
    vocabulary: int = Field(default=50_265, ge=3)
    positions: int = Field(default=514, ge=4)
    text_eps: float = Field(default=1e-12, gt=0)
    max_tokens: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _check(self) -> ClapSettings:
        if len(self.depths) != len(self.heads):
            raise ValueError("depths and heads must have a number for each stage")
        if self.side % self.bands or self.side % (4 * 2 ** (len(self.depths) - 1)):
            raise ValueError(f"side {self.side} must be a multiple of bands and of 4 · 2^(stages − 1)")
        return self


class ClapEncoder(TextEncoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: ClapSettings
    pad_token = 1

    def __init__(self, settings: ClapSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.max_tokens = settings, min(settings.max_tokens, settings.positions - 2)
        width = settings.dim * 2 ** (len(settings.depths) - 1)
        swin = SwinShape(
            settings.bands,
            settings.side,
            window=settings.window,
            dim=settings.dim,
            depths=settings.depths,
            heads=settings.heads,
        )
        roberta = BertShape(
            settings.text_layers,
            settings.text_dim,
            settings.text_heads,
            settings.text_ffn_dim,
            settings.vocabulary,
            settings.positions,
            first_position=2,
            eps=settings.text_eps,
        )
        with torch.device("meta"):
            self.audio_model = nn.ModuleDict({"audio_encoder": Htsat(swin)})
            self.audio_projection = _projection(width, settings.joint_dim)
            self.text_model = Bert(roberta)
            self.text_projection = _projection(settings.text_dim, settings.joint_dim)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters, "dim": width, "joint_dim": settings.joint_dim})
        init_weights(self, self._initialize, seed)
        self.mel = build_constants(
            lambda: MelSpectrogram(SAMPLE_RATE, _FRAMING, MelBands(settings.bands, 50.0, 14_000.0), "db")
        )

    def _initialize(self, generator: torch.Generator) -> None:
        init_normal(self, generator)
        self.htsat.init_tables(generator)

    @property
    def htsat(self) -> Htsat:
        """The audio tower, without its projection."""
        network = self.audio_model["audio_encoder"]
        assert isinstance(network, Htsat)
        return network

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return HTSAT's output, the mean over each clip's windows, `[batch, 1, 1, dim]`."""
        windows = [split_into_windows(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        return self._mean_over_windows(self._encode_windows, windows)[:, None, None]

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, by operations that a tracer follows."""
        length, own = CLIP_SECONDS * SAMPLE_RATE, samples_BT.shape[1]
        windows = (own + length - 1) // length
        # Tensors and not numbers, so that no branch depends on the length.
        start_N = torch.arange(windows + 1, device=samples_BT.device)[:-1] * length
        start_N = torch.minimum(start_N, (torch.zeros_like(start_N) + (own - length)).clamp(min=0))
        index_NT = start_N[:, None] + torch.arange(length, device=samples_BT.device)
        # A shorter clip is repeated as often as it fits; zeros follow.
        is_own_NT = (index_NT < own) | (index_NT < length // own * own)
        windows_WT = (samples_BT[:, index_NT - index_NT // own * own] * is_own_NT).flatten(0, 1)
        features_BND = self._encode_windows(windows_WT).unflatten(0, (samples_BT.shape[0], -1))
        return features_BND.mean(1)[:, None, None]

    @torch.no_grad()
    def encode_audio_joint(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return each clip's unit vector in the space of `encode_text`: the mean of its windows' unit vectors."""
        windows = [split_into_windows(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]

        def project(windows_WT: Tensor) -> Tensor:
            joint_WD = _project(self.audio_projection, self._encode_windows(windows_WT))
            return functional.normalize(joint_WD.float(), dim=-1)

        return functional.normalize(self._mean_over_windows(project, windows), dim=-1)

    def _mean_over_windows(self, network: Callable[[Tensor], Tensor], windows: Sequence[Tensor]) -> Tensor:
        batch_size = _BATCH_SIZE if windows[0].device.type == "cpu" else _GPU_BATCH_SIZE
        return mean_over_windows(network, windows, batch_size)

    def _encode_windows(self, windows_WT: Tensor) -> Tensor:
        return self.htsat(self.mel(windows_WT)).float()

    def forward_text(self, tokens_NF: Tensor, valid_NF: Tensor) -> Tensor:
        """Return the projection of RoBERTa's pooled output, `[texts, dim]`."""
        return _project(self.text_projection, self.text_model.pool(self.text_model(tokens_NF, valid_NF)))


def split_into_windows(samples_T: Tensor) -> Tensor:
    """Return a clip's windows of 10 s, `[windows, samples]` (see the head of this file)."""
    length, own = CLIP_SECONDS * SAMPLE_RATE, len(samples_T)
    if own < length:
        repeated_T = samples_T.repeat(length // max(own, 1))
        return functional.pad(repeated_T, (0, length - len(repeated_T)))[None]
    starts = [*range(0, own - length, length), own - length]
    return torch.stack([samples_T[start : start + length] for start in starts])


def _projection(dim: int, joint_dim: int) -> nn.ModuleDict:
    return nn.ModuleDict({"linear1": nn.Linear(dim, joint_dim), "linear2": nn.Linear(joint_dim, joint_dim)})


def _project(layers: nn.ModuleDict, x_ND: Tensor) -> Tensor:
    return layers["linear2"](functional.relu(layers["linear1"](x_ND)))


def load_clap_folder(folder: Path, config: Mapping[str, Any], name: str) -> Encoder:
    """Return the encoder of a folder of transformers' ClapModel, of any size.

    Args:
        folder: holds the weights, and a tokenizer.json if it is to read texts.
        config: content of its config.json.
        name: name of the encoder.

    Raises:
        UsageError: a config of a network that is not supported.
        WeightsError: weights that are missing, damaged or of another network.
    """
    settings = _parse_settings(config, str(folder / _CONFIG))
    addresses = {variant: f"/{next(iter(files))}" for variant, files in FILES.items()}
    variant = next((own for own, address in addresses.items() if f"/{Path(name).name}/{_PICKLE}" in address), None)
    published = ENCODER.variants[variant][0] if variant else None
    facts = published.model_dump(include={*WEIGHT_FACTS, "files"}) if published else {"paper": _PAPER}
    encoder = build_with_weights(
        ClapEncoder, settings, _card(name, **facts), _read_weights(_weights_file(folder)), str(_weights_file(folder))
    )
    encoder.tokenizer_json = read_tokenizer(encoder.card, folder)
    return encoder


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of transformers' folder, or of the file in it, by the network's own names.

    Raises:
        UsageError: the folder's config is of a network that is not supported.
        WeightsError: weights that are missing, damaged, or of another network than the variant's.
    """
    own = next(iter(FILES[name])).rpartition("/")[2]
    file = _weights_file(path, own) if path.is_dir() else path
    config_file = file.parent / _CONFIG
    if config_file.is_file():
        try:
            config = read_json_object(config_file)
        except (OSError, ValueError) as problem:
            raise UsageError(f"{config_file}: cannot be read ({problem}); fetch it again") from None
        if config.get("model_type") == "clap" and _parse_settings(config, str(config_file)) != ClapSettings():
            raise WeightsError(
                f"{config_file}: not {name}: it states other sizes; `carrara.load(FOLDER)` reads it as it is"
            )
    return _read_weights(file)


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of transformers' file or of the authors' checkpoint, by transformers' names.

    Raises:
        WeightsError: the file is missing, damaged, or no weights.
    """
    if file.suffix == ".pt":
        content = read_torch_checkpoint(file)
        tensors = content.get("state_dict", content) if isinstance(content, Mapping) else None
        if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise WeightsError(f"{file}: is no checkpoint of a LAION-CLAP; fetch it again")
        return _convert_checkpoint(strip_wrappers(tensors, str(file)))
    return {key: tensor.float() for key, tensor in read_tensors(file).items() if not _UNUSED.search(key)}


def _convert_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an authors' tensors by transformers' names; queries, keys and values are one matrix there."""
    converted = {}
    for key, tensor in tensors.items():
        if _UNUSED_BY_AUTHORS.search(key):
            continue
        for theirs, ours in _RENAMED_BY_TRANSFORMERS.items():
            if key.startswith("audio_") or not theirs.startswith(r"\."):
                key = re.sub(theirs, ours, key)
        if ".qkv." in key:
            for part, third in zip(("query", "key", "value"), tensor.float().chunk(3)):
                converted[key.replace(".qkv.", f".{part}.")] = third
        else:
            converted[key] = tensor.float()
    return converted


def _weights_file(folder: Path, own: str = _WEIGHTS) -> Path:
    for file in (own, _WEIGHTS, _PICKLE):
        if (folder / file).is_file():
            return folder / file
    raise WeightsError(f"{folder}: neither {own} nor {_PICKLE} in it; fetch the folder again")


def _parse_settings(config: Mapping[str, Any], source: str) -> ClapSettings:
    if config.get("projection_hidden_act", "relu") != "relu":
        raise UsageError(f"{source}: projection_hidden_act is {config['projection_hidden_act']!r}, and 'relu' here")
    values: dict[str, Any] = dict(_AUDIO_DEFAULTS)
    for table, sizes in (("text_config", _TEXT_SIZES), ("audio_config", _AUDIO_SIZES)):
        part = config.get(table, {})
        if not isinstance(part, Mapping):
            raise UsageError(f"{source}: its {table} is no table; fetch it again")
        for key, value in _FIXED[table].items():
            if part.get(key, value) != value:
                raise UsageError(f"{source}: {key} is {part[key]!r}, and {value!r} here; other CLAPs are not supported")
        values |= {ours: part[theirs] for ours, theirs in sizes.items() if theirs in part}
    if "projection_dim" in config:
        values["joint_dim"] = config["projection_dim"]
    return parse_settings(ClapSettings, values, source)


_PAPER = (
    "Wu et al. 2023, Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption "
    "Augmentation, ICASSP, https://arxiv.org/abs/2211.06687"
)


def _card(name: str, **facts: Any) -> Card:
    fixed = {
        "sample_rate": SAMPLE_RATE,
        "frame_rate": None,
        "num_layers": 0,
        "dim": 1024,
        "joint_dim": 512,
        "window_seconds": float(CLIP_SECONDS),
        "stride_seconds": float(CLIP_SECONDS),
        "input": "log-mel",
        "network": "HTSAT (Swin), RoBERTa for texts",
        "paper": _PAPER,
    }
    return Card.model_validate({"name": name, **fixed, **facts})


_FACTS = {
    "parameters": 193_913_880,
    "commercial_use": True,
    "pretraining_task": "contrastive learning of audio and text",
    "context_seconds": 10.0,
    "benchmark_setup": "transformers: a random window of 10 s, shorter clips repeated; no mean over windows; decibels "
    "through the network's batch norm",
}
_CORPORA = {
    "laion-clap-music-audioset": ("music", "AudioSet", "LAION-Audio-630K"),
    "laion-clap-music": ("music, as its conversion is named",),
    "laion-clap-general": ("music", "speech", "AudioSet", "LAION-Audio-630K"),
}
_VARIANT_SETTINGS = {"laion-clap-music-audioset": ClapSettings(text_eps=1e-5, max_tokens=77)}


def _variant(name: str) -> tuple[Card, ClapSettings]:
    license = "CC0-1.0" if name in _VARIANT_SETTINGS else "Apache-2.0"
    card = _card(name, **_FACTS, license=license, trained_on=_CORPORA[name], files=FILES[name])
    return card, _VARIANT_SETTINGS.get(name, ClapSettings())


ENCODER = EncoderFamily(
    settings=ClapSettings,
    build=ClapEncoder,
    variants={name: _variant(name) for name in VARIANTS},
    update_card=lambda card, settings: card,
    load_official=_load_official,
)
