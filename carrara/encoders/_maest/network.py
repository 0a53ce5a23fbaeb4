"""The network of MAEST: log-mel patches through a Transformer, heads that predict styles, and a clip's features.

With `tokens: frames` it is a student of masked prediction (_frame_encoder.py) too: a frame is a column of patches, the
front end's output its patches one after the other, a layer's output their mean. There is no patchout then, and no
vector in the place of masked columns: patches overlap, so it would hide less than it says.

Audio longer than the table of positions is processed in equal windows of one spectrogram, so that no window has edges
of its own; a clip's features are the mean over its columns of patches. Windows of all clips of a batch go through the
network in batches of bounded size. Padding is never attended to. See maest.py for the settings of the published
networks.

Letters: B clips, T samples, F frames, M bands, W windows, C columns of patches, N tokens, L layers counted with layer
0, D dimension, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import UsageError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder
from carrara.encoders._frame_encoder import FrameEncoder, FrameGrid
from carrara.encoders._maest.keys import HEADS
from carrara.encoders._windows import divide_equally
from carrara.nn.init import build_constants, init_weights
from carrara.nn.spectral.framing import framing_preset
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.vit import NUM_PREFIX_TOKENS, PatchTransformer, VitShape, init_linear_layers

SAMPLE_RATE, HOP = 16_000, 256
MAX_BATCH_TOKENS = 8192  # so that ten minutes need no more memory than a few windows
CPU_BATCH_TOKENS = 2048  # one window of 30 s, for the memory of a small machine
MAX_BATCH_PATCHES = 8 * MAX_BATCH_TOKENS  # the same before patchout, for the convolution


class MaestSettings(Settings):
    """The network's sizes, and which features it returns; the defaults are those for 30 s.

    Attributes:
        frames: mel frames of the training length; the table of positions has frames // 10 columns.
        dim, num_layers, num_heads, ffn_dim: sizes of the Transformer.
        classes: number of styles; 0 for a network without heads, of masked prediction.
        labels: names of the styles; empty where they are unknown.
        distilled: input of the styles' head: the mean of cls and dist, or cls alone where each has a head
            (`separated`).
        distillation_head: whether the network has the second head; Hugging Face's files have none.
        framing: framing of the spectrogram: that of training (essentia), or that of the authors' later code.
        mean, std: of log-mel values; the network's input is (x − mean) / (2 · std).
        tokens: which tokens a clip's features are (see maest.py).
        drop_rows, every_row, drop_columns, every_column: patchout at inference; a window too short to keep any column
            keeps its last.
    """

    frames: int = Field(default=1875, ge=16)
    dim: int = Field(default=768, ge=1)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    classes: int = Field(default=400, ge=0)
    labels: tuple[str, ...] = ()
    distilled: Literal["mean", "separated"] = "mean"
    distillation_head: bool = True
    framing: Literal["essentia", "maest-torch", "maest-hf"] = "essentia"
    mean: float = 2.06755686098554
    std: float = Field(default=1.268292820667291, gt=0)
    tokens: Literal["cls", "dist", "average", "stack", "frames"] = "stack"
    drop_rows: tuple[int, ...] = ()
    every_row: int = Field(default=1, ge=1)
    drop_columns: tuple[int, ...] = ()
    every_column: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> MaestSettings:
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by num_heads {self.num_heads}")
        if self.distilled == "separated" and not self.distillation_head:
            raise ValueError("distilled separated needs distillation_head")
        if self.labels and len(set(self.labels)) != self.classes:
            raise ValueError(f"labels must be {self.classes} different names, one a class; {len(set(self.labels))} are")
        shape = self.shape
        for name, dropped, limit, count in (
            ("drop_rows", self.drop_rows, shape.rows, shape.rows),
            ("drop_columns", self.drop_columns, shape.columns, shape.num_columns(self.frames)),
        ):
            outside = [index for index in dropped if not 0 <= index < limit]
            if outside:
                raise ValueError(f"{name}: there is no {outside[0]}, only 0 to {limit - 1}")
            if not set(range(count)) - set(dropped):
                raise ValueError(f"{name} would drop all {count}; keep one")
        return self

    @property
    def shape(self) -> VitShape:
        """The network's sizes."""
        return VitShape(
            frames=self.frames,
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
        )


