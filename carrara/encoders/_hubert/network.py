"""The network of HuBERT, MERT, data2vec-audio and Music2Vec: convolutions, projection, positions, Transformer.

One network; the published ones are settings of it (see mert.py, musichubert.py, music2vec.py). Attributes are named
as in the state_dicts of Hugging Face's `HubertModel` and `Data2VecAudioModel`, so those weights load without renaming,
and with equal weights every layer's output is equal.

Layer 0 is the input to the first Transformer layer (post-LN: after the stack's norm), layer i the output of the i-th;
"cnn" is the output of the convolutions before any norm. Feature penalties use the latter, as in HuBERT [hsu2021].

With padding "masked" a clip has the same features in a batch as alone. Padding "original" lets padding leak into the
features, as in the published code: through group norm, and through the biases of data2vec's positions.

Letters: B batch, T samples, F frames, L layers (layer 0 included), D dim, C channels of the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from carrara.core.settings import Settings
from carrara.encoders._base import WEIGHT_FACTS, Card
from carrara.encoders._frame_encoder import FrameEncoder, FrameGrid
from carrara.nn.conv.waveform_frontend import (
    ConvNorm,
    Padding,
    WaveformFrontend,
    num_conv_frames,
    receptive_field,
    standardize_waveform,
)
from carrara.nn.init import init_weights
from carrara.nn.linear import OnednnLinear
from carrara.nn.transformer.encoder import Transformer, TransformerShape
from carrara.nn.transformer.positions import Data2vecPositions, HubertPositions

# A folder may omit these or its training may have set them otherwise, without another network [notes/pretraining §2.4].
FREE_SETTINGS = frozenset({
    "conv_gradient", "final_norm", "attention", "relaxation", "dropout", "attention_dropout", "activation_dropout",
    "input_dropout", "layerdrop", "standardise", "padding",
})  # fmt: skip


class HubertSettings(Settings):
    """Settings of the network; the defaults are HuBERT-base's.

    Attributes:
        sample_rate: Of the samples that it takes, in Hz.
        conv_channels, conv_kernels, conv_strides, conv_bias, conv_norm: The convolutional front end.
        conv_gradient: Factor on the gradient that reaches the front end; 0 freezes it.
        dim, num_layers, num_heads, ffn_dim: Sizes of the Transformer.
        norm_placement: post or pre.
        final_norm: Whether the last layer's output of a pre-LN network is taken after the stack's norm.
        deepnorm: Scaled residuals [wang2022]; post only.
        attention, relaxation: sdpa, or eager with the constant c of WavLM's relaxation [chen2022].
        dropout, attention_dropout, activation_dropout, input_dropout, layerdrop: In training.
        positions, position_kernel, position_groups, position_depth: The positional convolutions.
        standardise: Whether each clip's samples are first scaled to mean 0 and variance 1.
        padding: masked, or original (as published, for parity).
    """

    sample_rate: int = Field(default=16000, gt=0)
    conv_channels: int = Field(default=512, ge=1)
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: ConvNorm = "group"
    conv_gradient: float = Field(default=0.1, ge=0)
    dim: int = Field(default=768, ge=1)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    norm_placement: Literal["post", "pre"] = "post"
    final_norm: bool = True
    deepnorm: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"
    relaxation: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    activation_dropout: float = Field(default=0.0, ge=0, lt=1)
    input_dropout: float = Field(default=0.1, ge=0, lt=1)
    layerdrop: float = Field(default=0.05, ge=0, lt=1)
    positions: Literal["hubert", "data2vec"] = "hubert"
    position_kernel: int = Field(default=128, ge=1)
    position_groups: int = Field(default=16, ge=1)
    position_depth: int = Field(default=1, ge=1)
    standardise: bool = False
    padding: Padding = "masked"

    @model_validator(mode="after")
    def _check(self) -> HubertSettings:
        if self.dim % self.num_heads or self.dim % self.position_groups:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads and position_groups")
        if not self.conv_kernels or len(self.conv_kernels) != len(self.conv_strides):
            raise ValueError("conv_kernels and conv_strides must be of one length, at least 1")
        if self.deepnorm and self.norm_placement != "post":
            raise ValueError("deepnorm needs norm_placement post")
        if self.relaxation is not None and self.attention != "eager":
            raise ValueError("relaxation needs attention eager; fused attention does not overflow")
        if self.positions == "hubert" and self.position_depth != 1:
            raise ValueError("position_depth other than 1 needs positions data2vec")
        return self

    @property
    def stride(self) -> int:
        """Number of samples from one frame to the next."""
        return math.prod(self.conv_strides)


def hubert_card(name: str, settings: HubertSettings, **fields: Any) -> Card:
    """Return a card with the fields that follow from the settings, and other fields."""
    return Card(
        name=name,
        sample_rate=settings.sample_rate,
        frame_rate=settings.sample_rate / settings.stride,
        num_layers=settings.num_layers,
        dim=settings.dim,
        cnn_dim=settings.conv_channels,
        input="waveform",
        network=f"{len(settings.conv_kernels)} convolutions, {settings.num_layers} Transformer layers",
        is_standardised=settings.standardise,
        **fields,
    )


def update_hubert_card(card: Card, settings: HubertSettings) -> Card:
    """Return the card of a network with other settings."""
    unchanged = {"window_seconds", "output_version", *WEIGHT_FACTS}
    return hubert_card(card.name, settings, **card.model_dump(include=unchanged))


class FeatureProjection(nn.Module):
    """Layer norm, then a linear map from the convolutions' channels to the Transformer's dim."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels, eps=1e-5)
        self.projection = OnednnLinear(channels, dim)

    def forward(self, cnn_BFC: Tensor) -> Tensor:
        """Return `[batch, frames, dim]`."""
        return self.projection(self.layer_norm(cnn_BFC))


