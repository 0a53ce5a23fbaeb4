"""A small neural codec of our own: convolutions in, residual codebooks between, convolutions out, back to sound.

EnCodec's shape (Défossez et al. 2022; codebooks as in SoundStream, Zeghidour et al. 2021, and VQ-VAE, van den Oord et
al. 2017) without its LSTM, weight norm and discriminators: 8 filters and 64 latent dimensions make 0.2 million weights
a half, which a CPU can train (pretraining.md, section 5.2). Frame i stands for the samples 320·i to 320·i + 319 and
hears about 1400 more on either side; a long sound is coded in pieces that overlap by more than that, which changes
nothing.

Codebooks are no parameters. They start from k-means of the first batch, follow the running mean of the vectors nearest
to them (decay 0.99, counts smoothed after Laplace), and one that hardly any vector is near moves onto a vector of the
batch. The gradient passes the lookup as though it were not there; what a book leaves over is detached, or books after
the first give the encoder no gradient (encodec, issue 25). In half of the training steps only the first few books are
active, so that they learn to stand alone.

Letters: B batch, T samples, F frames, C latent dimensions, N = B·F vectors, Q books, K codes a book.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.errors import WeightsError
from carrara.core.io import write_text
from carrara.core.settings import Settings, parse_settings
from carrara.formats.weights import load_strictly, read_tensors, save_tensors
from carrara.nn.quantize.kmeans import assign, k_means_plus_plus, lloyd
from carrara.nn.quantize.residual_quantizer import counted, decode, encode
from carrara.nn.spectral.framing import float32

CONFIG, WEIGHTS, KEY = "config.json", "model.safetensors", "rvq-vae"
DECAY, SMOOTHING, FEWEST = 0.99, 1e-5, 2.0
FIRST_PASSES = 50
# What a residual branch adds at first, and how loud the first sounds are: about as loud as music.
RESIDUAL, QUIET = 0.3, 0.1
# Frames that are coded at once, and those heard before and after them.
PIECE, CONTEXT = 2048, 16


class CodecSettings(Settings):
    """The network's shape.

    Attributes:
        sample_rate: in Hz.
        filters: channels of the first convolution; each stride doubles them.
        strides: of the four convolutions that thin out time; their product is a frame's hop.
        latent: dimensions that are quantised.
        books, size: number of codebooks, and of codes in each.
    """

    sample_rate: int = Field(default=24_000, ge=1000)
    filters: int = Field(default=8, ge=1)
    strides: tuple[int, ...] = Field(default=(2, 4, 5, 8), min_length=1)
    latent: int = Field(default=64, ge=1)
    num_codebooks: int = Field(default=8, ge=1, le=32)
    codebook_size: int = Field(default=1024, ge=2, le=32_768)

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.strides)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 2, 1)
        self.narrow = nn.Conv1d(channels, narrow, 3, padding=1)
        self.wide = nn.Conv1d(narrow, channels, 1)

    def forward(self, sound_BCT: Tensor) -> Tensor:
        return sound_BCT + self.wide(functional.elu(self.narrow(functional.elu(sound_BCT))))


class _Down(nn.Module):
    """Halves, quarters, … time; frame j of the result hears two strides around the middle of its own stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.edges = (stride // 2, stride - stride // 2)
        self.conv = nn.Conv1d(channels, 2 * channels, 2 * stride, stride)

    def forward(self, sound_BCT: Tensor) -> Tensor:
        return self.conv(functional.pad(functional.elu(sound_BCT), self.edges))


def _encoder(settings: CodecSettings) -> nn.Sequential:
    channels = settings.filters
    layers: list[nn.Module] = [nn.Conv1d(1, channels, 7, padding=3)]
    for stride in settings.strides:
        layers += [_Residual(channels), _Down(channels, stride)]
        channels *= 2
    return nn.Sequential(*layers, nn.ELU(), nn.Conv1d(channels, settings.latent, 7, padding=3))


def _decoder(settings: CodecSettings) -> nn.Sequential:
    channels = settings.filters * 2 ** len(settings.strides)
    layers: list[nn.Module] = [nn.Conv1d(settings.latent, channels, 7, padding=3)]
    for stride in reversed(settings.strides):
        edge = (stride + 1) // 2
        up = nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride, padding=edge, output_padding=stride % 2)
        channels //= 2
        layers += [nn.ELU(), up, _Residual(channels)]
    return nn.Sequential(*layers, nn.ELU(), nn.Conv1d(channels, 1, 7, padding=3))


