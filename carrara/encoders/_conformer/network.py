"""The network of MusicFM and MuQ: decibels of mel bands, convolutions to 25 frames a second, a conformer.

24 kHz; 128 bands (HTK scale, peak 1) of a 2048-sample periodic Hann window every 240 samples, edges reflected, power in
decibels against 1 with no floor but 1e-10, without the frame past the last whole hop; each value minus one mean, over
one standard deviation, both of the training set. See carrara.nn.conv.subsampling and carrara.nn.transformer.conformer
for the rest. Attribute names give the keys of both authors' files; the two statistics, which those keep in another
file, are buffers here, since features are only right with those of the weights.

Layer 0 is the input to layer 1, layer i the output of layer i; the last is taken after the stack's norm, as in the
authors' `hidden_states`. A clip gives in a batch what it gives alone; the authors' code has no padding (MusicFM) or
lets it reach through the convolutions (MuQ).

Letters: B batch, T samples, F frames of the spectrogram, M bands, G output frames, L layers counted with layer 0, D
dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import WeightsError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder
from carrara.nn.conv.subsampling import STRIDE, ConvSubsampling, num_subsampled_frames
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.conformer import Conformer, ConformerShape, rotary_frequencies

SAMPLE_RATE, HOP, NUM_BANDS = 24_000, 240, 128
FRAMING = Framing(window=2048, hop=HOP, fft_size=2048, padding="reflect", keep_last=False)
# Of the Million Song Dataset, as both authors have them.
MSD_MEAN, MSD_STD = 6.768444971712967, 18.417922652295623
PREFIX = "model."
FREQUENCIES = "conformer.embed_positions.inv_freq"
# Parts that only training needs; a convolution of positions that is built and never called; constants.
UNUSED = re.compile(
    r"^(linear|cls_token|quantizer_\w+|rvq|recon_proj|preprocessor_\w+|conformer\.pos_conv_embed"
    r"|conformer\.embed_positions)\b"
)


class ConformerSettings(Settings):
    """The network's sizes; the defaults are the published ones.

    Attributes:
        channels: channels of the convolutions.
        dim, num_layers, num_heads, ffn_dim: sizes of the conformer.
        kernel: frames of its convolution along time.
        dropout: in training.
    """

    channels: int = Field(default=512, ge=1)
    dim: int = Field(default=1024, ge=2)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=16, ge=1)
    ffn_dim: int = Field(default=4096, ge=1)
    kernel: int = Field(default=31, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> ConformerSettings:
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} must be divisible by twice num_heads {self.num_heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self

    @property
    def shape(self) -> ConformerShape:
        """The conformer's sizes."""
        return ConformerShape(**{name: getattr(self, name) for name in ConformerShape.__dataclass_fields__})


def update_conformer_card(card: Card, settings: ConformerSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    return card.model_copy(update={"num_layers": settings.num_layers, "dim": settings.dim})


def conformer_card(name: str, settings: ConformerSettings, **facts: Any) -> Card:
    """Return the card of such a network."""
    rate = SAMPLE_RATE / HOP / STRIDE
    card = Card(name=name, sample_rate=SAMPLE_RATE, frame_rate=rate, num_layers=0, dim=1, window_seconds=30.0, **facts)
    return update_conformer_card(card, settings)


class ConformerEncoder(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: ConformerSettings
    mel_mean: Tensor
    mel_deviation: Tensor

    def __init__(self, settings: ConformerSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        with torch.device("meta"):
            self.conv = ConvSubsampling(NUM_BANDS, settings.channels, settings.dim)
            self.conformer = Conformer(settings.shape)
            self.register_buffer("mel_mean", torch.tensor(MSD_MEAN))
            self.register_buffer("mel_deviation", torch.tensor(MSD_STD))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = update_conformer_card(card, settings).model_copy(update={"parameters": parameters})
        init_weights(self, self._initialize, seed)
        bands = MelBands(NUM_BANDS, scale="htk", norm="none")
        self.mel = build_constants(lambda: MelSpectrogram(SAMPLE_RATE, FRAMING, bands, "db"))

    def _initialize(self, generator: torch.Generator) -> None:
        self.conv.init_weights(generator)
        self.conformer.init_weights(generator)
        self.mel_mean.fill_(MSD_MEAN)
        self.mel_deviation.fill_(MSD_STD)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames: one for each started 960 samples, of whole hops (at least 1)."""
        return num_subsampled_frames(FRAMING.num_frames(samples))

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, num_layers + 1, frames, dim]` (see `Encoder.forward`)."""
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            return torch.stack(self.conformer(self.conv(self.spectrogram(samples_BT))), 1)
        # Each clip by itself, because its end is reflected.
        clips = zip(samples_BT, lengths_B.tolist())
        mels = [self.spectrogram(samples_T[None, :length])[0] for samples_T, length in clips]
        counts_B = torch.tensor([len(mel_FM) for mel_FM in mels], device=samples_BT.device)
        mel_BFM = pad_sequence(mels, batch_first=True)
        mel_BFM = nn.functional.pad(mel_BFM, (0, 0, 0, FRAMING.num_frames(samples_BT.shape[1]) - mel_BFM.shape[1]))
        x_BGD = self.conv(mel_BFM, counts_B)
        valid_BG = torch.arange(x_BGD.shape[1], device=x_BGD.device) < ((counts_B + STRIDE - 1) // STRIDE)[:, None]
        layers_BLGD = torch.stack(self.conformer(x_BGD, valid_BG), 1)
        return layers_BLGD.masked_fill(~valid_BG[:, None, :, None], 0)

    def spectrogram(self, samples_BT: Tensor) -> Tensor:
        """Return the normalized spectrogram, the convolutions' input, `[batch, frames, bands]`."""
        return (self.mel(samples_BT) - self.mel_mean) / self.mel_deviation


def convert_conformer_tensors(
    tensors: Mapping[str, Any], settings: ConformerSettings, source: str
) -> dict[str, Tensor]:
    """Return the network's own tensors of an authors' table, by our names, in single precision, without statistics.

    Raises:
        WeightsError: the table holds other things than tensors, or its positions are of another number of heads.
    """
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{source}: holds no table of tensors; give the authors' file")
    ours = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    expected = rotary_frequencies(settings.dim // settings.num_heads)
    frequencies = ours.get(FREQUENCIES, expected).float()
    if frequencies.shape != expected.shape or not torch.allclose(frequencies, expected, rtol=1e-2):
        raise WeightsError(f"{source}: its {FREQUENCIES} is not that of {settings.num_heads} heads; another network's")
    return {name: tensor.float() for name, tensor in ours.items() if not UNUSED.match(name)}


def mel_statistics(table: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the training set's mean and standard deviation of decibels, by our names, from the authors' table.

    Raises:
        WeightsError: the table does not have them as numbers, or the standard deviation is not above zero.
    """
    mean, std = table.get("melspec_2048_mean"), table.get("melspec_2048_std")
    if not isinstance(mean, int | float) or not isinstance(std, int | float) or not std > 0:
        raise WeightsError(f"{source}: has no melspec_2048_mean and melspec_2048_std above 0; fetch it again")
    return {"mel_mean": torch.tensor(float(mean)), "mel_deviation": torch.tensor(float(std))}
