"""The network of MERT-v2: standardised decibels of mel bands, a ConvNeXt to 25 frames a second, a conformer.

A spectrogram with reflected edges, power in decibels against 1 with no floor but 1e-10, without the frame past the last
whole hop; each band minus its mean, over its standard deviation. Window, filter bank, means and standard deviations are
tensors of the weights, since MERT-v2's file holds them; those of a new network are a periodic Hann window, HTK bands of
peak 1, and one mean and standard deviation for all bands. See carrara.nn.conv.convnext and
carrara.nn.transformer.conformer (design "mert2") for the rest.

Layer 0 is the input to layer 1, layer i the output of layer i, with no norm after the stack. A clip shorter than one
output frame gets silence after it; the authors' code fails on it.

Letters: B batch, T samples, F frames of the spectrogram, M bands, D dimension.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from carrara.core.errors import UsageError
from carrara.core.settings import parse_settings
from carrara.encoders._base import WEIGHT_FACTS, Card
from carrara.encoders._conformer.base import MIN_MEASURED_STD, MSD_MEAN, MSD_STD, MelFrameEncoder, StackSettings
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.conv.convnext import ConvNextShape, ConvNextSubsampling
from carrara.nn.spectral.cqt_target import compute_bin_statistics
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.conformer import ROTARY_BASE, ConformerShape

MIN_STD = 1e-5
# Official names to ours; the subsampling has the official ones, and so has what is not listed.
RENAMES = {
    r"^feature_extractor\.spectrogram\.window$": "mel.spectrum.window_W",
    r"^feature_extractor\.mel_scale\.fb$": "mel.bank_KM",
    r"^feature_extractor\.(mel_mean|mel_std)$": r"\1",
    r"^layers\.": "conformer.layers.",
    r"\.(ffn[12])\.w_1\.": r".\1.intermediate_dense.",
    r"\.(ffn[12])\.w_2\.": r".\1.output_dense.",
    r"\.attn_layer_norm\.": ".self_attn_layer_norm.",
    r"\.attn\.query_proj\.": ".self_attn.linear_q.",
    r"\.attn\.key_proj\.": ".self_attn.linear_k.",
    r"\.attn\.value_proj\.": ".self_attn.linear_v.",
    r"\.attn\.out_proj\.": ".self_attn.linear_out.",
    r"\.conv_block\.1\.": ".pointwise_conv1.",
    r"\.conv_block\.3\.": ".depthwise_conv.",
    r"\.conv_block\.4\.1\.": ".depthwise_layer_norm.",
    r"\.conv_block\.6\.": ".pointwise_conv2.",
}
# Keys of the official config.json by ours, and those that have no other value.
CONFIG_KEYS = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "kernel": "conv_depthwise_kernel_size",
    "num_bands": "num_mel_bins",
    "n_fft": "n_fft",
    "hop": "hop_length",
    "conv_channels": "subsampling_channels",
    "conv_depths": "subsampling_depths",
}
FIXED = {"rotary_embedding_base": ROTARY_BASE, "layer_norm_eps": 1e-5, "subsampling_layer_norm_eps": 1e-6}


class MelConformerSettings(StackSettings):
    """Settings of the network; the defaults are MERT-v2's.

    Attributes:
        sample_rate: of the samples that it takes, in Hz.
        n_fft, hop: samples of the window, and from one frame of the spectrogram to the next.
        num_bands: mel bands, from 0 Hz to half the sample rate.
        mel_mean, mel_std: of the bands' decibels, before the weights or the training set give better ones.
        conv_channels, conv_depths, conv_strides: channels, layers and stride of each stage of the subsampling; the
            channels of the last are the conformer's dim.
    """

    sample_rate: int = Field(default=24_000, gt=0)
    n_fft: int = Field(default=2048, ge=2)
    hop: int = Field(default=240, ge=1)
    num_bands: int = Field(default=128, ge=1)
    mel_mean: float = MSD_MEAN
    mel_std: float = Field(default=MSD_STD, gt=0)
    conv_channels: tuple[int, ...] = (128, 512, 1024)
    conv_depths: tuple[int, ...] = (3, 4, 5)
    conv_strides: tuple[int, ...] = (1, 2, 2)
    num_layers: int = Field(default=24, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_subsampling(self) -> MelConformerSettings:
        stages = (self.conv_channels, self.conv_depths, self.conv_strides)
        if not self.conv_channels or len({len(values) for values in stages}) != 1:
            raise ValueError("conv_channels, conv_depths and conv_strides must be of one length, at least 1")
        if min(*self.conv_channels, *self.conv_depths, *self.conv_strides) < 1:
            raise ValueError("conv_channels, conv_depths and conv_strides must be 1 or more")
        if self.conv_channels[-1] != self.dim:
            raise ValueError(f"the last of conv_channels, {self.conv_channels[-1]}, must be dim {self.dim}")
        return self

    @property
    def shape(self) -> ConformerShape:
        """The conformer's sizes."""
        return ConformerShape(
            self.num_layers, self.dim, self.num_heads, self.ffn_dim, self.kernel, self.dropout, "mert2"
        )

    @property
    def convnext_shape(self) -> ConvNextShape:
        """The subsampling's sizes."""
        return ConvNextShape(self.num_bands, self.conv_channels, self.conv_depths, self.conv_strides)

    @property
    def frame_rate(self) -> float:
        """Output frames a second."""
        return self.sample_rate / self.hop / math.prod(self.conv_strides)


