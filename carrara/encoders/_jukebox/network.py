"""Jukebox's top VQ-VAE encoder and top prior: audio to codes, and a Transformer that models codes.

The codec [dhariwal2020 §3]: three levels halve the rate three, two and two times: 8 · 4 · 4 = 128. Each halving is a
convolution (kernel 4, stride 2) and a stack of residual blocks whose dilation grows threefold; each level ends in a
convolution to the codes' dimension. The nearest of 2048 codes by squared distance is the token. Codes are discrete, so
all of this stays in single precision.

The prior [dhariwal2020 §4] has factored attention [child2019]. The tokens form rows of 64. Blocks of the network attend
in turn within the row; within the column, so to the same position of the rows; and to all of the row before. The first
two are causal. The third needs no mask; the first row has none before it and attends to zeros, which gives zeros.

The prior's input is shifted by one: the token before, where the first is the start (the artist's and the genre's
vector), a learned vector for each position, and three for the time (the song's length, and this token's position in it,
in seconds and as a fraction). JukeMIR gives no information on the music: artist and genre "unknown", a song of 62 s,
from its beginning.

Matrices are kept in half precision, as published, and each is converted to single precision only while it multiplies;
under autocast it multiplies in autocast's type. Norms and the sum over the blocks are always in single precision.

Letters: B batch, T samples, C channels, K codes, N tokens, R rows, P positions in a row, H heads, E features of a head,
D dimension, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.nn.spectral.framing import no_autocast

HALVINGS = (3, 2, 2)
STRIDE = 2 ** sum(HALVINGS)  # samples of a token
DILATION_GROWTH = 3
PATTERNS = ("row", "column", "previous row")
UNKNOWN = 0  # artist and genre
# In samples of 44.1 kHz: a minute to ten minutes; 62 s in whole tokens.
SHORTEST_SONG, LONGEST_SONG = 2_646_000.0, 26_460_000.0
SONG = 62 * 44_100 // STRIDE * STRIDE


class _Residual(nn.Sequential):
    """ReLU, a dilated convolution of kernel 3, ReLU, one of kernel 1; added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        dilated = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        super().__init__(nn.ReLU(), dilated, nn.ReLU(), nn.Conv1d(channels, channels, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        return x_BCT + super().forward(x_BCT)


class Codec(nn.Module):
    """From samples to tokens; `codes_KD` is no parameter, because its authors updated it by running means.

    Args:
        channels: channels of the convolutions.
        depth: residual blocks after each halving.
        codebook_size: number of codes.
        code_dim: dimension of a code, and of the input of each further level.
    """

    codes_KD: Tensor

    def __init__(self, channels: int, depth: int, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.levels = nn.Sequential()
        for level, halvings in enumerate(HALVINGS):
            stages = [
                nn.Sequential(
                    nn.Conv1d(channels if index else code_dim if level else 1, channels, 4, stride=2, padding=1),
                    nn.Sequential(*(_Residual(channels, DILATION_GROWTH**block) for block in range(depth))),
                )
                for index in range(halvings)
            ]
            self.levels.append(nn.Sequential(*stages, nn.Conv1d(channels, code_dim, 3, padding=1)))
        self.register_buffer("codes_KD", torch.zeros(codebook_size, code_dim))

    def forward(self, samples_BT: Tensor) -> Tensor:
        """Return the tokens `[B, T // 128]`, int64, of samples whose number is a multiple of 128."""
        with no_autocast(samples_BT):
            x_BND = self.levels(samples_BT[:, None].float()).mT
            # |x|² is the same for every code.
            distances_BNK = self.codes_KD.square().sum(dim=-1) - 2 * x_BND @ self.codes_KD.mT
            return distances_BNK.argmin(dim=-1)


class HalfLinear(nn.Module):
    """A linear map whose matrix has the inputs first, as in the published files, and may be in half precision."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight_IO = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype))
        self.bias_O = nn.Parameter(torch.empty(outputs))

    def forward(self, x_BNI: Tensor) -> Tensor:
        """Return `[B, N, O]`."""
        # Autocast converts a half matrix to its own type, without a detour through single precision.
        automatic = torch.is_autocast_enabled(x_BNI.device.type)
        weight_IO = self.weight_IO if automatic else self.weight_IO.to(x_BNI.dtype)
        return functional.linear(x_BNI, weight_IO.mT, self.bias_O)


class _Norm(nn.LayerNorm):
    """Layer norm in single precision."""

    def forward(self, x_BND: Tensor) -> Tensor:
        weight_D, bias_D = self.weight.float(), self.bias.float()
        return functional.layer_norm(x_BND.float(), self.normalized_shape, weight_D, bias_D, self.eps)


class FactoredAttention(nn.Module):
    """Attention in one of the three patterns; its state has a quarter of the network's dimension."""

    def __init__(self, dim: int, num_heads: int, row_length: int, pattern: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_heads, self.row_length, self.pattern = num_heads, row_length, pattern
        self.query_key_value = HalfLinear(dim, 3 * (dim // 4), dtype)
        self.out = HalfLinear(dim // 4, dim, dtype)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the same shape, of a number of tokens that fills its rows."""
        batch, tokens, _ = x_BND.shape
        grid = (batch, tokens // self.row_length, self.row_length, 3, self.num_heads, -1)
        # [3, B, R, H, P, E]: attention is over the last axis but one.
        query, key, value = self.query_key_value(x_BND).view(grid).permute(3, 0, 1, 4, 2, 5)
        if self.pattern == "row":
            out_BRHPE = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        elif self.pattern == "column":
            query, key, value = query.transpose(1, 3), key.transpose(1, 3), value.transpose(1, 3)
            out_BRHPE = functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 3)
        else:
            after_BRHPE = functional.scaled_dot_product_attention(query[:, 1:], key[:, :-1], value[:, :-1])
            out_BRHPE = torch.cat([torch.zeros_like(value[:, :1]), after_BRHPE], dim=1)
        return self.out(out_BRHPE.transpose(2, 3).reshape(batch, tokens, -1))


class _Block(nn.Module):
    """h = x + a + m: attention of x, and a perceptron of x + a."""

    def __init__(self, dim: int, num_heads: int, row_length: int, pattern: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = _Norm(dim)
        self.attention = FactoredAttention(dim, num_heads, row_length, pattern, dtype)
        self.perceptron_norm = _Norm(dim)
        self.wide = HalfLinear(dim, dim, dtype)
        self.narrow = HalfLinear(dim, dim, dtype)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the same shape, in single precision."""
        x_BND = x_BND + self.attention(self.attention_norm(x_BND))
        hidden_BND = self.wide(self.perceptron_norm(x_BND))
        return x_BND + self.narrow(hidden_BND * torch.sigmoid(1.702 * hidden_BND))


class Prior(nn.Module):
    """From tokens to the output of the last block that is built.

    Args:
        num_blocks: number of blocks, of the published 72.
        dim, num_heads: sizes of the network.
        context: maximum number of tokens.
        row_length: tokens of a row.
        codebook_size: number of different tokens.
        num_artists, num_genres: rows of these tables.
        time_bins: rows of each table of time.
        dtype: type of the blocks' matrices.
    """

    def __init__(
        self,
        num_blocks: int,
        dim: int,
        num_heads: int,
        context: int,
        row_length: int,
        codebook_size: int,
        num_artists: int,
        num_genres: int,
        time_bins: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.context, self.time_bins = context, time_bins
        self.tokens = nn.Embedding(codebook_size, dim)
        self.positions_ND = nn.Parameter(torch.empty(context, dim))
        self.artists = nn.Embedding(num_artists, dim)
        self.genres = nn.Embedding(num_genres, dim)
        self.song_length = nn.Embedding(time_bins, dim)
        self.seconds = nn.Embedding(time_bins, dim)
        self.part = nn.Embedding(time_bins, dim)
        self.blocks = nn.ModuleList(
            _Block(dim, num_heads, row_length, PATTERNS[index % len(PATTERNS)], dtype) for index in range(num_blocks)
        )

    def forward(self, tokens_BN: Tensor) -> Tensor:
        """Return `[B, N, D]`, float32; N is at most the context and fills its rows."""
        batch, count = tokens_BN.shape
        start_BND = (self.artists.weight[UNKNOWN] + self.genres.weight[UNKNOWN]).expand(batch, 1, -1)
        before_BND = torch.cat([start_BND, self.tokens(tokens_BN[:, :-1])], dim=1)
        device = self.positions_ND.device
        length, seconds_N, part_N = compute_time_bins(self.context, self.time_bins)
        time_ND = self.song_length.weight[length] + self.seconds(seconds_N.to(device)) + self.part(part_N.to(device))
        x_BND = before_BND + self.positions_ND[:count] + time_ND[:count]
        for block in self.blocks:
            x_BND = block(x_BND)
        return x_BND.float()


def compute_time_bins(context: int, bins: int) -> tuple[int, Tensor, Tensor]:
    """Return indices into the tables of time: of the song's length, and of each token's time, twice `[context]`.

    The time is counted in samples up to the longest song, and as a fraction of the song of 62 s; each step is rounded
    to single precision as in the authors' code, so that no token falls into the next bin.
    """
    steps_N = torch.arange(context, dtype=torch.float32) / context
    samples = torch.tensor(float(context * STRIDE))
    length = int(bins * (SONG - SHORTEST_SONG) / (LONGEST_SONG - SHORTEST_SONG))
    seconds_N = bins * (samples * steps_N / LONGEST_SONG)
    part_N = bins * (samples / SONG * steps_N)
    return length, seconds_N.floor().long(), part_N.floor().long()