def update_maest_card(card: Card, settings: MaestSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    per_frame = settings.tokens == "frames"
    return card.model_copy(
        update={
            "frame_rate": SAMPLE_RATE / HOP / settings.shape.stride if per_frame else None,
            "num_layers": settings.num_layers,
            "network": f"patch embedding, {settings.num_layers} Transformer layers",
            "dim": settings.dim * (3 if settings.tokens == "stack" else 1),
            "window_seconds": round(settings.frames * HOP / SAMPLE_RATE, 1),
        }
    )


@dataclass(frozen=True)
class _Window:
    """A window: index of its clip, its first column and its number of columns."""

    clip: int
    first: int
    columns: int


class MaestEncoder(FrameEncoder):
    """The encoder with its heads, with random weights of that seed (none under torch's meta device)."""

    settings: MaestSettings
    head_names = HEADS
    free_settings = frozenset(
        {"classes", "labels", "distilled", "distillation_head", "tokens"}
        | {"drop_rows", "every_row", "drop_columns", "every_column"}
    )

    def __init__(self, settings: MaestSettings, card: Card, seed: int = 0):
        super().__init__()
        self.settings, self.masked_spec_embed = settings, None
        with torch.device("meta"):
            self.vit = PatchTransformer(settings.shape)
            self.head: nn.Sequential | None = None
            self.head_dist: nn.Linear | None = None
            if settings.classes:
                self.head = nn.Sequential(nn.LayerNorm(settings.dim), nn.Linear(settings.dim, settings.classes))
            if settings.classes and settings.distillation_head:
                self.head_dist = nn.Linear(settings.dim, settings.classes)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = update_maest_card(card, settings).model_copy(update={"parameters": parameters})
        init_weights(self, self._initialize, seed)
        self.framing = framing_preset(settings.framing)
        bands = MelBands(settings.shape.bands)
        self.mel = build_constants(lambda: MelSpectrogram(SAMPLE_RATE, self.framing, bands, "log10"))

    def _initialize(self, generator: torch.Generator) -> None:
        self.vit.init_weights(generator)
        for head in (self.head, self.head_dist):
            if head is not None:
                init_linear_layers(head, generator)

    def num_frames(self, samples: int) -> int:
        """Return the number of frames of `samples` samples; 1 unless `tokens` is `frames`."""
        return self._num_columns(samples) if self.settings.tokens == "frames" else 1

    @property
    def grid(self) -> FrameGrid:
        """A frame is a column of patches, centred in the middle of its mel frames."""
        shape = self.settings.shape
        return FrameGrid(SAMPLE_RATE, HOP * shape.stride, HOP * (shape.patch - 1) // 2)

    @property
    def stack(self) -> PatchTransformer:
        """The patch Transformer."""
        return self.vit

    def conv_features(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the patches of each column one after the other, `[batch, columns, rows · dim]`; see the base class."""
        mel_BFM = pad_sequence(self._spectrograms(samples_BT, lengths_B), batch_first=True)
        return self.vit.embed(mel_BFM).permute(0, 3, 2, 1).flatten(2)

    def run_stack(
        self, x_BFD: Tensor, valid_BF: Tensor | None, keep: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Return the mean of each column's patches in every layer, `[batch, columns, dim]`; see the base class."""
        rows = self.settings.shape.rows

        def mean(x_BND: Tensor) -> Tensor:
            columns_BCD = x_BND[:, NUM_PREFIX_TOKENS:].unflatten(1, (rows, -1)).mean(1)
            return columns_BCD if keep is None else keep(columns_BCD)

        return self.vit.encode(x_BFD.unflatten(2, (rows, -1)).permute(0, 3, 2, 1), valid_BF, keep=mean)

    def predictor_input(self, last_BFD: Tensor) -> Tensor:
        """Return the normalized frames; the layers' own outputs are not normalized."""
        return self.vit.norm(last_BFD)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, num_layers + 1, frames, dim]` (see `Encoder.forward`).

        Raises:
            UsageError: there are no clips, a clip has no samples, or the samples are not `[clips, samples]`.
        """
        _check_samples(samples_BT, lengths_B)
        per_frame = self.settings.tokens == "frames"
        parts: list[list[Tensor]] = [[] for _ in samples_BT]
        for windows, layers in self._encode_windows(samples_BT, lengths_B, self._pool):
            pooled_WLFD = torch.stack(layers, 1)
            for window, pooled_LFD in zip(windows, pooled_WLFD):
                # The mean over a clip's columns is the mean over its windows weighted by their columns.
                part = pooled_LFD[:, : window.columns] if per_frame else pooled_LFD * window.columns
                parts[window.clip].append(part)
        if not per_frame:
            lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
            return torch.stack([sum(clip[1:], clip[0]) / self._num_columns(n) for clip, n in zip(parts, lengths)])
        features_BFLD = pad_sequence([torch.cat(clip, 1).transpose(0, 1) for clip in parts], batch_first=True)
        missing = self.num_frames(samples_BT.shape[1]) - features_BFLD.shape[1]
        return nn.functional.pad(features_BFLD, (0, 0, 0, 0, 0, missing)).transpose(1, 2)

    def mean_frames(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the mean over each clip's frames, of which there is one unless `tokens` is `frames`."""
        return Encoder.mean_frames(self, samples_BT, lengths_B)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that `forward_traceable` takes, a patch."""
        return self.settings.shape.patch * HOP

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, at least `min_samples`, by what a tracer follows.

        Raises:
            UsageError: the settings drop rows or columns.
        """
        settings, shape, device = self.settings, self.settings.shape, samples_BT.device
        if settings.drop_rows or settings.drop_columns or (settings.every_row, settings.every_column) != (1, 1):
            raise UsageError(
                f"{self.card.name}: its settings drop patches; use drop_rows=[], drop_columns=[], every_row=1 and "
                "every_column=1"
            )
        mel_BFM = self.normalize(self.mel(samples_BT))
        columns = (mel_BFM.shape[1] - shape.patch) // shape.stride + 1
        windows = divide_equally(columns, shape.columns, device)
        frame_F = torch.arange((windows.width - 1) * shape.stride + shape.patch, device=device)
        frame_NF = (windows.first_N[:, None] * shape.stride + frame_F).clamp(max=mel_BFM.shape[1] - 1)
        x_WDRC = self.vit.patch_embed["proj"](mel_BFM[:, frame_NF].flatten(0, 1).mT[:, None])
        column_C = torch.arange(windows.width, device=device)
        x_WDRC = x_WDRC + self.vit.freq_new_pos_embed + self.vit.time_new_pos_embed[..., column_C]
        valid_NC = column_C < windows.count_N[:, None]
        valid_WC = valid_NC.repeat(samples_BT.shape[0], 1)
        prefix_1ND = torch.cat([self.vit.cls_token, self.vit.dist_token], 1) + self.vit.new_pos_embed
        x_WND = torch.cat([prefix_1ND.expand(x_WDRC.shape[0], -1, -1), x_WDRC.flatten(2).mT], 1)
        valid_WN = nn.functional.pad(valid_WC.repeat(1, shape.rows), (NUM_PREFIX_TOKENS, 0), value=True)
        layers = [x_WND]
        for block in self.vit.blocks:
            layers.append(block(layers[-1], valid_WN))
        x_BNLND = torch.stack(layers, 1).unflatten(0, (samples_BT.shape[0], -1))
        average_BNLCD = x_BNLND[..., NUM_PREFIX_TOKENS:, :].unflatten(3, (shape.rows, -1)).mean(3)
        if settings.tokens == "frames":
            inside_C = torch.arange(columns, device=device) - windows.first_N[windows.window_C]
            return average_BNLCD.transpose(2, 3)[:, windows.window_C, inside_C].transpose(1, 2)
        average_BNLD = average_BNLCD.masked_fill(~valid_NC[:, None, :, None], 0).sum(3)
        average_BNLD = average_BNLD / windows.count_N[:, None, None]
        parts = {"cls": x_BNLND[..., 0, :], "dist": x_BNLND[..., 1, :], "average": average_BNLD}
        pooled_BNLD = torch.cat(list(parts.values()), -1) if settings.tokens == "stack" else parts[settings.tokens]
        # The mean over a clip's columns is the mean over its windows weighted by their columns.
        return (pooled_BNLD * windows.count_N[:, None, None]).sum(1)[:, :, None] / columns

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The labels, or the styles' numbers where they are unknown."""
        return self.settings.labels or tuple(f"style {index}" for index in range(self.settings.classes))

    def predict_tags(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the probability of each style in each clip, `[batch, classes]`: the mean over windows by their length.

        Raises:
            UsageError: as `forward`.
        """
        _check_samples(samples_BT, lengths_B)
        sums_BK = torch.zeros(len(samples_BT), self.settings.classes, device=samples_BT.device)
        columns_B1 = torch.zeros(len(samples_BT), 1, device=samples_BT.device)
        for windows, layers in self._encode_windows(
            samples_BT, lengths_B, lambda x_WND, kept_C, columns_W: x_WND[:, :NUM_PREFIX_TOKENS].clone()
        ):
            for window, probabilities_K in zip(windows, self.logits(layers[-1]).float().sigmoid()):
                sums_BK[window.clip] += probabilities_K * window.columns
                columns_B1[window.clip] += window.columns
        return sums_BK / columns_B1

    def logits(self, tokens_BND: Tensor) -> Tensor:
        """Return the styles' logits `[batch, classes]` from the last layer's tokens (cls and dist suffice).

        Raises:
            UsageError: the network has no head.
        """
        if self.head is None:
            raise UsageError(f"{self.card.name}: has no head for tags; train one with `carrara pretrain maest-10s`")
        cls_BD, dist_BD = self.vit.norm(tokens_BND[:, :NUM_PREFIX_TOKENS]).unbind(1)
        return self.head(cls_BD if self.settings.distilled == "separated" else (cls_BD + dist_BD) / 2)

    def normalize(self, mel_BFM: Tensor) -> Tensor:
        """Return normalized log-mel values, the network's input."""
        return (mel_BFM - self.settings.mean) / (2 * self.settings.std)

    def _num_columns(self, samples: int) -> int:
        shape = self.settings.shape
        return shape.num_columns(max(self.framing.num_frames(samples), shape.patch))

    def _encode_windows(
        self, samples_BT: Tensor, lengths_B: Tensor | None, pool: Callable[..., Tensor]
    ) -> Iterator[tuple[list[_Window], list[Tensor]]]:
        """Yield batches of windows, with what `pool` makes of the tokens of every layer.

        Its arguments are the tokens, the indices of the kept columns, and the columns of each window.
        """
        settings, shape = self.settings, self.settings.shape
        rows_R = _keep_indices(shape.rows, settings.drop_rows, settings.every_row)
        keep_rows = None if len(rows_R) == shape.rows else rows_R
        mels = self._spectrograms(samples_BT, lengths_B)
        windows = []
        for clip, mel_FM in enumerate(mels):
            columns = shape.num_columns(len(mel_FM))
            count = math.ceil(columns / shape.columns)
            bounds = pairwise(columns * index // count for index in range(count + 1))
            windows += [_Window(clip, start, end - start) for start, end in bounds]
        first_kept = int(self._kept_columns(shape.columns)[0])
        # Windows that end before the first kept column keep their last, which depends on their length.
        for _, group in groupby(windows, lambda window: min(window.columns, first_kept + 1)):
            similar = list(group)
            longest = max(window.columns for window in similar)
            tokens = len(rows_R) * len(self._kept_columns(longest)) + NUM_PREFIX_TOKENS
            limit = CPU_BATCH_TOKENS if samples_BT.device.type == "cpu" else MAX_BATCH_TOKENS
            size = max(min(limit // tokens, MAX_BATCH_PATCHES // (shape.rows * longest)), 1)
            for start in range(0, len(similar), size):
                batch = similar[start : start + size]
                inputs = []
                for window in batch:
                    first, frames = window.first * shape.stride, (window.columns - 1) * shape.stride + shape.patch
                    inputs.append(mels[window.clip][first : first + frames])
                lengths_W = torch.tensor([len(mel_FM) for mel_FM in inputs])
                kept_C = self._kept_columns(max(window.columns for window in batch))
                columns_W = torch.tensor([window.columns for window in batch], device=samples_BT.device)
                keep = partial(pool, kept_C=kept_C, columns_W=columns_W)
                yield batch, self.vit(pad_sequence(inputs, batch_first=True), lengths_W, kept_C, 0, keep_rows, keep)

    def _spectrograms(self, samples_BT: Tensor, lengths_B: Tensor | None) -> list[Tensor]:
        """Return each clip's normalized spectrogram `[F, M]`, of a patch at least."""
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            clips = [samples_BT]
        else:  # each by itself, because some framings reflect a clip at its end
            clips = [samples_T[None, :length] for samples_T, length in zip(samples_BT, lengths_B.tolist())]
        shortest = self.settings.shape.patch * HOP
        padded = [nn.functional.pad(clip, (0, max(shortest - clip.shape[1], 0))) for clip in clips]
        return [mel_FM for clip in padded for mel_FM in self.normalize(self.mel(clip))]

    def _kept_columns(self, columns: int) -> Tensor:
        kept_C = _keep_indices(columns, self.settings.drop_columns, self.settings.every_column)
        return kept_C if len(kept_C) else torch.tensor([columns - 1])

    def _pool(self, x_WND: Tensor, kept_C: Tensor, columns_W: Tensor) -> Tensor:
        """Return one layer's features of some windows, `[windows, frames, dim]`."""
        tokens = self.settings.tokens
        if tokens in ("cls", "dist"):
            return x_WND[:, ["cls", "dist"].index(tokens)][:, None]
        kept_C = kept_C.to(x_WND.device)
        columns_WCD = x_WND[:, NUM_PREFIX_TOKENS:].unflatten(1, (-1, len(kept_C))).mean(1)
        if tokens == "frames":
            # A dropped column repeats the kept one before it.
            column_C = torch.arange(int(columns_W.max()), device=x_WND.device)
            return columns_WCD[:, (torch.searchsorted(kept_C, column_C, right=True) - 1).clamp(min=0)]
        valid_WC1 = (kept_C < columns_W[:, None])[..., None]
        average_WD = columns_WCD.masked_fill(~valid_WC1, 0).sum(1) / valid_WC1.sum(1)
        if tokens == "average":
            return average_WD[:, None]
        return torch.cat([x_WND[:, 0], x_WND[:, 1], average_WD], -1)[:, None]


def _keep_indices(count: int, dropped: tuple[int, ...], every: int) -> Tensor:
    return torch.tensor([index for index in range(count) if index not in set(dropped)][::every], dtype=torch.long)


def _check_samples(samples_BT: Tensor, lengths_B: Tensor | None) -> None:
    if samples_BT.dim() != 2 or not len(samples_BT):
        shape = list(samples_BT.shape)
        raise UsageError(f"samples of shape {shape}; give [clips, samples], one clip at least and each in mono")
    if not samples_BT.shape[1] or (lengths_B is not None and bool((lengths_B < 1).any())):
        raise UsageError("a clip of no samples has no features; leave empty clips out")
