"""Dasheng: masked autoencoders of general audio, speech and music, in three sizes.

[dinkel2024]. 16 kHz; 64 mel bands (HTK scale, peak 1) of a 512-sample periodic Hann window every 160 samples, edges
reflected, decibels against 1 not lower than 120 below each clip's own maximum, each band normalised by a batch norm
with the training set's statistics. A patch is all bands of four frames, so 25 a second; a learned vector of its time
and one of frequency are added, and pre-norm layers follow. Layer 0 is the input to layer 1, layer i the output of layer
i; the last one is taken after the final norm, as the authors' encoder returns it.

There are positions for 252 patches (10.08 s). Longer clips are cut into parts of that length, which do not see each
other, as the authors do it; their spectrogram is computed in one. Fewer than four frames count as four.

The authors' program takes the maximum of decibels over a whole batch, and its mask lets patches at a clip's end
reach into the padding, so that a clip's features depend on what else is in its batch; here they do not.

Official files: `dasheng_….pt` of zenodo.org/records/11511780 (a checkpoint with `model` and `config`), Apache-2.0, and
Hugging Face's conversions (model.safetensors, where names begin with `encoder.`). Dropped by name: window and filter
bank, which are computed, and a classifier.

Letters: B batch, T samples, F frames of the spectrogram, M bands, P patches, D dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import WeightsError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import split_clips
from carrara.formats.magic import is_pickle, read_magic
from carrara.formats.safe_pickle import read_torch_checkpoint
from carrara.formats.weights import read_tensors
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram, to_decibels
from carrara.nn.transformer.bert import INITIAL_STD, init_normal
from carrara.nn.transformer.vit import EPS, VitBlock, VitShape

VARIANTS = {
    "dasheng-base": "Dasheng base, 86M, 16 kHz: masked autoencoder of mel frames, 272,000 h of general audio",
    "dasheng-0.6b": "Dasheng 0.6B, 630M, 16 kHz: masked autoencoder of mel frames, 272,000 h of general audio",
    "dasheng-1.2b": "Dasheng 1.2B, 1.1B, 16 kHz: masked autoencoder of mel frames, 272,000 h of general audio",
}
FILES = {
    "dasheng-base": {"https://zenodo.org/records/11511780/files/dasheng_base.pt": ""},
    "dasheng-0.6b": {"https://zenodo.org/records/11511780/files/dasheng_06b.pt": ""},
    "dasheng-1.2b": {"https://zenodo.org/records/11511780/files/dasheng_12b.pt": ""},
}
SAMPLE_RATE, HOP, BANDS, PATCH = 16_000, 160, 64, 4
POSITIONS = 252
_FRAMING = Framing(512, HOP, 512, padding="reflect")
_TOP_DB = 120.0
_MODEL, _SAFETENSORS, _PICKLE = "model", "model.safetensors", "pytorch_model.bin"
_UNUSED = re.compile(r"^(front_end\.|outputlayer\.)")
# Values that this network always has, where a checkpoint's config states them. The authors' program overrides the sizes
# in it, so those are not compared.
_FIXED = {"pooling": "mean", "n_mels": BANDS, "hop_size": HOP, "n_fft": 512, "win_size": 512, "init_values": None}


class DashengSettings(Settings):
    """Settings of a Dasheng; the defaults are the base model's.

    Attributes:
        dim, num_layers, num_heads, ffn_dim: sizes of the Transformer.
    """

    dim: int = Field(default=768, ge=1)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)

    @model_validator(mode="after")
    def _check(self) -> DashengSettings:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        return self


class DashengEncoder(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: DashengSettings

    def __init__(self, settings: DashengSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        shape = VitShape(
            POSITIONS * PATCH,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            ffn_dim=settings.ffn_dim,
        )
        with torch.device("meta"):
            self.init_bn = nn.ModuleDict({"1": nn.BatchNorm2d(BANDS)})
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, settings.dim, (BANDS, PATCH), (BANDS, PATCH))})
            self.time_pos_embed = nn.Parameter(torch.empty(1, settings.dim, 1, POSITIONS))
            self.freq_pos_embed = nn.Parameter(torch.empty(1, settings.dim, 1, 1))
            self.blocks = nn.ModuleList(VitBlock(shape) for _ in range(settings.num_layers))
            self.norm = nn.LayerNorm(settings.dim, eps=EPS)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = _update_card(card, settings).model_copy(update={"parameters": parameters})
        init_weights(self, self._initialize, seed)
        self.mel = build_constants(
            lambda: MelSpectrogram(SAMPLE_RATE, _FRAMING, MelBands(BANDS, 0.0, 8000.0, "htk", "none"))
        )

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        init_normal(self, generator)
        for positions in (self.time_pos_embed, self.freq_pos_embed):
            positions.normal_(0, INITIAL_STD, generator=generator)

    def num_frames(self, samples: int) -> int:
        """Return the number of patches: whole fours of frames, at least 1."""
        return max(_FRAMING.num_frames(samples) // PATCH, 1)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]`; zero after each clip's own frames."""
        patches = [self.embed_patches(samples_T) for samples_T in split_clips(samples_BT, lengths_B)]
        counts_B = torch.tensor([len(own_PD) for own_PD in patches], device=samples_BT.device)
        x_BPD = pad_sequence(patches, batch_first=True)
        missing = self.num_frames(samples_BT.shape[1]) - x_BPD.shape[1]
        x_BPD = functional.pad(x_BPD, (0, 0, 0, max(missing, 0)))
        valid_BP = torch.arange(x_BPD.shape[1], device=x_BPD.device) < counts_B[:, None]
        parts = [
            self._run_layers(part_BPD, own_BP)
            for part_BPD, own_BP in zip(x_BPD.split(POSITIONS, 1), valid_BP.split(POSITIONS, 1))
        ]
        return torch.cat(parts, dim=2).masked_fill_(~valid_BP[:, None, :, None], 0)

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, at least four frames, by what a tracer follows."""
        level_BFM = to_decibels(self.mel(samples_BT), _TOP_DB)
        normal_BMF = self.init_bn["1"](level_BFM.mT[..., None])[..., 0]
        x_BPD = self.patch_embed["proj"](normal_BMF[:, None])[:, :, 0].mT
        # Parts of 252 patches, gathered by number, because a tracer would take a reshape for one of this length only.
        # The last part of a clip has fewer; the patches in their place are not attended to.
        clips, patches = x_BPD.shape[:2]
        parts = (patches + POSITIONS - 1) // POSITIONS
        part_W1 = torch.arange(clips * parts, device=x_BPD.device)[:, None]
        clip_W1 = part_W1 // parts
        patch_WP = (part_W1 - clip_W1 * parts) * POSITIONS + torch.arange(POSITIONS, device=x_BPD.device)
        parts_WPD = x_BPD.flatten(0, 1)[clip_W1 * patches + patch_WP.clamp(max=patches - 1)]
        outputs = [parts_WPD + (self.time_pos_embed + self.freq_pos_embed)[0, :, 0].T]
        for block in self.blocks:
            outputs.append(block(outputs[-1], patch_WP < patches))
        outputs[-1] = self.norm(outputs[-1])
        clip_B1 = torch.arange(clips, device=x_BPD.device)[:, None]
        own_BP = clip_B1 * (parts * POSITIONS) + torch.arange(patches, device=x_BPD.device)
        return torch.stack([output_WPD.flatten(0, 1)[own_BP] for output_WPD in outputs], dim=1)

    def spectrogram(self, samples_T: Tensor) -> Tensor:
        """Return a clip's decibels after the batch norm, `[frames, bands]`."""
        level_FM = to_decibels(self.mel(samples_T[None]), _TOP_DB)[0]
        return self.init_bn["1"](level_FM.T[None, :, :, None])[0, :, :, 0].T

    def embed_patches(self, samples_T: Tensor) -> Tensor:
        """Return a clip's patches without positions, `[patches, dim]`."""
        mel_FM = self.spectrogram(samples_T)
        mel_FM = functional.pad(mel_FM, (0, 0, 0, max(PATCH - len(mel_FM), 0)))
        return self.patch_embed["proj"](mel_FM.T[None, None])[0, :, 0].T

    def _run_layers(self, x_BPD: Tensor, valid_BP: Tensor) -> Tensor:
        """Return the layers of one part of at most 252 patches, `[batch, layers + 1, patches, dim]`."""
        positions_DP = (self.time_pos_embed + self.freq_pos_embed)[0, :, 0, : x_BPD.shape[1]]
        outputs = [x_BPD + positions_DP.T]
        mask_BP = None
        if not bool(valid_BP.all()):
            # A clip without patches in this part attends to its first, so that nothing is undefined.
            mask_BP = valid_BP.clone()
            mask_BP[:, 0] = True
        for block in self.blocks:
            outputs.append(block(outputs[-1], mask_BP))
        outputs[-1] = self.norm(outputs[-1])
        return torch.stack(outputs, dim=1)


