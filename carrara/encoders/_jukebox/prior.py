"""Jukebox's top prior: a Transformer that models codes, each from those before it, with attention in three patterns.

Dhariwal et al. 2020, section 4 and appendix A; Child et al. 2019 for factored attention. The tokens are seen as rows
(blocks) of 64. Blocks of the network attend in turn within the row; within the column, so to the same place of the
rows; and to all of the row before. The first two are causal. The third needs no mask; the first row has none before it,
and attends to zeros, which gives zeros.

What goes in is shifted by one: the token before, where the first is the start (the artist's and the genre's vector), a
learnt vector for each position, and three for the time (how long the song is, where in it this token is, in seconds and
as a part). JukeMIR says nothing of the music: artist and genre "unknown", a song of 62 s, heard from its beginning.

Matrices are kept in half precision, as published, and each is made single only while it multiplies; under autocast it
multiplies in autocast's kind. Norms and the sum over the blocks are always in single precision.

Letters: B batch, N tokens, R rows, P places in a row, H heads, W width of a head, D width, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from carrara.encoders._jukebox.codec import STRIDE

PATTERNS = ("row", "column", "previous row")
UNKNOWN = 0  # artist and genre
# In samples of 44.1 kHz: a minute to ten minutes; 62 s in whole tokens.
SHORTEST_SONG, LONGEST_SONG = 2_646_000.0, 26_460_000.0
SONG = 62 * 44_100 // STRIDE * STRIDE


class Product(nn.Module):
    """A linear map whose matrix lies inputs first, as in the published files, and may be of half precision."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight_IO = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype))
        self.bias_O = nn.Parameter(torch.empty(outputs))

    def forward(self, x_BNI: Tensor) -> Tensor:
        """Return `[B, N, O]`."""
        # Autocast makes its own kind of a half matrix, without the way over the single one.
        automatic = torch.is_autocast_enabled(x_BNI.device.type)
        weight_IO = self.weight_IO if automatic else self.weight_IO.to(x_BNI.dtype)
        return functional.linear(x_BNI, weight_IO.mT, self.bias_O)


class Norm(nn.LayerNorm):
    """Layer norm in single precision."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the same shape."""
        weight_D, bias_D = self.weight.float(), self.bias.float()
        return functional.layer_norm(x_BND.float(), self.normalized_shape, weight_D, bias_D, self.eps)


class Attention(nn.Module):
    """Attention in one of the three patterns; its state is a quarter as wide as the network."""

    def __init__(self, width: int, heads: int, row: int, pattern: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.row, self.pattern = heads, row, pattern
        self.query_key_value = Product(width, 3 * (width // 4), dtype)
        self.out = Product(width // 4, width, dtype)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the same shape, of a number of tokens that fills its rows."""
        batch, tokens, _ = x_BND.shape
        grid = (batch, tokens // self.row, self.row, 3, self.heads, -1)
        # [3, B, R, H, P, W]: attention is over the last axis but one.
        query, key, value = self.query_key_value(x_BND).view(grid).permute(3, 0, 1, 4, 2, 5)
        if self.pattern == "row":
            heard_BRHPW = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        elif self.pattern == "column":
            query, key, value = query.transpose(1, 3), key.transpose(1, 3), value.transpose(1, 3)
            heard_BRHPW = functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 3)
        else:
            after_BRHPW = functional.scaled_dot_product_attention(query[:, 1:], key[:, :-1], value[:, :-1])
            heard_BRHPW = torch.cat([torch.zeros_like(value[:, :1]), after_BRHPW], dim=1)
        return self.out(heard_BRHPW.transpose(2, 3).reshape(batch, tokens, -1))


class Block(nn.Module):
    """h = x + a + m: attention of x, and a perceptron of x + a."""

    def __init__(self, width: int, heads: int, row: int, pattern: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention_norm = Norm(width)
        self.attention = Attention(width, heads, row, pattern, dtype)
        self.perceptron_norm = Norm(width)
        self.wide = Product(width, width, dtype)
        self.narrow = Product(width, width, dtype)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the same shape, in single precision."""
        x_BND = x_BND + self.attention(self.attention_norm(x_BND))
        hidden_BND = self.wide(self.perceptron_norm(x_BND))
        return x_BND + self.narrow(hidden_BND * torch.sigmoid(1.702 * hidden_BND))


class Prior(nn.Module):
    """From tokens to the output of the last block that is built.

    Args:
        blocks: how many, of the published 72.
        width: of the network.
        heads: of attention.
        context: the most tokens at once.
        row: tokens of a row.
        codes: number of different tokens.
        labels: how many artists and genres the tables hold.
        bins: rows of each table of time.
        dtype: in which the blocks' matrices are kept.
    """

    def __init__(
        self,
        blocks: int,
        width: int,
        heads: int,
        context: int,
        row: int,
        codes: int,
        labels: tuple[int, int],
        bins: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.context, self.bins = context, bins
        self.tokens = nn.Embedding(codes, width)
        self.positions_ND = nn.Parameter(torch.empty(context, width))
        self.artists = nn.Embedding(labels[0], width)
        self.genres = nn.Embedding(labels[1], width)
        self.song_length = nn.Embedding(bins, width)
        self.seconds = nn.Embedding(bins, width)
        self.part = nn.Embedding(bins, width)
        self.blocks = nn.ModuleList(Block(width, heads, row, PATTERNS[i % len(PATTERNS)], dtype) for i in range(blocks))

    def forward(self, tokens_BN: Tensor) -> Tensor:
        """Return `[B, N, D]`, float32; N is at most the context and fills its rows."""
        batch, count = tokens_BN.shape
        start_BND = (self.artists.weight[UNKNOWN] + self.genres.weight[UNKNOWN]).expand(batch, 1, -1)
        before_BND = torch.cat([start_BND, self.tokens(tokens_BN[:, :-1])], dim=1)
        x_BND = before_BND + self.positions_ND[:count] + self.time()[:count]
        for block in self.blocks:
            x_BND = block(x_BND)
        return x_BND.float()

    def time(self) -> Tensor:
        """Return what says when each token sounds, `[context, D]`."""
        device = self.positions_ND.device
        length, seconds_N, part_N = time_bins(self.context, self.bins)
        return self.song_length.weight[length] + self.seconds(seconds_N.to(device)) + self.part(part_N.to(device))


def time_bins(context: int, bins: int) -> tuple[int, Tensor, Tensor]:
    """Return rows of the tables of time: of the song's length, and of each token's place in it, twice `[context]`.

    The place is counted in samples up to the longest song, and as a part of the song of 62 s; each step is rounded to
    single precision as the authors' is, so that no token falls into the next bin.
    """
    steps_N = torch.arange(context, dtype=torch.float32) / context
    samples = torch.tensor(float(context * STRIDE))
    length = int(bins * (SONG - SHORTEST_SONG) / (LONGEST_SONG - SHORTEST_SONG))
    seconds_N = bins * (samples * steps_N / LONGEST_SONG)
    part_N = bins * (samples / SONG * steps_N)
    return length, seconds_N.floor().long(), part_N.floor().long()