def mel_conformer_card(name: str, settings: MelConformerSettings, **facts: Any) -> Card:
    """Return a card with the fields that follow from the settings, and other fields."""
    return Card(
        name=name,
        sample_rate=settings.sample_rate,
        frame_rate=settings.frame_rate,
        num_layers=settings.num_layers,
        dim=settings.dim,
        input="log-mel",
        network=f"{sum(settings.conv_depths)} ConvNeXt blocks, {settings.num_layers} conformer layers",
        **facts,
    )


def update_mel_conformer_card(card: Card, settings: MelConformerSettings) -> Card:
    """Return the card of a network with other settings."""
    kept = {"window_seconds", "output_version", *WEIGHT_FACTS}
    return mel_conformer_card(card.name, settings, **card.model_dump(include=kept))


class MelConformerEncoder(MelFrameEncoder):
    """The encoder of MERT-v2 and of `mel-conformer-*`."""

    settings: MelConformerSettings
    mel_std: Tensor

    def build_subsampling(self) -> None:
        """Add the ConvNeXt and the statistics of each band."""
        settings = self.settings
        self.framing = Framing(settings.n_fft, settings.hop, settings.n_fft, padding="reflect", keep_last=False)
        self.subsampling_module = ConvNextSubsampling(settings.convnext_shape)
        self.register_buffer("mel_mean", torch.empty(settings.num_bands))
        self.register_buffer("mel_std", torch.empty(settings.num_bands))

    def build_mel(self) -> MelSpectrogram:
        """Return the mel spectrogram; window and filter bank are part of the weights."""
        settings = self.settings
        bands = MelBands(settings.num_bands, scale="htk", norm="none")
        return MelSpectrogram(settings.sample_rate, self.framing, bands, "db", persistent=True)

    def init_subsampling(self, generator: torch.Generator) -> None:
        """Draw the ConvNeXt; the statistics are those of the settings."""
        self.subsampling_module.init_weights(generator)
        self.mel_mean.fill_(self.settings.mel_mean)
        self.mel_std.fill_(self.settings.mel_std)

    @property
    def grid(self) -> FrameGrid:
        """A frame is centred between the frames of the spectrogram that its strided convolutions take."""
        settings = self.settings
        centre = (settings.convnext_shape.min_frames - 1) * settings.hop // 2
        return FrameGrid(settings.sample_rate, settings.hop * math.prod(settings.conv_strides), centre)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames: one for each whole 960 samples as published (at least 1)."""
        return max(self.settings.convnext_shape.num_frames(self.framing.num_frames(samples)), 1)

    def input_statistics(self, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return mean and standard deviation of each band's decibels, from crops `[B, T]`."""
        statistics = compute_bin_statistics(self.mel(samples_BT) for samples_BT in batches)
        return {"mel_mean": statistics.mean_M, "mel_std": statistics.std_M.clamp(min=MIN_MEASURED_STD)}

    def spectrogram(self, samples_BT: Tensor) -> Tensor:
        """Return the normalized spectrogram, `[batch, frames, bands]`, of at least what gives one output frame."""
        missing = self.settings.convnext_shape.min_frames * self.settings.hop - samples_BT.shape[1]
        mel_BFM = self.mel(nn.functional.pad(samples_BT, (0, max(missing, 0))))
        return (mel_BFM - self.mel_mean) / self.mel_std.clamp(min=MIN_STD)

    def subsample(self, mel_BFM: Tensor, counts_B: Tensor | None) -> Tensor:
        """Return the output of the ConvNeXt, `[batch, output frames, dim]`."""
        return self.subsampling_module(mel_BFM, counts_B)


def convert_mert2_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an official file by our names, in single precision."""
    ours = {}
    for name, tensor in tensors.items():
        for pattern, replacement in RENAMES.items():
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor.float()
    return ours


def parse_mert2_config(config: Mapping[str, Any], source: str) -> MelConformerSettings:
    """Return the settings of the network that an official config.json describes.

    Raises:
        UsageError: a value is invalid, or of a network that is not supported.
    """
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UsageError(f"{source}: {key} is {config[key]!r}, and {value!r} in a MERT-v2; others are not read")
    values = {ours: config[theirs] for ours, theirs in CONFIG_KEYS.items() if theirs in config}
    return parse_settings(MelConformerSettings, values, source)