class HubertEncoder(FrameEncoder):
    """The encoder, with random weights drawn from a generator with that seed (none on the meta device)."""

    settings: HubertSettings
    masked_spec_embed: nn.Parameter
    free_settings = FREE_SETTINGS

    def __init__(self, settings: HubertSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        self.input_dropout, self.layerdrop = settings.input_dropout, settings.layerdrop
        with torch.device("meta"):
            self._assemble(settings)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters})
        init_weights(self, self._init_weights, seed)

    def _assemble(self, settings: HubertSettings) -> None:
        self.masked_spec_embed = nn.Parameter(torch.empty(settings.dim))
        self.feature_extractor = WaveformFrontend(
            settings.conv_channels, settings.conv_kernels, settings.conv_strides, settings.conv_norm, settings.conv_bias
        )
        self.feature_projection = FeatureProjection(settings.conv_channels, settings.dim)
        kernel, groups = settings.position_kernel, settings.position_groups
        positions = (
            HubertPositions(settings.dim, kernel, groups)
            if settings.positions == "hubert"
            else Data2vecPositions(settings.dim, kernel, groups, settings.position_depth)
        )
        shape = {name: getattr(settings, name) for name in TransformerShape.__dataclass_fields__}
        self.encoder = Transformer(TransformerShape(**shape), positions)

    @torch.no_grad()
    def _init_weights(self, generator: torch.Generator) -> None:
        # PyTorch's default for the linear map; the mask vector is U(0, 1) as in fairseq.
        self.feature_extractor.init_weights(generator)
        nn.init.ones_(self.feature_projection.layer_norm.weight)
        nn.init.zeros_(self.feature_projection.layer_norm.bias)
        linear = self.feature_projection.projection
        bound = 1 / math.sqrt(linear.in_features)
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
        self.masked_spec_embed.uniform_(0, 1, generator=generator)
        self.encoder.init_weights(generator)

    @property
    def grid(self) -> FrameGrid:
        """A frame is centred on the middle of its receptive field."""
        settings = self.settings
        centre = receptive_field(settings.conv_kernels, settings.conv_strides) // 2
        return FrameGrid(settings.sample_rate, settings.stride, centre)

    @property
    def stack(self) -> Transformer:
        """The Transformer."""
        return self.encoder

    def forward_with_cnn(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return `forward`'s features, and the output of the convolutions, `[batch, frames, channels]`."""
        lengths_B = _lengths_if_padded(lengths_B, samples_BT.shape[1])
        frames_B = None if lengths_B is None else self.frame_lengths(lengths_B)
        cnn_BFC = self.conv_features(samples_BT, lengths_B)
        return self.encode_frames(cnn_BFC, frames_B), cnn_BFC

    def conv_features(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the raw output of the convolutions, `[batch, frames, channels]`; its gradient is scaled."""
        settings = self.settings
        lengths_B = _lengths_if_padded(lengths_B, samples_BT.shape[1])
        if settings.standardise:
            samples_BT = standardize_waveform(samples_BT, lengths_B)
        with torch.set_grad_enabled(torch.is_grad_enabled() and settings.conv_gradient > 0):
            cnn_BFC = self.feature_extractor(samples_BT, lengths_B, settings.padding)
        if cnn_BFC.requires_grad and settings.conv_gradient != 1:
            cnn_BFC.register_hook(lambda gradient: gradient * settings.conv_gradient)
        return cnn_BFC

    def project(self, features_BFC: Tensor) -> Tensor:
        """Return the convolutions' output normalized and projected, `[batch, frames, dim]`."""
        return self.feature_projection(features_BFC)

    def run_stack(
        self, x_BFD: Tensor, valid_BF: Tensor | None, keep: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Return every layer's output; padding leaks through the positions where it does as published."""
        return self.encoder(x_BFD, valid_BF, mask_positions=self.settings.padding == "masked", keep=keep)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames for that many samples (at least 1)."""
        return num_conv_frames(samples, self.settings.conv_kernels, self.settings.conv_strides)

    def frame_lengths(self, lengths_B: Tensor) -> Tensor:
        """Return the number of frames for each clip of that many samples, int64 `[batch]`."""
        return num_conv_frames(lengths_B, self.settings.conv_kernels, self.settings.conv_strides)


def _lengths_if_padded(lengths_B: Tensor | None, size: int) -> Tensor | None:
    """Return None if there is no padding, so that no time is spent on masks."""
    return None if lengths_B is None or bool((lengths_B >= size).all()) else lengths_B