def _load_official(name: str, path: Path) -> dict[str, Tensor]:
    """Return the weights of an official file or of Hugging Face's folder, by the network's own names.

    Raises:
        WeightsError: no such file, or one that is damaged or of another network than the variant's.
    """
    file = path
    if path.is_dir():
        names = (*(address.rpartition("/")[2] for address in FILES[name]), _SAFETENSORS, _PICKLE)
        found = [path / each for each in names if (path / each).is_file()]
        if not found:
            raise WeightsError(f"{path}: none of {', '.join(names)} in it; fetch it again")
        file = found[0]
    content = read_torch_checkpoint(file) if is_pickle(read_magic(file)) else read_tensors(file)
    if isinstance(content, Mapping) and isinstance(content.get(_MODEL), Mapping):
        config = content.get("config")
        for key, value in _FIXED.items():
            if isinstance(config, Mapping) and config.get(key, value) != value:
                raise WeightsError(f"{file}: not {name}: its {key} is {config[key]!r} where {name} has {value!r}")
        content = content[_MODEL]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise WeightsError(f"{file}: holds no table of tensors; give the authors' file")
    tensors = {key.removeprefix("encoder."): tensor for key, tensor in content.items()}
    return {key: tensor.float() for key, tensor in tensors.items() if not _UNUSED.match(key)}


