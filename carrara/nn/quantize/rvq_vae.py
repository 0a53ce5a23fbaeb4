"""A small neural codec: a convolutional encoder, residual codebooks, and a convolutional decoder.

EnCodec's shape [defossez2022] (codebooks as in [zeghidour2021] and [oord2017]) without its LSTM, weight norm and
discriminators: 8 filters and 64 latent dimensions make 0.2 million weights in each half, which a CPU can train
[notes/pretraining §5.2]. Frame i covers the samples 320·i to 320·i + 319 and depends on about 1400 more on either
side; long audio is encoded in blocks that overlap by more than that, which changes nothing.

Codebooks are no parameters. They start from k-means of the first batch and follow the running mean of the vectors
nearest to them (decay 0.99, counts with Laplace smoothing); a code that hardly any vector is near moves onto a vector
of the batch. The gradient of the lookup is the identity; the remainder of a codebook is detached, or else codebooks
after the first would give the encoder no gradient (encodec, issue 25). In half of the training steps only the first few
codebooks are active, so that they learn to work alone.

Letters: B batch, T samples, F frames, C latent dimensions, N = B·F vectors, Q codebooks, K codes of a codebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from carrara.core.settings import Settings
from carrara.nn.quantize.kmeans import fit_lloyd, kmeans_plusplus, nearest_centroids
from carrara.nn.quantize.residual_quantizer import decode_rvq, encode_rvq, sum_by_code
from carrara.nn.recompute import forward_and_recompute
from carrara.nn.spectral.framing import no_autocast

DECAY, SMOOTHING, MIN_COUNT = 0.99, 1e-5, 2.0
FIRST_ITERATIONS = 50
# Initial gains of the residual branches and of the output, which is then about as loud as music.
RESIDUAL_GAIN, OUTPUT_GAIN = 0.3, 0.1
# Frames of a block, and those before and after it that its codes depend on.
BLOCK_FRAMES, CONTEXT_FRAMES = 2048, 16


class CodecSettings(Settings):
    """The network's shape.

    Attributes:
        sample_rate: in Hz.
        filters: channels of the first convolution; each stride doubles them.
        strides: of the convolutions that reduce the frame rate; their product is the hop.
        latent: dimensions that are quantized.
        num_codebooks: number of codebooks.
        codebook_size: codes of a codebook.
    """

    sample_rate: int = Field(default=24_000, ge=1000)
    filters: int = Field(default=8, ge=1)
    strides: tuple[int, ...] = Field(default=(2, 4, 5, 8), min_length=1)
    latent: int = Field(default=64, ge=1)
    num_codebooks: int = Field(default=8, ge=1, le=32)
    codebook_size: int = Field(default=1024, ge=2, le=32_768)

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.strides)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 2, 1)
        self.narrow = nn.Conv1d(channels, narrow, 3, padding=1)
        self.wide = nn.Conv1d(narrow, channels, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return x_BCT + self.wide(functional.elu(self.narrow(functional.elu(x_BCT))))


class _Downsample(nn.Module):
    """ELU and a strided convolution; output frame j covers two strides around the middle of its own stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.padding = (stride // 2, stride - stride // 2)
        self.conv = nn.Conv1d(channels, 2 * channels, 2 * stride, stride)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return self.conv(functional.pad(functional.elu(x_BCT), self.padding))


def _build_encoder(settings: CodecSettings) -> nn.Sequential:
    channels = settings.filters
    layers: list[nn.Module] = [nn.Conv1d(1, channels, 7, padding=3)]
    for stride in settings.strides:
        layers += [_Residual(channels), _Downsample(channels, stride)]
        channels *= 2
    return nn.Sequential(*layers, nn.ELU(), nn.Conv1d(channels, settings.latent, 7, padding=3))


def _build_decoder(settings: CodecSettings) -> nn.Sequential:
    channels = settings.filters * 2 ** len(settings.strides)
    layers: list[nn.Module] = [nn.Conv1d(settings.latent, channels, 7, padding=3)]
    for stride in reversed(settings.strides):
        padding = (stride + 1) // 2
        up = nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride, padding, output_padding=stride % 2)
        channels //= 2
        layers += [nn.ELU(), up, _Residual(channels)]
    return nn.Sequential(*layers, nn.ELU(), nn.Conv1d(channels, 1, 7, padding=3))