def _liven(half: nn.Sequential, loudness: float = 1.0) -> None:
    """Draw weights that keep the power from layer to layer (He et al. 2015), residual branches and the end quieter.

    With torch's own the latent vectors hardly tell sounds apart at first: on 8 melodies (4 filters, 32 codes, steps of
    3.2 s, learning rate 3e-3) the spectral distance of unseen ones was 3.9 after 300 steps and 2.7 after 1200; with
    these 2.9 and 2.0 (measured 2026-11-21).
    """
    scales = {layer.wide: RESIDUAL for layer in half.modules() if isinstance(layer, _Residual)} | {half[-1]: loudness}
    for layer in half.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            heard = layer.in_channels * layer.kernel_size[0]
            if isinstance(layer, nn.ConvTranspose1d):
                # Each sample of its output hears only some of the kernel.
                heard //= layer.stride[0]
            nn.init.normal_(layer.weight, std=scales.get(layer, 1.0) * (2.0 / heard) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Codebooks(nn.Module):
    """Residual codebooks that follow the running means of what is nearest to them."""

    codes_QKC: Tensor
    sums_QKC: Tensor
    counts_QK: Tensor
    started: Tensor

    def __init__(self, books: int, size: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("codes_QKC", torch.zeros(books, size, latent))
        self.register_buffer("sums_QKC", torch.zeros(books, size, latent))
        self.register_buffer("counts_QK", torch.zeros(books, size))
        self.register_buffer("started", torch.zeros(1))

    def forward(self, latent_NC: Tensor, active: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the quantised vectors, with the gradient of the latent ones, and the commitment; moves the codebooks.

        Args:
            latent_NC: what the encoder gives, single precision.
            active: number of books that are used and moved.
            generator: of the places of codes that are replaced, on the CPU.
        """
        first = not bool(self.started)
        residual_NC, total_NC = latent_NC, torch.zeros_like(latent_NC)
        commitment = latent_NC.new_zeros(())
        for book in range(active):
            vectors_NC = residual_NC.detach()
            if first:
                self._start(book, vectors_NC, generator)
            codes_N = assign(vectors_NC, self.codes_QKC[book])
            found_NC = self.codes_QKC[book][codes_N]
            commitment = commitment + functional.mse_loss(residual_NC, found_NC) / active
            if not first:
                self._move(book, vectors_NC, codes_N, generator)
            residual_NC = residual_NC - found_NC
            total_NC = total_NC + found_NC
        if first and active == len(self.codes_QKC):
            self.started.fill_(1.0)
        return latent_NC + (total_NC - latent_NC).detach(), commitment

    @torch.no_grad()
    def _start(self, book: int, vectors_NC: Tensor, generator: torch.Generator) -> None:
        size = self.counts_QK.shape[1]
        start_KC = k_means_plus_plus(vectors_NC, size, generator)
        self.codes_QKC[book] = lloyd([vectors_NC], start_KC, FIRST_PASSES).centroids_KD
        counts_K, sums_KC = counted(vectors_NC, assign(vectors_NC, self.codes_QKC[book]), size)
        self.counts_QK[book], self.sums_QKC[book] = counts_K, sums_KC

    @torch.no_grad()
    def _move(self, book: int, vectors_NC: Tensor, codes_N: Tensor, generator: torch.Generator) -> None:
        counts_K, sums_KC = self.counts_QK[book], self.sums_QKC[book]
        size = len(counts_K)
        new_K, new_KC = counted(vectors_NC, codes_N, size)
        counts_K.lerp_(new_K, 1 - DECAY)
        sums_KC.lerp_(new_KC, 1 - DECAY)
        # A small batch has fewer than two vectors a code, and then an even share would count as too few.
        even = len(vectors_NC) / size
        gone_G = (counts_K < min(FEWEST, even / 4)).nonzero()[:, 0]
        drawn_G = torch.randint(len(vectors_NC), (len(gone_G),), generator=generator).to(vectors_NC.device)
        counts_K[gone_G], sums_KC[gone_G] = even, even * vectors_NC[drawn_G]
        smoothed_K = (counts_K + SMOOTHING) * counts_K.sum() / (counts_K.sum() + size * SMOOTHING)
        self.codes_QKC[book] = sums_KC / smoothed_K[:, None]


@dataclass(frozen=True)
class Coded:
    """A batch that went through: the sound that came back, `[B, T]`, and the commitment to its codes."""

    samples_BT: Tensor
    commitment: Tensor


class RVQVAE(nn.Module):
    """Sound to codes and back, one row of codes for every `settings.hop` samples."""

    def __init__(self, settings: CodecSettings, seed: int = 0) -> None:
        """Make the network with random weights of that seed and codebooks that wait for a first batch."""
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = _encoder(settings), _decoder(settings)
            _liven(self.encoder)
            _liven(self.decoder, loudness=QUIET)
        self.books = Codebooks(settings.num_codebooks, settings.codebook_size, settings.latent)

    def forward(self, samples_BT: Tensor, generator: torch.Generator) -> Coded:
        """Take the samples through the codes and back, and move the codebooks; only for training."""
        latent_BCF = self.encoder(self._filled(samples_BT)[:, None])
        active = self.settings.num_codebooks
        if bool(self.books.started) and float(torch.rand(1, generator=generator)) < 0.5:
            active = int(torch.randint(1, active + 1, (1,), generator=generator))
        with float32(samples_BT):
            latent_NC = latent_BCF.float().transpose(1, 2).flatten(0, 1)
            quantised_NC, commitment = self.books(latent_NC, active, generator)
        quantised_BCF = quantised_NC.view(len(samples_BT), -1, self.settings.latent).transpose(1, 2)
        return Coded(self.decoder(quantised_BCF)[:, 0, : samples_BT.shape[1]], commitment)

    @torch.no_grad()
    def encode(self, samples_BT: Tensor, books: int | None = None) -> Tensor:
        """Return the codes of the first books, or of all, int64 `[B, F, Q]`; F counts a begun last frame."""
        filled_BT = self._filled(samples_BT)
        hop, frames = self.settings.hop, filled_BT.shape[1] // self.settings.hop
        parts = []
        for first in range(0, frames, PIECE):
            begin, end = max(first - CONTEXT, 0), min(first + PIECE + CONTEXT, frames)
            latent_BCF = self.encoder(filled_BT[:, None, begin * hop : end * hop])
            latent_BFC = latent_BCF.float().transpose(1, 2)[:, first - begin :][:, :PIECE]
            parts.append(encode(latent_BFC.flatten(0, 1), self.books.codes_QKC[:books]).view(*latent_BFC.shape[:2], -1))
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def decode(self, codes_BFQ: Tensor) -> Tensor:
        """Return the sound of the codes, `[B, F · hop]`; of fewer books where the codes are of the first few."""
        latent_NC = decode(codes_BFQ.flatten(0, 1), self.books.codes_QKC)
        return self.decoder(latent_NC.view(*codes_BFQ.shape[:2], -1).transpose(1, 2))[:, 0]

    def _filled(self, samples_BT: Tensor) -> Tensor:
        return functional.pad(samples_BT, (0, -samples_BT.shape[1] % self.settings.hop))


def save(codec: RVQVAE, folder: Path) -> None:
    """Write a codec as a folder that `load` reads.

    Raises:
        StoreError: it cannot be written.
    """
    save_tensors(codec.state_dict(), folder / WEIGHTS)
    write_text(folder / CONFIG, json.dumps({KEY: codec.settings.model_dump(mode="json")}, indent=2) + "\n")


def load(folder: Path) -> RVQVAE:
    """Return the codec in a folder, in evaluation mode, on the CPU.

    Raises:
        WeightsError: there is none, or it is not whole.
        UsageError: its settings are not known here.
    """
    path = Path(folder) / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[KEY]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(f"{path}: no RVQ-VAE ({problem}); make one with `carrara pretrain rvq-vae`") from None
    codec = RVQVAE(parse_settings(CodecSettings, found, str(path)))
    load_strictly(codec, read_tensors(Path(folder) / WEIGHTS), str(Path(folder) / WEIGHTS))
    return codec.eval()