def _update_card(card: Card, settings: DashengSettings) -> Card:
    sizes = {"num_layers": settings.num_layers, "dim": settings.dim}
    return card.model_copy(update={**sizes, "network": f"patches of 64 × 4, {settings.num_layers} Transformer layers"})


def _variant(name: str, parameters: int, settings: DashengSettings) -> tuple[Card, DashengSettings]:
    card = Card(
        name=name,
        sample_rate=SAMPLE_RATE,
        frame_rate=SAMPLE_RATE / HOP / PATCH,
        num_layers=settings.num_layers,
        dim=settings.dim,
        window_seconds=10.0,
        parameters=parameters,
        license="Apache-2.0",
        commercial_use=True,
        trained_on=("ACAV100M", "AudioSet", "VGGSound", "MTG-Jamendo"),
        training_hours=(272_000, 272_000),
        pretraining_task="masked autoencoding of mel frames",
        input="log-mel",
        context_seconds=10.0,
        paper="Dinkel et al. 2024, Scaling up masked audio encoder learning for general audio classification, "
        "Interspeech, https://arxiv.org/abs/2406.06992",
        benchmark_setup="HEAR as its authors ran it: windows of 10 s, one after the other; mean over frames; decibels "
        "through the network's batch norm",
        files=FILES[name],
    )
    return _update_card(card, settings), settings


ENCODER = EncoderFamily(
    settings=DashengSettings,
    build=DashengEncoder,
    variants={
        "dasheng-base": _variant("dasheng-base", 85_447_808, DashengSettings()),
        "dasheng-0.6b": _variant(
            "dasheng-0.6b", 630_333_568, DashengSettings(dim=1280, num_layers=32, num_heads=16, ffn_dim=5120)
        ),
        "dasheng-1.2b": _variant(
            "dasheng-1.2b", 1_134_047_360, DashengSettings(dim=1536, num_layers=40, num_heads=24, ffn_dim=6144)
        ),
    },
    update_card=_update_card,
    load_official=_load_official,
)
