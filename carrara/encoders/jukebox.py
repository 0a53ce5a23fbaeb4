"""Jukebox-5B: the middle layer of a model that generates music, as JukeMIR and MARBLE used it.

Dhariwal et al. 2020, "Jukebox: A Generative Model for Music" (arXiv 2005.00341); Castellon, Donahue, Liang 2021,
"Codified Audio Language Modeling Learns Useful Representations for MIR" (ISMIR, arXiv 2107.05677). Mono sound at
44.1 kHz, divided by its peak, becomes one code of 2048 for every 128 samples (_jukebox_codec.py); 8192 codes, 23.777 s,
go through the first 36 of the 72 blocks of the top prior (_jukebox_prior.py), told nothing of the music; the mean of
the last block's output, 4800 numbers, is the answer for the clip.

How a clip is cut is MARBLE's rule: pieces of 30 s, a last one under 1 s dropped; each piece is cut, or filled up with
zeros, to the nearest of 1, 1/2, 1/4 and 1/8 of 1,048,576 samples; the mean of the pieces' means. So of a piece of 30 s
the first 23.777 s are heard. JukeMIR takes a recording's first 25 s, which comes to the same but for the last 81 codes,
because its codec hears on after 23.777 s. Features cut long recordings into windows of 23.777 s by themselves (unless a
task asks for others), so that all is heard. The peak is that of the clip or window given, theirs that of the recording.

Memory: 4.98 GB for the matrices of 36 blocks in half precision, 0.29 GB for all else, and 1.2 GB for the one piece
and the one matrix, made single, that are at work: it runs within 16 GB, and so does its import, which copies only what
is needed out of the 10.3 GB file. Multiplication is in float32 as in JukeMIR, or in autocast's kind.

Weights: vqvae.pth.tar and prior_level_2.pth.tar of the model "5b", in one folder.

Letters: B batch, T samples, N tokens, D width.
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
from carrara.encoders._jukebox.codec import STRIDE, Codec
from carrara.encoders._jukebox.files import read_official
from carrara.encoders._jukebox.prior import Prior, Product
from carrara.nn.init import draw_weights

VARIANTS = {
    "jukebox-5b": "Jukebox-5B, 44.1 kHz, codes, mean of layer 36 of 72 as in JukeMIR and MARBLE, 4800 numbers a clip",
}
SAMPLE_RATE = 44_100
PARTS = (1, 2, 4, 8)  # a piece is heard as a window divided by one of these
FILES = {
    "jukebox-5b": {
        "https://openaipublic.azureedge.net/jukebox/models/5b/vqvae.pth.tar": "",
        "https://openaipublic.azureedge.net/jukebox/models/5b/prior_level_2.pth.tar": "",
    }
}


class JukeboxSettings(Settings):
    """What can be set; the defaults are those of Jukebox-5B in JukeMIR. Sizes but `layer` belong to the weights.

    Attributes:
        layer: whose mean is the answer, from 1; only the blocks up to it are built and loaded.
        dtype: in which the blocks' matrices are kept; float16 is how they are published.
        piece_seconds: into which a long clip is cut; the benchmarks' 30 s, of which a window is heard.
        width: of the prior.
        heads: of its attention.
        context: tokens of a window.
        row: tokens that attend to one another directly.
        codes: of the codec.
        code_width: numbers of a code.
        codec_width: channels of the codec.
        codec_depth: residual blocks after each halving of the rate.
        artists: rows of that table.
        genres: rows of that table.
        time_bins: rows of the three tables that say what time it is.
    """

    layer: int = Field(default=36, ge=1, le=72)
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    piece_seconds: float = Field(default=30.0, gt=0)
    dim: int = Field(default=4800, ge=4)
    num_heads: int = Field(default=8, ge=1)
    context: int = Field(default=8192, ge=1)
    row: int = Field(default=64, ge=1)
    codes: int = Field(default=2048, ge=1)
    code_width: int = Field(default=64, ge=1)
    codec_width: int = Field(default=32, ge=1)
    codec_depth: int = Field(default=4, ge=0)
    artists: int = Field(default=4111, ge=1)
    genres: int = Field(default=120, ge=1)
    time_bins: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> JukeboxSettings:
        if self.dim % (4 * self.num_heads):
            raise ValueError("width must be a multiple of 4 * heads")
        if self.context % (PARTS[-1] * self.row):
            raise ValueError("context must be a multiple of 8 * row, for the shortest piece is an eighth")
        return self


class Jukebox(Encoder):
    """The encoder, with random weights drawn from a generator of that seed (none under torch's meta device)."""

    settings: JukeboxSettings

    def __init__(self, settings: JukeboxSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.card = settings, card
        with torch.device("meta"):
            self.codec = Codec(settings.codec_width, settings.codec_depth, settings.codes, settings.code_width)
            self.prior = Prior(
                blocks=settings.layer,
                width=settings.dim,
                heads=settings.num_heads,
                context=settings.context,
                row=settings.row,
                codes=settings.codes,
                labels=(settings.artists, settings.genres),
                bins=settings.time_bins,
                dtype=getattr(torch, settings.dtype),
            )
        draw_weights(self, self._initialise, seed)

    def frames(self, samples: int) -> int:
        """Return 1: a whole clip gives one row of numbers."""
        return 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's pieces, `[B, 1, 1, D]`; one piece at a time goes through the network."""
        lengths = [samples_BT.shape[-1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        clips = [self._clip(samples_T[:length]) for samples_T, length in zip(samples_BT.float(), lengths)]
        return torch.stack(clips)[:, None, None]

    def _clip(self, samples_T: Tensor) -> Tensor:
        piece = round(self.settings.piece_seconds * SAMPLE_RATE)
        heard = pieces(normalised(samples_T), piece, self.settings.context * STRIDE)
        return torch.stack([self.prior(self.codec(piece_T[None])).mean(dim=(0, 1)) for piece_T in heard]).mean(dim=0)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, Product):
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


def normalised(samples_T: Tensor) -> Tensor:
    """Return samples divided by their peak; silence stays silent."""
    peak = samples_T.abs().max()
    return samples_T / torch.where(peak > 0, peak, 1)


def pieces(samples_T: Tensor, piece: int, window: int) -> list[Tensor]:
    """Return a clip's pieces, each of a window's length or of a half, a quarter or an eighth (see the head).

    Args:
        samples_T: at least one.
        piece: samples from one piece to the next.
        window: samples that the prior hears at once.
    """
    least = min(SAMPLE_RATE, piece // 2)
    cut = [part for i, part in enumerate(samples_T.split(piece)) if i == 0 or len(part) >= least]
    sizes = [min((window // part for part in PARTS), key=lambda size: abs(size - len(piece_T))) for piece_T in cut]
    return [nn.functional.pad(piece_T, (0, max(size - len(piece_T), 0)))[:size] for piece_T, size in zip(cut, sizes)]


def network(settings: JukeboxSettings, card: Card, seed: int) -> Jukebox:
    """Return the encoder with random weights."""
    return Jukebox(settings, card, seed)


def official(name: str, path: Path) -> Mapping[str, Tensor]:
    """Return the published weights up to the variant's layer, by the network's own names.

    Args:
        name: the variant.
        path: the folder that holds both files, or one of them with the other beside it.

    Raises:
        WeightsError: a file is not there, not whole, or not of this model.
    """
    settings = ENCODER.variants[name][1]
    assert isinstance(settings, JukeboxSettings)
    return read_official(path, settings.layer, getattr(torch, settings.dtype))


def described(card: Card, settings: JukeboxSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Jukebox(settings, card).parameters())
    sizes = {
        "dim": settings.dim,
        "window_seconds": settings.context * STRIDE / SAMPLE_RATE,
        "parameters": parameters,
    }
    return card.model_copy(update=sizes)


CARD = Card(
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
    paper="Dhariwal et al. 2020, Jukebox: A Generative Model for Music, https://arxiv.org/abs/2005.00341; layer 36: "
    "Castellon et al. 2021, ISMIR, https://arxiv.org/abs/2107.05677",
    benchmark_setup="JukeMIR: one window of 8192 codes (23.78 s); mean over codes of layer 36; samples divided by their "
    "peak. MARBLE: one such window, or a half to an eighth, of every 30 s; mean over codes, over windows too; likewise",
    files=FILES["jukebox-5b"],
)
ENCODER = EncoderFamily(
    JukeboxSettings,
    network,
    {"jukebox-5b": (CARD, JukeboxSettings())},
    update_card=described,
    load_official=official,
)
