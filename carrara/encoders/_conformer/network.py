"""The network of MusicFM and MuQ: decibels of mel bands, convolutions to 25 frames a second, a conformer.

24 kHz; 128 bands (HTK scale, peak 1) of a 2048-sample periodic Hann window every 240 samples, edges reflected, power in
decibels against 1 with no floor but 1e-10, without the frame past the last whole hop; each value minus one mean, over
one standard deviation, both of the training set. See carrara.nn.conv.subsampling and carrara.nn.transformer.conformer for the rest.
Attribute names give the keys of both authors' files; the two statistics, which those keep in a file beside, are buffers
here, since features are only right with those of the weights.

Row 0 is the input to layer 1, row i the output of layer i; the last is taken after the stack's norm, as in the authors'
`hidden_states`. A clip gives in a batch what it gives alone; the authors' code has no padding (MusicFM) or lets it
reach through the convolutions (MuQ).

Letters: B batch, T samples, F frames of the spectrogram, M bands, G frames that come out, L layers counted with row 0,
D width.
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
from carrara.nn.conv.subsampling import SHORTER, ConvSubsampling, subsampled
from carrara.nn.init import draw_weights
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import Bands, MelSpectrogram
from carrara.nn.transformer.conformer import Conformer, ConformerShape, rotary_frequencies

SAMPLE_RATE, HOP, BANDS = 24_000, 240, 128
FRAMING = Framing(window=2048, hop=HOP, size=2048, padding="reflect", last=False)
MSD_MEAN, MSD_DEVIATION = (
    6.768444971712967,
    18.417922652295623,
)  # of the Million Song Dataset, as both authors have them
MEAN, DEVIATION = "mel_mean", "mel_deviation"
PREFIX = "model."
FREQUENCIES = "conformer.embed_positions.inv_freq"
# What only training needs; a convolution of positions that is built and never called; constants.
LEFT_OUT = re.compile(
    r"^(linear|cls_token|quantizer_\w+|rvq|recon_proj|preprocessor_\w+|conformer\.pos_conv_embed"
    r"|conformer\.embed_positions)\b"
)


class ConformerSettings(Settings):
    """What the network is made of; the defaults are those published.

    Attributes:
        channels: of the convolutions.
        width, layers, heads, feed_forward: sizes of the conformer.
        kernel: frames that its convolution along time sees.
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
    def _fits(self) -> ConformerSettings:
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"width {self.dim} must be divisible by twice the heads {self.num_heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self

    @property
    def shape(self) -> ConformerShape:
        """The conformer's sizes."""
        return ConformerShape(**{name: getattr(self, name) for name in ConformerShape.__dataclass_fields__})


def describe(card: Card, settings: ConformerSettings) -> Card:
    """Return a card with everything that follows from the settings filled in."""
    return card.model_copy(update={"num_layers": settings.num_layers, "dim": settings.dim})


def known(name: str, **facts: Any) -> Card:
    """Return a card of this network that `describe` completes."""
    rate = SAMPLE_RATE / HOP / SHORTER
    return Card(name=name, sample_rate=SAMPLE_RATE, frame_rate=rate, num_layers=0, dim=1, window_seconds=30.0, **facts)


class ConformerEncoder(Encoder):
    """The encoder, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: ConformerSettings
    mel_mean: Tensor
    mel_deviation: Tensor

    def __init__(self, settings: ConformerSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        place = torch.get_default_device()
        with torch.device("meta"):
            self.conv = ConvSubsampling(BANDS, settings.channels, settings.dim)
            self.conformer = Conformer(settings.shape)
            self.register_buffer(MEAN, torch.tensor(MSD_MEAN))
            self.register_buffer(DEVIATION, torch.tensor(MSD_DEVIATION))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = describe(card, settings).model_copy(update={"parameters": parameters})
        draw_weights(self, self._initialise, seed)
        with torch.device("cpu"):  # constants, which no file of weights brings to life
            self.mel = MelSpectrogram(SAMPLE_RATE, FRAMING, Bands(BANDS, scale="htk", norm="none"), "db")
        if place.type != "meta":
            self.to(place)

    def _initialise(self, generator: torch.Generator) -> None:
        self.conv.initialise(generator)
        self.conformer.initialise(generator)
        self.mel_mean.fill_(MSD_MEAN)
        self.mel_deviation.fill_(MSD_DEVIATION)

    def frames(self, samples: int) -> int:
        """Return how many frames that many samples give: one for each 960 begun, of whole hops (at least 1)."""
        return subsampled(FRAMING.frames(samples))

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, width]` (see `Encoder.forward`)."""
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            return torch.stack(self.conformer(self.conv(self.spectrogram(samples_BT))), 1)
        # Each clip by itself, because its end is reflected.
        clips = zip(samples_BT, lengths_B.tolist())
        mels = [self.spectrogram(samples_T[None, :length])[0] for samples_T, length in clips]
        counts_B = torch.tensor([len(mel_FM) for mel_FM in mels], device=samples_BT.device)
        mel_BFM = pad_sequence(mels, batch_first=True)
        mel_BFM = nn.functional.pad(mel_BFM, (0, 0, 0, FRAMING.frames(samples_BT.shape[1]) - mel_BFM.shape[1]))
        x_BGD = self.conv(mel_BFM, counts_B)
        valid_BG = torch.arange(x_BGD.shape[1], device=x_BGD.device) < ((counts_B + SHORTER - 1) // SHORTER)[:, None]
        rows_BLGD = torch.stack(self.conformer(x_BGD, valid_BG), 1)
        return rows_BLGD.masked_fill(~valid_BG[:, None, :, None], 0)

    def spectrogram(self, samples_BT: Tensor) -> Tensor:
        """Return the spectrogram as the convolutions hear it, `[batch, frames, bands]`."""
        return (self.mel(samples_BT) - self.mel_mean) / self.mel_deviation


def network_tensors(given: Mapping[str, Any], settings: ConformerSettings, source: str) -> dict[str, Tensor]:
    """Return the network's own tensors of an authors' table, by our names, in single precision, without statistics.

    Raises:
        WeightsError: the table is none of tensors, or its positions are of another number of heads.
    """
    if not given or not all(isinstance(tensor, Tensor) for tensor in given.values()):
        raise WeightsError(f"{source}: holds no table of tensors; give the authors' file")
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in given.items()}
    wanted = rotary_frequencies(settings.dim // settings.num_heads)
    found = bare.get(FREQUENCIES, wanted).float()
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-2):
        raise WeightsError(f"{source}: its {FREQUENCIES} is not that of {settings.num_heads} heads; another network's")
    return {name: tensor.float() for name, tensor in bare.items() if not LEFT_OUT.match(name)}


def statistics(table: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the training set's mean and standard deviation of decibels, by our names, from the authors' table.

    Raises:
        WeightsError: the table does not have them as numbers, or the deviation is not above zero.
    """
    mean, deviation = table.get("melspec_2048_mean"), table.get("melspec_2048_std")
    if not isinstance(mean, int | float) or not isinstance(deviation, int | float) or not deviation > 0:
        raise WeightsError(f"{source}: has no melspec_2048_mean and melspec_2048_std above 0; fetch it again")
    return {MEAN: torch.tensor(float(mean)), DEVIATION: torch.tensor(float(deviation))}
