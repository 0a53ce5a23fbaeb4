"""Jukebox-5B: the middle layer of a model that generates music, as JukeMIR and MARBLE used it.

[dhariwal2020], [castellon2021], [notes/encoders §2.3]. Mono audio at 44.1 kHz, divided by its peak, becomes one code of
2048 for every 128 samples; 8192 codes, 23.777 s, go through the first 36 of the 72 blocks of the top prior, without
information on the music; the mean of the last block's output, 4800 numbers, is the clip's vector.

Clips are split by MARBLE's rule: pieces of 30 s, a last one under 1 s dropped; each piece is cut, or padded with zeros,
to the nearest of 1, 1/2, 1/4 and 1/8 of 1,048,576 samples; the mean of the pieces' means. So of a piece of 30 s only
the first 23.777 s count. JukeMIR takes a recording's first 25 s, which gives the same but for the last 81 codes,
because its codec's input continues after 23.777 s. Feature extraction splits long recordings into windows of 23.777 s
by default, so that all samples count. The peak is that of the clip or window given, theirs that of the recording.

Memory: 4.98 GB for the matrices of 36 blocks in half precision, 0.29 GB for all else, and 1.2 GB for the one piece and
the one matrix in single precision that are at work: it runs within 16 GB, and so does its import, which copies only
what is needed out of the 10.3 GB file. Multiplication is in float32 as in JukeMIR, or in autocast's type.

Weights: vqvae.pth.tar and prior_level_2.pth.tar of the model "5b", in one folder.

Letters: B batch, T samples, D dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._jukebox.files import read_jukebox_tensors
from carrara.encoders._jukebox.network import STRIDE, Codec, HalfLinear, Prior
from carrara.encoders._windows import split_clips
from carrara.nn.init import init_weights

VARIANTS = {
    "jukebox-5b": "Jukebox-5B, 44.1 kHz, codes, mean of layer 36 of 72 as in JukeMIR and MARBLE, 4800 numbers a clip",
}
SAMPLE_RATE = 44_100
_PARTS = (1, 2, 4, 8)  # a piece has the length of a window divided by one of these
FILES = {
    "jukebox-5b": {
        "https://openaipublic.azureedge.net/jukebox/models/5b/vqvae.pth.tar": "",
        "https://openaipublic.azureedge.net/jukebox/models/5b/prior_level_2.pth.tar": "",
    }
}


class JukeboxSettings(Settings):
    """What can be set; the defaults are those of Jukebox-5B in JukeMIR. Sizes other than `layer` belong to the weights.

    Attributes:
        layer: layer whose mean is the clip's vector, from 1; only the blocks up to it are built and loaded.
        dtype: type of the blocks' matrices; float16 is the published one.
        piece_seconds: length of a piece of a long clip; the benchmarks' 30 s, of which one window counts.
        dim, num_heads: sizes of the prior.
        context: tokens of a window.
        row_length: tokens that attend to one another directly.
        codebook_size: codes of the codec.
        code_dim: dimension of a code.
        codec_channels: channels of the codec.
        codec_depth: residual blocks after each halving of the rate.
        num_artists, num_genres, time_bins: rows of the tables of artists, of genres, and of the three tables of time.
    """

    layer: int = Field(default=36, ge=1, le=72)
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    piece_seconds: float = Field(default=30.0, gt=0)
    dim: int = Field(default=4800, ge=4)
    num_heads: int = Field(default=8, ge=1)
    context: int = Field(default=8192, ge=1)
    row_length: int = Field(default=64, ge=1)
    codebook_size: int = Field(default=2048, ge=1)
    code_dim: int = Field(default=64, ge=1)
    codec_channels: int = Field(default=32, ge=1)
    codec_depth: int = Field(default=4, ge=0)
    num_artists: int = Field(default=4111, ge=1)
    num_genres: int = Field(default=120, ge=1)
    time_bins: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _check(self) -> JukeboxSettings:
        if self.dim % (4 * self.num_heads):
            raise ValueError("dim must be a multiple of 4 * num_heads")
        if self.context % (_PARTS[-1] * self.row_length):
            raise ValueError("context must be a multiple of 8 * row_length, because the shortest piece is an eighth")
        return self


class Jukebox(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device)."""

    settings: JukeboxSettings

    def __init__(self, settings: JukeboxSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        with torch.device("meta"):
            self.codec = Codec(settings.codec_channels, settings.codec_depth, settings.codebook_size, settings.code_dim)
            self.prior = Prior(
                num_blocks=settings.layer,
                dim=settings.dim,
                num_heads=settings.num_heads,
                context=settings.context,
                row_length=settings.row_length,
                codebook_size=settings.codebook_size,
                num_artists=settings.num_artists,
                num_genres=settings.num_genres,
                time_bins=settings.time_bins,
                dtype=getattr(torch, settings.dtype),
            )
        init_weights(self, self._initialize, seed)

    def num_frames(self, samples: int) -> int:
        """Return 1: a whole clip has one vector."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's pieces, `[B, 1, 1, D]`; one piece at a time goes through the network."""
        piece = round(self.settings.piece_seconds * SAMPLE_RATE)
        clips = []
        for samples_T in split_clips(samples_BT, lengths_B):
            peak = samples_T.abs().max()
            pieces = split_pieces(samples_T / torch.where(peak > 0, peak, 1), piece, self.settings.context * STRIDE)
            means = [self.prior(self.codec(piece_T[None])).mean(dim=(0, 1)) for piece_T in pieces]
            clips.append(torch.stack(means).mean(dim=0))
        return torch.stack(clips)[:, None, None]

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, HalfLinear):
                nn.init.normal_(module.weight_IO, std=0.02, generator=generator)
                module.bias_O.zero_()
            elif isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.prior.positions_ND, std=0.01, generator=generator)
        nn.init.normal_(self.codec.codes_KD, generator=generator)


