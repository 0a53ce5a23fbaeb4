"""The network of HuBERT, MERT, data2vec-audio and Music2Vec: convolutions, projection, positions, Transformer.

One network; the published ones are settings of it (see mert.py, musichubert.py, music2vec.py). Attribute names give
the bare keys of Hugging Face's `HubertModel` and `Data2VecAudioModel`, so their weights load without a map, and with
equal weights every layer is equal.

Row 0 is the input to layer 1 (post-LN: after the stack's norm), row i the output of layer i; "cnn" is the output of
the convolutions before any norm. Feature penalties are taken on the latter, as in HuBERT.

With padding "masked" a clip gives in a batch what it gives alone. Padding "original" lets the published architecture
leak: group norm over the padding, and the biases of data2vec's positions.

Letters: B batch, T samples, F frames, L layers counted with row 0, D width, C channels of the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder
from carrara.nn.conv.waveform_frontend import WaveformFrontend, ConvNorm, Padding, num_frames, valid_mask, standardize_waveform
from carrara.nn.init import init_weights
from carrara.nn.transformer.encoder import TransformerShape, Transformer
from carrara.nn.transformer.positions import Data2vecPositions, HubertPositions


class HubertSettings(Settings):
    """What the network is made of; the defaults are HuBERT-base's.

    Attributes:
        sample_rate: of the samples it hears, in Hz.
        conv_channels, conv_kernels, conv_strides, conv_bias, conv_norm: the convolutional front end.
        conv_gradient: factor on the gradient that reaches the front end; 0 freezes it.
        width, layers, heads, feed_forward: sizes of the Transformer.
        norm_placement: post or pre.
        final_norm: whether the last row of a pre-LN network is taken after the stack's norm.
        deepnorm: scaled residuals; post only.
        attention, relaxation: sdpa, or eager with the constant c of WavLM's relaxation.
        dropout, attention_dropout, activation_dropout, input_dropout, layerdrop: in training.
        positions, position_kernel, position_groups, position_depth: the positional convolutions.
        standardise: whether each clip is brought to mean 0 and variance 1 first.
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
    def _fits(self) -> HubertSettings:
        if self.dim % self.num_heads or self.dim % self.position_groups:
            raise ValueError(f"width {self.dim} must be divisible by heads and position_groups")
        if not self.conv_kernels or len(self.conv_kernels) != len(self.conv_strides):
            raise ValueError("conv_kernels and conv_strides must be of one length, at least 1")
        if self.deepnorm and self.norm_placement != "post":
            raise ValueError("deepnorm needs norm_placement post")
        if self.relaxation is not None and self.attention != "eager":
            raise ValueError("relaxation needs attention eager (fused attention does without)")
        if self.positions == "hubert" and self.position_depth != 1:
            raise ValueError("position_depth other than 1 needs positions data2vec")
        return self

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_strides)


def hubert_card(name: str, settings: HubertSettings, **known: Any) -> Card:
    """Return a card with everything that follows from the settings filled in, and what else is known."""
    return Card(
        name=name,
        sample_rate=settings.sample_rate,
        frame_rate=settings.sample_rate / settings.stride,
        num_layers=settings.num_layers,
        dim=settings.dim,
        cnn_dim=settings.conv_channels,
        **known,
    )


def update_hubert_card(card: Card, settings: HubertSettings) -> Card:
    """Return a card with everything that follows from other settings."""
    known = card.model_dump(include={"window_seconds", "license", "commercial_use", "trained_on", "paper", "output_version"})
    return hubert_card(card.name, settings, **known)


