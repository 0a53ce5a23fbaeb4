"""The network of MAEST: log-mel patches through a Transformer, heads that tell styles, and what a clip's features are.

Sound longer than the table of positions is heard in equal windows on one spectrogram, so that no window has edges of
its own; a clip's answer is the mean over its columns of patches. Windows of all clips of a batch go through the network
in blocks of bounded size. Padding is never attended. See maest.py for the settings of the published networks.

Letters: B clips, T samples, F frames, M bands, W windows, C columns of patches, N tokens, L rows of layers, D width,
K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import UsageError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder
from carrara.nn.init import draw_weights
from carrara.nn.spectral.framing import preset
from carrara.nn.spectral.mel import Bands, MelSpectrogram
from carrara.nn.transformer.vit import EXTRA, PatchTransformer, VitShape, initialise_linear

SAMPLE_RATE, HOP = 16_000, 256
BLOCK_TOKENS = 8192  # heard at once, so that ten minutes need no more memory than some windows
BLOCK_PATCHES = 8 * BLOCK_TOKENS  # the same before patchout, which only the convolution sees


class MaestSettings(Settings):
    """What the network is made of, and what is kept of what it hears; the defaults are those over 30 s.

    Attributes:
        frames: mel frames of the training length; the table of positions has frames // 10 columns.
        width, layers, heads, feed_forward: sizes of the Transformer.
        classes: styles that the heads tell.
        labels: their names; empty where nobody told them.
        distilled: what tells the styles: the mean of cls and dist, or cls alone where each has a head (`separated`).
        distillation_head: whether the network has the second head; Hugging Face's files have none.
        framing: how the spectrogram is cut: as the weights were taught (essentia), or as the authors' later code.
        mean, deviation: of log-mel values; what the network hears is (x − mean) / (2 · deviation).
        tokens: what a clip's features are (see above).
        drop_rows, every_row, drop_columns, every_column: patchout when hearing; a window too short for any column to
            be left keeps its last.
    """

    frames: int = Field(default=1875, ge=16)
    dim: int = Field(default=768, ge=1)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    classes: int = Field(default=400, ge=1)
    labels: tuple[str, ...] = ()
    distilled: Literal["mean", "separated"] = "mean"
    distillation_head: bool = True
    framing: Literal["essentia", "maest-torch", "maest-hf"] = "essentia"
    mean: float = 2.06755686098554
    deviation: float = Field(default=1.268292820667291, gt=0)
    tokens: Literal["cls", "dist", "average", "stack", "frames"] = "stack"
    drop_rows: tuple[int, ...] = ()
    every_row: int = Field(default=1, ge=1)
    drop_columns: tuple[int, ...] = ()
    every_column: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> MaestSettings:
        if self.dim % self.num_heads:
            raise ValueError(f"width {self.dim} must be divisible by heads {self.num_heads}")
        if self.distilled == "separated" and not self.distillation_head:
            raise ValueError("distilled separated needs distillation_head")
        if self.labels and len(set(self.labels)) != self.classes:
            raise ValueError(f"labels must be {self.classes} different names, one a class; {len(set(self.labels))} are")
        shape = self.shape
        for name, dropped, places, count in (
            ("drop_rows", self.drop_rows, shape.rows, shape.rows),
            ("drop_columns", self.drop_columns, shape.columns, shape.time_patches(self.frames)),
        ):
            outside = [place for place in dropped if not 0 <= place < places]
            if outside:
                raise ValueError(f"{name}: there is no {outside[0]}, only 0 to {places - 1}")
            if not set(range(count)) - set(dropped):
                raise ValueError(f"{name} would drop all {count}; keep one")
        return self

    @property
    def shape(self) -> VitShape:
        """The network's sizes."""
        sizes = {name: getattr(self, name) for name in ("frames", "dim", "num_layers", "num_heads", "ffn_dim")}
        return VitShape(**sizes)


def describe(card: Card, settings: MaestSettings) -> Card:
    """Return a card with everything that follows from the settings filled in."""
    aligned = settings.tokens == "frames"
    return card.model_copy(
        update={
            "frame_rate": SAMPLE_RATE / HOP / settings.shape.stride if aligned else None,
            "num_layers": settings.num_layers,
            "dim": settings.dim * (3 if settings.tokens == "stack" else 1),
            "window_seconds": round(settings.frames * HOP / SAMPLE_RATE, 1),
        }
    )


@dataclass(frozen=True)
class Stretch:
    """A window: whose it is, its first column and how many it has."""

    clip: int
    first: int
    columns: int