def split_pieces(samples_T: Tensor, piece: int, window: int) -> list[Tensor]:
    """Return a clip's pieces, each of a window's length or of a half, a quarter or an eighth (see the head).

    Args:
        samples_T: at least one sample.
        piece: samples from one piece to the next.
        window: samples of the prior's context.
    """
    shortest = min(SAMPLE_RATE, piece // 2)
    pieces = []
    for index, piece_T in enumerate(samples_T.split(piece)):
        if index == 0 or len(piece_T) >= shortest:
            size = min((window // part for part in _PARTS), key=lambda size: abs(size - len(piece_T)))
            pieces.append(nn.functional.pad(piece_T, (0, max(size - len(piece_T), 0)))[:size])
    return pieces


def _load_official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights up to the variant's layer, by the network's own names.

    Args:
        name: the variant.
        path: the folder that holds both files, or one of them with the other beside it.

    Raises:
        WeightsError: a file is missing, damaged, or not of this model.
    """
    settings = ENCODER.variants[name][1]
    assert isinstance(settings, JukeboxSettings)
    return read_jukebox_tensors(path, settings.layer, getattr(torch, settings.dtype))


def _update_card(card: Card, settings: JukeboxSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Jukebox(settings, card).parameters())
    window_seconds = settings.context * STRIDE / SAMPLE_RATE
    sizes = {"dim": settings.dim, "network": _describe(settings), "parameters": parameters}
    return card.model_copy(update={"window_seconds": window_seconds, **sizes})


def _describe(settings: JukeboxSettings) -> str:
    return f"VQ-VAE, {settings.layer} Transformer layers of 72"


_CARD = Card(
    name="jukebox-5b",
    sample_rate=SAMPLE_RATE,
    frame_rate=None,
    num_layers=0,
    dim=4800,
    window_seconds=8192 * STRIDE / SAMPLE_RATE,
    parameters=2_561_131_424,
    license="OpenAI's Noncommercial Use License, of code and weights",
    commercial_use=False,
    trained_on=("1.2 million songs, not published",),
    training_hours=(60_000, 120_000),
    pretraining_task="codified audio language modelling",
    input="waveform",
    network=_describe(JukeboxSettings()),
    context_seconds=8192 * STRIDE / SAMPLE_RATE,
    stride_seconds=8192 * STRIDE / SAMPLE_RATE,
    paper="Dhariwal et al. 2020, Jukebox: A Generative Model for Music, https://arxiv.org/abs/2005.00341; layer 36: "
    "Castellon et al. 2021, ISMIR, https://arxiv.org/abs/2107.05677",
    benchmark_setup="JukeMIR: one window of 8192 codes (23.78 s); mean over codes of layer 36; samples divided by "
    "their peak. MARBLE: one such window, or a half to an eighth, of every 30 s; mean over codes, over windows too; "
    "likewise",
    files=FILES["jukebox-5b"],
)
ENCODER = EncoderFamily(
    JukeboxSettings,
    Jukebox,
    {"jukebox-5b": (_CARD, JukeboxSettings())},
    update_card=_update_card,
    load_official=_load_official,
)
