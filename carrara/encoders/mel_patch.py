"""A patch Transformer over a mel spectrogram, trained by joint embedding: the encoder of M2D and of JEPA for audio.

ViT-B as in [niizumi2023]: 16 kHz, 80 mel bands of 50 to 8,000 Hz every 10 ms (window 25 ms), natural logarithm, mean 0
and variance 1 over the corpus; patches of 16 × 16 without overlap, so that no patch shows a part of another; pre-norm
layers. A crop of 6.08 s has 38 columns of 5 patches. Positions are fixed sinusoids of column and row [he2022].

Features are one vector for each column of patches, 6.25 a second: the 5 patches of a column concatenated, from low to
high frequency, as M2D does for its evaluations, or their mean (`frequency`). Layers: 0 is the input to layer 1, i the
output of layer i, the last after the final norm. Longer audio is encoded in equal windows of at most the training's
length; shorter is not padded beyond the last column. There is no cls token, which M2D's evaluations do not use.

No weights are published in this format: train them with `carrara pretrain m2d`. The authors' own weights are under a
licence for evaluation only and are not read.

Letters: B batch, T samples, F frames, M mel bands, R rows and C columns of patches, N = C · R patches, P values of a
patch, K chosen patches, L layers counted with layer 0, D dim.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from carrara.core.errors import UsageError
from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.encoders._windows import divide_equally
from carrara.nn.init import build_constants, init_weights
from carrara.nn.recompute import forward_and_recompute
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram
from carrara.nn.transformer.vit import EPS, VitBlock, VitShape

VARIANTS = {
    "mel-patch": "patch Transformer for M2D and JEPA, 85M, 16 kHz, mel; weights are yours to train",
    "mel-patch-tiny": "the same network made small, for laptops and CI; weights are yours to train",
}
PAPER = "Niizumi et al. 2023, Masked Modeling Duo, ICASSP, https://arxiv.org/abs/2210.14648"
SAMPLE_RATE = 16_000
POSITION_BASE = 10_000.0
MAX_BATCH_PATCHES = 8192  # so that ten minutes need no more memory than a few windows


class MelPatchSettings(Settings):
    """The network's sizes; the defaults are M2D's.

    Attributes:
        window, hop: of the spectrogram, in samples.
        num_bands, min_hz, max_hz: of the mel filter bank.
        mel_mean, mel_std: of the logarithms, before the weights or the corpus give better ones.
        patch: side of a patch, in frames and bands.
        columns: columns of patches of a crop in training, the most that are encoded together.
        dim, num_layers, num_heads, ffn_dim: sizes of the Transformer.
        frequency: whether the patches of a column are concatenated or averaged.
    """

    window: int = Field(default=400, ge=1)
    hop: int = Field(default=160, ge=1)
    num_bands: int = Field(default=80, ge=1)
    min_hz: float = Field(default=50.0, ge=0)
    max_hz: float = Field(default=8000.0, gt=0)
    mel_mean: float = -7.0
    mel_std: float = Field(default=4.5, gt=0)
    patch: int = Field(default=16, ge=1)
    columns: int = Field(default=38, ge=1)
    dim: int = Field(default=768, ge=4)
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    ffn_dim: int = Field(default=3072, ge=1)
    frequency: Literal["concatenate", "mean"] = "concatenate"

    @model_validator(mode="after")
    def _check(self) -> MelPatchSettings:
        if self.dim % 4 or self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be divisible by 4 (sinusoids) and by num_heads {self.num_heads}")
        if self.num_bands % self.patch:
            raise ValueError(f"num_bands {self.num_bands} must be divisible by patch {self.patch}")
        return self

    @property
    def rows(self) -> int:
        """Rows of patches."""
        return self.num_bands // self.patch

    @property
    def crop_seconds(self) -> float:
        """Duration of `columns` columns."""
        return self.columns * self.patch * self.hop / SAMPLE_RATE


def _update_card(card: Card, settings: MelPatchSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    return card.model_copy(
        update={
            "frame_rate": SAMPLE_RATE / settings.hop / settings.patch,
            "num_layers": settings.num_layers,
            "input": "log-mel",
            "network": f"patch embedding, {settings.num_layers} Transformer layers",
            "dim": settings.dim * (settings.rows if settings.frequency == "concatenate" else 1),
            "window_seconds": settings.crop_seconds,
        }
    )


def sinusoidal_positions(columns: int, rows: int, dim: int, device: torch.device) -> Tensor:
    """Return fixed positions `[columns · rows, dim]`, column by column.

    The first half of the channels depends on the column, the second on the row; each half holds sines, then cosines, of
    frequencies that fall geometrically from 1 to 1/10,000 [he2022].
    """
    # On the CPU, because not every device has double precision.
    rate_E = POSITION_BASE ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    halves = []
    for count in (columns, rows):
        angle_NE = torch.arange(count, dtype=torch.float64)[:, None] * rate_E
        halves.append(torch.cat([angle_NE.sin(), angle_NE.cos()], dim=1).float().to(device))
    column_CE, row_RE = halves
    return torch.cat([column_CE.repeat_interleave(rows, 0), row_RE.repeat(columns, 1)], dim=1)


def gather_patches(x_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Return the chosen patches of each clip, `[B, K, D]`."""
    return x_BND.gather(1, index_BK[..., None].expand(-1, -1, x_BND.shape[2]))