class FeatureProjection(nn.Module):
    """Norm, and a linear map from the convolutions' channels to the Transformer's width."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels, eps=1e-5)
        self.projection = nn.Linear(channels, width)

    def forward(self, cnn_BFC: Tensor) -> Tensor:
        """Return `[batch, frames, width]`."""
        return self.projection(self.layer_norm(cnn_BFC))


class HubertEncoder(Encoder):
    """The encoder, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: HubertSettings

    def __init__(self, settings: HubertSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        with torch.device("meta"):
            self._assemble(settings)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = card.model_copy(update={"parameters": parameters})
        init_weights(self, self._initialise, seed)

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
        same = {name: getattr(settings, name) for name in TransformerShape.__dataclass_fields__}
        self.encoder = Transformer(TransformerShape(**same), positions)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        # Outside the Transformer, PyTorch's default for linear maps; the mask vector U(0, 1) as in fairseq.
        self.feature_extractor.init_weights(generator)
        nn.init.ones_(self.feature_projection.layer_norm.weight)
        nn.init.zeros_(self.feature_projection.layer_norm.bias)
        linear = self.feature_projection.projection
        bound = 1 / math.sqrt(linear.in_features)
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
        self.masked_spec_embed.uniform_(0, 1, generator=generator)
        self.encoder.init_weights(generator)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]` (see `Encoder.forward`)."""
        return self.forward_with_cnn(samples_BT, lengths_B)[0]

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

    def encode_frames(
        self, cnn_BFC: Tensor, frame_lengths_B: Tensor | None = None, mask_BF: Tensor | None = None
    ) -> Tensor:
        """Return the rows stacked, `[batch, layers + 1, frames, width]`; zero after each clip's own frames.

        Args:
            cnn_BFC: what `front` gives.
            frame_lengths_B: frames of each clip that are sound; none: all.
            mask_BF: frames that the Transformer sees as the learned mask vector; none: no frame.
        """
        layers_BLFD = torch.stack(self.layer_outputs(cnn_BFC, frame_lengths_B, mask_BF), 1)
        frame_lengths_B = _lengths_if_padded(frame_lengths_B, cnn_BFC.shape[1])
        if frame_lengths_B is None:
            return layers_BLFD
        valid_BF = valid_mask(frame_lengths_B, cnn_BFC.shape[1], cnn_BFC.device)
        return layers_BLFD.masked_fill(~valid_BF[:, None, :, None], 0)

    def layer_outputs(
        self,
        cnn_BFC: Tensor,
        frame_lengths_B: Tensor | None = None,
        mask_BF: Tensor | None = None,
        spoil: Callable[[Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Return what `contextualise` does as a list of layers + 1 tensors, not stacked (training needs few of them).

        What stands after each clip's own frames means nothing. `spoil` changes the projected frames `[B, F, D]` before
        any is masked.
        """
        settings = self.settings
        frame_lengths_B = _lengths_if_padded(frame_lengths_B, cnn_BFC.shape[1])
        valid_BF = None if frame_lengths_B is None else valid_mask(frame_lengths_B, cnn_BFC.shape[1], cnn_BFC.device)
        x_BFD = functional.dropout(self.feature_projection(cnn_BFC), settings.input_dropout, self.training)
        if spoil is not None:
            x_BFD = spoil(x_BFD)
        if mask_BF is not None:
            x_BFD = torch.where(mask_BF[..., None], self.masked_spec_embed.to(x_BFD.dtype), x_BFD)
        return self.encoder(x_BFD, valid_BF, mask_positions=settings.padding == "masked")

    def num_frames(self, samples: int) -> int:
        """Return how many frames that many samples give (at least 1)."""
        return num_frames(samples, self.settings.conv_kernels, self.settings.conv_strides)

    def frame_lengths(self, lengths_B: Tensor) -> Tensor:
        """Return how many frames each clip of that many samples gives, int64 `[batch]`."""
        return num_frames(lengths_B, self.settings.conv_kernels, self.settings.conv_strides)


def _lengths_if_padded(lengths_B: Tensor | None, size: int) -> Tensor | None:
    """Return none where nothing is padding, so that no work is spent on masks."""
    return None if lengths_B is None or bool((lengths_B >= size).all()) else lengths_B