def _init_half(half: nn.Sequential, output_gain: float = 1.0) -> None:
    """Draw weights that keep the power from layer to layer [he2015], smaller in residual branches and at the output.

    With torch's own weights the latent vectors hardly distinguish sounds at first: on 8 melodies (4 filters, 32 codes,
    steps of 3.2 s, learning rate 3e-3) the spectral distance of unseen ones was 3.9 after 300 steps and 2.7 after 1200;
    with these 2.9 and 2.0 (measured 2026-11-21).
    """
    gains: dict[nn.Module, float] = {half[-1]: output_gain}
    gains |= {layer.wide: RESIDUAL_GAIN for layer in half.modules() if isinstance(layer, _Residual)}
    for layer in half.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            fan_in = layer.in_channels * layer.kernel_size[0]
            if isinstance(layer, nn.ConvTranspose1d):
                # Each sample of its output depends on a part of the kernel only.
                fan_in //= layer.stride[0]
            nn.init.normal_(layer.weight, std=gains.get(layer, 1.0) * (2.0 / fan_in) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Codebooks(nn.Module):
    """Residual codebooks that follow the running means of the vectors nearest to their codes."""

    codes_QKC: Tensor
    sums_QKC: Tensor
    counts_QK: Tensor
    started: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("codes_QKC", torch.zeros(num_codebooks, codebook_size, latent))
        self.register_buffer("sums_QKC", torch.zeros(num_codebooks, codebook_size, latent))
        self.register_buffer("counts_QK", torch.zeros(num_codebooks, codebook_size))
        self.register_buffer("started", torch.zeros(1))

    def forward(self, latent_NC: Tensor, active: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the quantized vectors with the gradient of the latent ones, the commitment, and what `update` needs.

        The latter are the vectors that each active codebook quantized, `[Q, N, C]`, and their codes, `[Q, N]`.

        Args:
            latent_NC: outputs of the encoder, single precision.
            active: number of codebooks that are used.
        """
        residual_NC, total_NC = latent_NC, torch.zeros_like(latent_NC)
        commitment, vectors, codes = latent_NC.new_zeros(()), [], []
        for codes_KC in self.codes_QKC[:active]:
            vectors.append(residual_NC.detach())
            codes.append(nearest_centroids(vectors[-1], codes_KC))
            nearest_NC = codes_KC[codes[-1]]
            commitment = commitment + functional.mse_loss(residual_NC, nearest_NC) / active
            residual_NC = residual_NC - nearest_NC
            total_NC = total_NC + nearest_NC
        quantized_NC = latent_NC + (total_NC - latent_NC).detach()
        return quantized_NC, commitment, torch.stack(vectors), torch.stack(codes)

    @torch.no_grad()
    def start(self, latent_NC: Tensor, generator: torch.Generator) -> None:
        """Start all codebooks from k-means of these vectors."""
        size = self.counts_QK.shape[1]
        for index in range(len(self.codes_QKC)):
            start_KC = kmeans_plusplus(latent_NC, size, generator)
            self.codes_QKC[index] = fit_lloyd([latent_NC], start_KC, FIRST_ITERATIONS).centroids_KD
            codes_N = nearest_centroids(latent_NC, self.codes_QKC[index])
            self.counts_QK[index], self.sums_QKC[index] = sum_by_code(latent_NC, codes_N, size)
            latent_NC = latent_NC - self.codes_QKC[index][codes_N]
        self.started.fill_(1.0)

    @torch.no_grad()
    def update(
        self,
        vectors_QNC: Sequence[Tensor],
        codes_QN: Sequence[Tensor],
        generator: torch.Generator,
        first: int = 0,
        total: int | None = None,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        """Move the first codebooks towards the means of their vectors.

        Args:
            vectors_QNC, codes_QN: from `forward`, of this rank's whole batch.
            generator: generator on the CPU that picks replacements for unused codes.
            first: number of vectors on the ranks before this one.
            total: number of vectors on all ranks; None means those of this rank.
            sum_over_ranks: replaces a tensor by its sum over the ranks.
        """
        size, active, count = self.counts_QK.shape[1], len(vectors_QNC), len(vectors_QNC[0])
        total = count if total is None else total
        new = [sum_by_code(vectors_NC, codes_N, size) for vectors_NC, codes_N in zip(vectors_QNC, codes_QN)]
        self.counts_QK[:active].lerp_(sum_over_ranks(torch.stack([counts_K for counts_K, _ in new])), 1 - DECAY)
        self.sums_QKC[:active].lerp_(sum_over_ranks(torch.stack([sums_KC for _, sums_KC in new])), 1 - DECAY)
        # A small batch has fewer than two vectors a code, and then an even count would be below the minimum.
        even = total / size
        unused, replacements = [], []
        for counts_K, vectors_NC in zip(self.counts_QK, vectors_QNC):
            unused.append((counts_K < min(MIN_COUNT, even / 4)).nonzero()[:, 0])
            row_G = torch.randint(total, (len(unused[-1]),), generator=generator).to(vectors_NC.device) - first
            is_own_G = (row_G >= 0) & (row_G < count)
            # Only one rank has a drawn vector; the sum with zeros gives it to all.
            replacements.append(vectors_NC.new_zeros(len(row_G), vectors_NC.shape[1]))
            replacements[-1][is_own_G] = vectors_NC[row_G[is_own_G]]
        replacements_GC = sum_over_ranks(torch.cat(replacements))
        for index, replaced_GC in enumerate(replacements_GC.split([len(unused_G) for unused_G in unused])):
            counts_K, sums_KC = self.counts_QK[index], self.sums_QKC[index]
            counts_K[unused[index]], sums_KC[unused[index]] = even, even * replaced_GC
            smoothed_K = (counts_K + SMOOTHING) * counts_K.sum() / (counts_K.sum() + size * SMOOTHING)
            self.codes_QKC[index] = sums_KC / smoothed_K[:, None]


@dataclass(frozen=True)
class CodecOutput:
    """Reconstructed audio, `[B, T]`, the commitment loss of its codes, and what the codebooks are updated from."""

    samples_BT: Tensor
    commitment: Tensor
    vectors_QNC: Tensor
    codes_QN: Tensor


class RVQVAE(nn.Module):
    """Audio to codes and back: Q codes for every `settings.hop` samples.

    Attributes:
        activation_checkpointing: whether, in training, the activations of both halves are recomputed in the backward
            pass instead of being kept.
    """

    def __init__(self, settings: CodecSettings, seed: int = 0) -> None:
        """Build the network with random weights and codebooks that start with the first batch."""
        super().__init__()
        self.settings = settings
        self.activation_checkpointing = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = _build_encoder(settings), _build_decoder(settings)
            _init_half(self.encoder)
            _init_half(self.decoder, OUTPUT_GAIN)
        self.books = Codebooks(settings.num_codebooks, settings.codebook_size, settings.latent)

    def forward(self, samples_BT: Tensor, active: int) -> CodecOutput:
        """Return the reconstruction from the first `active` codebooks, which must have started; only for training."""
        latent_BCF = self._half(self.encoder, self._pad_to_hop(samples_BT)[:, None])
        with no_autocast(samples_BT):
            latent_NC = latent_BCF.float().transpose(1, 2).flatten(0, 1)
            quantized_NC, commitment, vectors_QNC, codes_QN = self.books(latent_NC, active)
        quantized_BCF = quantized_NC.view(len(samples_BT), -1, self.settings.latent).transpose(1, 2)
        decoded_BT = self._half(self.decoder, quantized_BCF)[:, 0, : samples_BT.shape[1]]
        return CodecOutput(decoded_BT, commitment, vectors_QNC, codes_QN)

    def draw_active(self, generator: torch.Generator) -> int:
        """Return how many codebooks a step uses: in half of the steps all, else a random number."""
        active = self.settings.num_codebooks
        if float(torch.rand(1, generator=generator)) < 0.5:
            active = int(torch.randint(1, active + 1, (1,), generator=generator))
        return active

    @torch.no_grad()
    def latents(self, samples_BT: Tensor) -> Tensor:
        """Return the vectors that are quantized, frame after frame of each crop, `[N, C]`."""
        return self.encoder(self._pad_to_hop(samples_BT)[:, None]).float().transpose(1, 2).flatten(0, 1)

    def _half(self, half: nn.Sequential, x_BCT: Tensor) -> Tensor:
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        return forward_and_recompute(half, x_BCT) if recompute else half(x_BCT)

    @torch.no_grad()
    def encode(self, samples_BT: Tensor, num_codebooks: int | None = None, block_frames: int = BLOCK_FRAMES) -> Tensor:
        """Return the codes, int64 `[B, F, Q]`, of the first `num_codebooks` or all; F rounds up."""
        samples_BT = self._pad_to_hop(samples_BT)
        hop, frames = self.settings.hop, samples_BT.shape[1] // self.settings.hop
        codebooks_QKC = self.books.codes_QKC[:num_codebooks]
        blocks = []
        for first in range(0, frames, block_frames):
            start, end = max(first - CONTEXT_FRAMES, 0), min(first + block_frames + CONTEXT_FRAMES, frames)
            latent_BCF = self.encoder(samples_BT[:, None, start * hop : end * hop])
            latent_BFC = latent_BCF.float().transpose(1, 2)[:, first - start :][:, :block_frames]
            blocks.append(encode_rvq(latent_BFC.flatten(0, 1), codebooks_QKC).view(*latent_BFC.shape[:2], -1))
        return torch.cat(blocks, dim=1)

    @torch.no_grad()
    def decode(self, codes_BFQ: Tensor) -> Tensor:
        """Return the audio of codes, `[B, F · hop]`; codes may be of the first codebooks only."""
        latent_NC = decode_rvq(codes_BFQ.flatten(0, 1), self.books.codes_QKC)
        return self.decoder(latent_NC.view(*codes_BFQ.shape[:2], -1).transpose(1, 2))[:, 0]

    def _pad_to_hop(self, samples_BT: Tensor) -> Tensor:
        return functional.pad(samples_BT, (0, -samples_BT.shape[1] % self.settings.hop))