@torch.no_grad()
def init_xavier(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear weights of a module as Xavier, with zero biases, and reset its norms [he2022]."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()


class MelPatchEncoder(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device).

    Attributes:
        activation_checkpointing: whether, in training, the activations inside a layer are recomputed in the backward
            pass instead of being kept; the same result in less memory.
    """

    settings: MelPatchSettings
    free_settings = frozenset({"columns", "mel_mean", "mel_std", "frequency"})
    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, settings: MelPatchSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.activation_checkpointing = settings, False
        shape = VitShape(
            settings.columns * settings.patch,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            ffn_dim=settings.ffn_dim,
        )
        with torch.device("meta"):
            self.patch_embed = nn.Linear(settings.patch**2, settings.dim)
            self.blocks = nn.ModuleList(VitBlock(shape) for _ in range(settings.num_layers))
            self.norm = nn.LayerNorm(settings.dim, eps=EPS)
            self.register_buffer("mel_mean", torch.empty(()))
            self.register_buffer("mel_std", torch.empty(()))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = _update_card(card, settings).model_copy(update={"parameters": parameters})
        init_weights(self, self._initialize, seed)
        self.framing = Framing(settings.window, settings.hop, settings.window, keep_last=False)
        bands = MelBands(settings.num_bands, settings.min_hz, settings.max_hz)
        self.mel = build_constants(lambda: MelSpectrogram(SAMPLE_RATE, self.framing, bands, "ln"))

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        init_xavier(self, generator)
        self.mel_mean.fill_(self.settings.mel_mean)
        self.mel_std.fill_(self.settings.mel_std)

    def num_frames(self, samples: int) -> int:
        """Return the columns of patches of `samples` samples; the last may be a part of one."""
        return math.ceil(self.framing.num_frames(samples) / self.settings.patch)

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, num_layers + 1, columns, dim]` (see `Encoder.forward`).

        Raises:
            UsageError: a clip has no samples.
        """
        settings = self.settings
        lengths = [samples_BT.shape[1]] * len(samples_BT) if lengths_B is None else lengths_B.tolist()
        patches_BCRP = self.patches(samples_BT, lengths_B).unflatten(1, (-1, settings.rows))
        windows: list[tuple[int, int, int]] = []
        for clip, samples in enumerate(lengths):
            columns = self.num_frames(samples)
            count = math.ceil(columns / settings.columns)
            edges = [columns * index // count for index in range(count + 1)]
            windows += [(clip, first, end) for first, end in pairwise(edges)]
        features_BLCD = samples_BT.new_zeros(
            len(samples_BT), settings.num_layers + 1, patches_BCRP.shape[1], self.card.dim, dtype=torch.float32
        )
        size = max(MAX_BATCH_PATCHES // (settings.rows * min(settings.columns, patches_BCRP.shape[1])), 1)
        for start in range(0, len(windows), size):
            group = windows[start : start + size]
            inputs_WCRP = pad_sequence([patches_BCRP[clip, first:end] for clip, first, end in group], batch_first=True)
            columns_W = torch.tensor([end - first for _, first, end in group], device=samples_BT.device)
            valid_WC = torch.arange(inputs_WCRP.shape[1], device=samples_BT.device) < columns_W[:, None]
            valid_WN = None if bool(valid_WC.all()) else valid_WC.repeat_interleave(settings.rows, 1)
            layers = self.encode(inputs_WCRP.flatten(1, 2), valid_BN=valid_WN)
            for (clip, first, end), layers_LND in zip(group, torch.stack(layers, 1)):
                layers_LCRD = layers_LND.unflatten(1, (-1, settings.rows))[:, : end - first].float()
                column_LCD = layers_LCRD.flatten(2) if settings.frequency == "concatenate" else layers_LCRD.mean(dim=2)
                features_BLCD[clip, :, first:end] = column_LCD
        return features_BLCD

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, by operations that a tracer follows."""
        settings = self.settings
        mel_BFM = self.log_mel(samples_BT)
        silence_1FM = self.log_mel(samples_BT.new_zeros(1, settings.window))[:, :1]
        columns = (mel_BFM.shape[1] + settings.patch - 1) // settings.patch
        missing_BFM = silence_1FM.expand(mel_BFM.shape[0], settings.patch - 1, -1)
        normal_BFM = (torch.cat([mel_BFM, missing_BFM], dim=1) - self.mel_mean) / self.mel_std
        windows = divide_equally(columns, settings.columns, samples_BT.device)
        column_NC = windows.first_N[:, None] + torch.arange(windows.width, device=samples_BT.device)
        frame_NCp = column_NC.clamp(max=columns - 1)[..., None] * settings.patch
        frame_NCp = frame_NCp + torch.arange(settings.patch, device=samples_BT.device)
        patches_BNCpRp = normal_BFM[:, frame_NCp].unflatten(-1, (settings.rows, settings.patch))
        patches_WNP = patches_BNCpRp.transpose(3, 4).flatten(4).flatten(2, 3).flatten(0, 1)
        valid_NC = column_NC < (windows.first_N + windows.count_N)[:, None]
        valid_WN = valid_NC.repeat_interleave(settings.rows, 1).repeat(samples_BT.shape[0], 1)
        layers_WLND = torch.stack(self.encode(patches_WNP, valid_BN=valid_WN), 1)
        rows_BNLCRD = layers_WLND.unflatten(2, (-1, settings.rows)).unflatten(0, (samples_BT.shape[0], -1))
        columns_BNLCD = rows_BNLCRD.flatten(4) if settings.frequency == "concatenate" else rows_BNLCRD.mean(dim=4)
        inside_C = torch.arange(columns, device=samples_BT.device) - windows.first_N[windows.window_C]
        return columns_BNLCD.transpose(2, 3)[:, windows.window_C, inside_C].transpose(1, 2)

    def log_mel(self, samples_BT: Tensor) -> Tensor:
        """Return the logarithms of the mel bands, before normalization, `[B, F, M]`."""
        return self.mel(samples_BT)

    @torch.no_grad()
    def patches(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the values of the normalized patches, `[B, N, P]`, column by column, each from low to high frequency.

        Args:
            samples_BT: crops.
            lengths_B: as in `forward`; patches after a clip's own are those of silence.

        Raises:
            UsageError: a clip has no samples.
        """
        settings = self.settings
        if not samples_BT.shape[1] or (lengths_B is not None and bool((lengths_B < 1).any())):
            raise UsageError("a clip of no samples has no features; leave empty clips out")
        if lengths_B is not None:
            lengths_B = lengths_B.to(samples_BT.device)
            inside_BT = torch.arange(samples_BT.shape[1], device=samples_BT.device) < lengths_B[:, None]
            samples_BT = samples_BT.masked_fill(~inside_BT, 0)
        mel_BFM = self.log_mel(samples_BT)
        silence = self.log_mel(samples_BT.new_zeros(1, settings.window))[0, 0, 0]
        if lengths_B is not None:
            # A frame past a clip's end may still see its last samples, which it would not alone.
            frames_B = torch.tensor([self.framing.num_frames(length) for length in lengths_B.tolist()])
            own_BF = torch.arange(mel_BFM.shape[1]) < frames_B[:, None]
            mel_BFM = torch.where(own_BF[..., None].to(mel_BFM.device), mel_BFM, silence)
        missing = -mel_BFM.shape[1] % settings.patch
        if missing:
            mel_BFM = torch.cat([mel_BFM, silence.expand(len(mel_BFM), missing, settings.num_bands)], dim=1)
        normal_BFM = (mel_BFM - self.mel_mean) / self.mel_std
        patches_BCRpp = normal_BFM.unfold(1, settings.patch, settings.patch).unfold(2, settings.patch, settings.patch)
        return patches_BCRpp.flatten(3).flatten(1, 2)

    def encode(
        self, patches_BNP: Tensor, index_BK: Tensor | None = None, valid_BN: Tensor | None = None
    ) -> list[Tensor]:
        """Return num_layers + 1 tensors `[B, K, D]`, the last after the final norm.

        Args:
            patches_BNP: from `patches`.
            index_BK: the patches of each clip that the network sees; None means all.
            valid_BN: which patches may be attended to, where all are given; None means all.
        """
        rows, dim = self.settings.rows, self.settings.dim
        positions_ND = sinusoidal_positions(patches_BNP.shape[1] // rows, rows, dim, patches_BNP.device)
        chosen_BKP = patches_BNP if index_BK is None else gather_patches(patches_BNP, index_BK)
        x_BKD = self.patch_embed(chosen_BKP) + (positions_ND if index_BK is None else positions_ND[index_BK])
        outputs = [x_BKD]
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x_BKD = forward_and_recompute(block, x_BKD, valid_BN) if recompute else block(x_BKD, valid_BN)
            outputs.append(x_BKD)
        outputs[-1] = self.norm(x_BKD)
        return outputs


def _variant(name: str, settings: MelPatchSettings, parameters: int) -> tuple[Card, MelPatchSettings]:
    facts: dict[str, Any] = {"parameters": parameters, "license": "no published weights", "paper": PAPER}
    card = Card(name=name, sample_rate=SAMPLE_RATE, frame_rate=None, num_layers=0, dim=1, **facts)
    return _update_card(card, settings), settings


ENCODER = EncoderFamily(
    settings=MelPatchSettings,
    build=MelPatchEncoder,
    variants={
        "mel-patch": _variant("mel-patch", MelPatchSettings(), 85_253_376),
        "mel-patch-tiny": _variant(
            "mel-patch-tiny", MelPatchSettings(dim=128, num_layers=4, num_heads=4, ffn_dim=512), 826_240
        ),
    },
    update_card=_update_card,
)
