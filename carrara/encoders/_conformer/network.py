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
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from carrara.core.errors import WeightsError
from carrara.encoders._base import Card
from carrara.encoders._conformer.base import MIN_MEASURED_STD, MSD_MEAN, MSD_STD, MelFrameEncoder, StackSettings
from carrara.encoders._frame_encoder import FrameGrid
from carrara.nn.conv.subsampling import STRIDE, ConvSubsampling, num_subsampled_frames
from carrara.nn.spectral.cqt_target import compute_bin_statistics
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.conformer import rotary_frequencies

SAMPLE_RATE, HOP, NUM_BANDS = 24_000, 240, 128
FRAMING = Framing(window=2048, hop=HOP, fft_size=2048, padding="reflect", keep_last=False)
PREFIX = "model."
FREQUENCIES = "conformer.embed_positions.inv_freq"
# Parts that only training needs; a convolution of positions that is built and never called; constants.
UNUSED = re.compile(
    r"^(linear|cls_token|quantizer_\w+|rvq|recon_proj|preprocessor_\w+|conformer\.pos_conv_embed"
    r"|conformer\.embed_positions)\b"
)


class ConformerSettings(StackSettings):
    """The network's sizes; the defaults are the published ones.

    Attributes:
        channels: channels of the convolutions.
    """

    channels: int = Field(default=512, ge=1)


def update_conformer_card(card: Card, settings: ConformerSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    network = f"2 residual convolutions, {settings.num_layers} conformer layers"
    return card.model_copy(update={"num_layers": settings.num_layers, "dim": settings.dim, "network": network})


def conformer_card(name: str, settings: ConformerSettings, **facts: Any) -> Card:
    """Return the card of such a network."""
    rate = SAMPLE_RATE / HOP / STRIDE
    fixed = {"sample_rate": SAMPLE_RATE, "frame_rate": rate, "window_seconds": 30.0, "input": "log-mel"}
    card = Card.model_validate({"name": name, "num_layers": 0, "dim": 1, **fixed, **facts})
    return update_conformer_card(card, settings)


class ConformerEncoder(MelFrameEncoder):
    """The encoder of MusicFM and MuQ."""

    settings: ConformerSettings
    framing = FRAMING
    mel_deviation: Tensor

    def build_subsampling(self) -> None:
        """Add the convolutions and the two statistics."""
        self.conv = ConvSubsampling(NUM_BANDS, self.settings.channels, self.settings.dim)
        self.register_buffer("mel_mean", torch.tensor(MSD_MEAN))
        self.register_buffer("mel_deviation", torch.tensor(MSD_STD))

    def build_mel(self) -> MelSpectrogram:
        """Return the mel spectrogram; window and filter bank are no part of the weights."""
        return MelSpectrogram(SAMPLE_RATE, FRAMING, MelBands(NUM_BANDS, scale="htk", norm="none"), "db")

    def init_subsampling(self, generator: torch.Generator) -> None:
        """Draw the convolutions; the statistics are the Million Song Dataset's."""
        self.conv.init_weights(generator)
        self.mel_mean.fill_(MSD_MEAN)
        self.mel_deviation.fill_(MSD_STD)

    @property
    def grid(self) -> FrameGrid:
        """A frame stands for four of the spectrogram, its own and the next three, whose codes both authors predict."""
        return FrameGrid(SAMPLE_RATE, STRIDE * HOP, (STRIDE - 1) * HOP // 2)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames: one for each started 960 samples, of whole hops (at least 1)."""
        return num_subsampled_frames(FRAMING.num_frames(samples))

    def input_statistics(self, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return one mean and one standard deviation of all decibels, from crops `[B, T]`."""
        statistics = compute_bin_statistics(self.mel(samples_BT).unsqueeze(-1) for samples_BT in batches)
        return {"mel_mean": statistics.mean_M[0], "mel_deviation": statistics.std_M[0].clamp(min=MIN_MEASURED_STD)}

    def spectrogram(self, samples_BT: Tensor) -> Tensor:
        """Return the normalized spectrogram, the convolutions' input, `[batch, frames, bands]`."""
        return (self.mel(samples_BT) - self.mel_mean) / self.mel_deviation

    def subsample(self, mel_BFM: Tensor, counts_B: Tensor | None) -> Tensor:
        """Return the output of the convolutions, `[batch, ⌈frames / 4⌉, dim]`."""
        return self.conv(mel_BFM, counts_B)


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