class MaestEncoder(Encoder):
    """The encoder with its heads; random weights drawn from a generator of that seed (none on torch's meta device)."""

    settings: MaestSettings

    def __init__(self, settings: MaestSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings = settings
        place = torch.get_default_device()
        with torch.device("meta"):
            self.vit = PatchTransformer(settings.shape)
            self.head = nn.Sequential(nn.LayerNorm(settings.dim), nn.Linear(settings.dim, settings.classes))
            self.head_dist = nn.Linear(settings.dim, settings.classes) if settings.distillation_head else None
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = describe(card, settings).model_copy(update={"parameters": parameters})
        draw_weights(self, self._initialise, seed)
        self.framing = preset(settings.framing)
        with torch.device("cpu"):  # constants, which no file of weights brings to life
            self.mel = MelSpectrogram(SAMPLE_RATE, self.framing, Bands(settings.shape.bands), "log10")
        if place.type != "meta":
            self.to(place)

    def _initialise(self, generator: torch.Generator) -> None:
        self.vit.initialise(generator)
        for head in (self.head, self.head_dist):
            if head is not None:
                initialise_linear(head, generator)

    def frames(self, samples: int) -> int:
        """Return how many frames that many samples give; 1 where `tokens` is not `frames`."""
        return self._columns(samples) if self.settings.tokens == "frames" else 1

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, width]` (see `Encoder.forward`).

        Raises:
            UsageError: a clip has no samples, or there are no clips, or not one a row.
        """
        _refuse_nothing(samples_BT, lengths_B)
        aligned = self.settings.tokens == "frames"
        pieces: list[list[Tensor]] = [[] for _ in samples_BT]
        for stretches, rows, kept_C in self._heard(samples_BT, lengths_B):
            counts_W = torch.tensor([stretch.columns for stretch in stretches], device=samples_BT.device)
            pooled_WLFD = torch.stack([self._pooled(x_WND, kept_C, counts_W) for x_WND in rows], 1)
            for stretch, pooled_LFD in zip(stretches, pooled_WLFD):
                # Of a clip in windows the mean by length is the mean over its columns.
                piece = pooled_LFD[:, : stretch.columns] if aligned else pooled_LFD * stretch.columns
                pieces[stretch.clip].append(piece)
        if not aligned:
            lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
            return torch.stack([sum(found[1:], found[0]) / self._columns(n) for found, n in zip(pieces, lengths)])
        together_BFLD = pad_sequence([torch.cat(found, 1).transpose(0, 1) for found in pieces], batch_first=True)
        missing = self.frames(samples_BT.shape[1]) - together_BFLD.shape[1]
        return nn.functional.pad(together_BFLD, (0, 0, 0, 0, 0, missing)).transpose(1, 2)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The labels, or the styles' numbers where nobody told them."""
        return self.settings.labels or tuple(f"style {place}" for place in range(self.settings.classes))

    def tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return how probable each style is in each clip, `[batch, classes]`; of windows, the mean by their length.

        Raises:
            UsageError: as `forward`.
        """
        _refuse_nothing(samples_BT, lengths_B)
        told_BK = torch.zeros(len(samples_BT), self.settings.classes, device=samples_BT.device)
        columns_B = torch.zeros(len(samples_BT), 1, device=samples_BT.device)
        for stretches, rows, _ in self._heard(samples_BT, lengths_B):
            for stretch, told_K in zip(stretches, self.logits(rows[-1]).float().sigmoid()):
                told_BK[stretch.clip] += told_K * stretch.columns
                columns_B[stretch.clip] += stretch.columns
        return told_BK / columns_B

    def logits(self, tokens_BND: Tensor) -> Tensor:
        """Return the styles' logits `[batch, classes]` from the last layer's tokens (cls and dist suffice)."""
        cls_BD, dist_BD = self.vit.norm(tokens_BND[:, :EXTRA]).unbind(1)
        return self.head(cls_BD if self.settings.distilled == "separated" else (cls_BD + dist_BD) / 2)

    def normalised(self, mel_BFM: Tensor) -> Tensor:
        """Return log-mel values as the network hears them."""
        return (mel_BFM - self.settings.mean) / (2 * self.settings.deviation)

    def _columns(self, samples: int) -> int:
        shape = self.settings.shape
        return shape.time_patches(max(self.framing.frames(samples), shape.patch))

    def _heard(
        self, samples_BT: Tensor, lengths_B: Tensor | None
    ) -> Iterator[tuple[list[Stretch], list[Tensor], Tensor]]:
        """Yield block after block: windows, their tokens of every layer, and which columns were kept."""
        shape = self.settings.shape
        mels = self._mels(samples_BT, lengths_B)
        stretches = [
            Stretch(clip, first, after - first)
            for clip, mel_FM in enumerate(mels)
            for first, after in _equal_parts(shape.time_patches(len(mel_FM)), shape.columns)
        ]
        for block in self._blocks(stretches):
            parts = [
                mels[part.clip][part.first * shape.stride :][: (part.columns - 1) * shape.stride + shape.patch]
                for part in block
            ]
            kept_C = self._kept_columns(max(part.columns for part in block))
            lengths_W = torch.tensor([len(part) for part in parts])
            yield block, self.vit(pad_sequence(parts, batch_first=True), lengths_W, kept_C, 0, self._kept_rows), kept_C

    def _blocks(self, stretches: list[Stretch]) -> Iterator[list[Stretch]]:
        """Yield windows that are heard at once, in their order."""
        shape, kept_R = self.settings.shape, self._kept_rows
        first = int(self._kept_columns(shape.columns)[0])
        # Windows that end before the first kept column keep their last, which is another one for each length.
        for _, alike in groupby(stretches, lambda part: min(part.columns, first + 1)):
            windows = list(alike)
            longest = max(part.columns for part in windows)
            rows = shape.rows if kept_R is None else len(kept_R)
            tokens = rows * len(self._kept_columns(longest)) + EXTRA
            size = max(min(BLOCK_TOKENS // tokens, BLOCK_PATCHES // (shape.rows * longest)), 1)
            yield from (windows[begin : begin + size] for begin in range(0, len(windows), size))

    def _mels(self, samples_BT: Tensor, lengths_B: Tensor | None) -> list[Tensor]:
        """Return each clip's normalised spectrogram `[F, M]`, of a patch at least."""
        least = self.settings.shape.patch * HOP
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            clips = [samples_BT]
        else:  # each by itself, because some framings reflect a clip at its end
            clips = [samples_T[None, :length] for samples_T, length in zip(samples_BT, lengths_B.tolist())]
        filled = [nn.functional.pad(clip, (0, max(least - clip.shape[1], 0))) for clip in clips]
        return [mel_FM for clip in filled for mel_FM in self.normalised(self.mel(clip))]

    @property
    def _kept_rows(self) -> Tensor | None:
        settings = self.settings
        kept = _kept(settings.shape.rows, settings.drop_rows, settings.every_row)
        return None if len(kept) == settings.shape.rows else kept

    def _kept_columns(self, columns: int) -> Tensor:
        kept_C = _kept(columns, self.settings.drop_columns, self.settings.every_column)
        return kept_C if len(kept_C) else torch.tensor([columns - 1])

    def _pooled(self, x_WND: Tensor, kept_C: Tensor, counts_W: Tensor) -> Tensor:
        """Return one layer's features of some windows, `[windows, frames, width]`."""
        tokens = self.settings.tokens
        if tokens in ("cls", "dist"):
            return x_WND[:, ["cls", "dist"].index(tokens)][:, None]
        kept_C = kept_C.to(x_WND.device)
        columns_WCD = x_WND[:, EXTRA:].unflatten(1, (-1, len(kept_C))).mean(1)
        if tokens == "frames":
            place_C = torch.arange(int(counts_W.max()), device=x_WND.device)
            return columns_WCD[:, (torch.searchsorted(kept_C, place_C, right=True) - 1).clamp(min=0)]
        own_WC1 = (kept_C < counts_W[:, None])[..., None]
        average_WD = columns_WCD.masked_fill(~own_WC1, 0).sum(1) / own_WC1.sum(1)
        if tokens == "average":
            return average_WD[:, None]
        return torch.cat([x_WND[:, 0], x_WND[:, 1], average_WD], -1)[:, None]


def _kept(count: int, dropped: tuple[int, ...], every: int) -> Tensor:
    return torch.tensor([place for place in range(count) if place not in set(dropped)][::every], dtype=torch.long)


def _refuse_nothing(samples_BT: Tensor, lengths_B: Tensor | None) -> None:
    if samples_BT.dim() != 2 or not len(samples_BT):
        shape = list(samples_BT.shape)
        raise UsageError(f"samples of shape {shape}; give [clips, samples], one clip at least and each in mono")
    if not samples_BT.shape[1] or (lengths_B is not None and bool((lengths_B < 1).any())):
        raise UsageError("a clip of no samples has no features; leave empty clips out")


def _equal_parts(total: int, most: int) -> list[tuple[int, int]]:
    parts = math.ceil(total / most)
    ends = [total * part // parts for part in range(parts + 1)]
    return list(pairwise(ends))
