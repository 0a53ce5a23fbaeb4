"""A small Transformer on several spectra at once, for training within minutes on a CPU: `cqt-mel`, our own.

Every 20 ms: decibels of a CQT (24 bins an octave from C1, 8.5 octaves), decibels of 64 mel bands of a short window, and
chroma folded from the CQT; and the absolute change of each since the frame before, as onset detectors have it
[boeck2012]. A mean over time, which is what probes see, thus knows how much a spectrum changes and not only its mean.
Decibels count from the clip's loudest bin, so gain does not matter, and end 80 dB below it. Two frames are averaged,
standardised by the mean and standard deviation of each value over the corpus (chroma, of which there are few, is three
times as large), and projected by a map that starts as a random orthogonal one, which keeps distances. Layers add to
that (pre-norm residual layers without a norm after the stack).

Layer 0 is not quite the input to layer 1: it is the same projection of the same values with the chroma four times
larger still, a view for tasks of keys and chords, in which a probe finds little but chroma (docs/diary.md).

A layer: attention over half as many features as the hidden units, then a depthwise convolution over time with a
feed-forward network. There is no position but that of the convolutions.

Weights are yours to train (`carrara pretrain contrastive`); docs/contrastive.md.

Letters: B batch, T samples, F frames of the spectra, G output frames (every second), M values of a frame, L layers
counted with layer 0, D dimension, K queries, keys and values, H heads, E features of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from carrara.core.settings import Settings
from carrara.encoders._base import Card, Encoder, EncoderFamily
from carrara.nn.init import build_constants, init_weights
from carrara.nn.recompute import forward_and_recompute
from carrara.nn.spectral.chroma import C1, fold_to_chroma
from carrara.nn.spectral.cqt import CQT
from carrara.nn.spectral.cqt_target import compute_bin_statistics
from carrara.nn.spectral.framing import Framing
from carrara.nn.spectral.mel import MelBands, MelSpectrogram

VARIANTS = {
    "cqt-mel-tiny": "Transformer on CQT, mel and chroma, 1.1M, 24 kHz, for laptops; weights are yours to train",
    "cqt-mel-small": "the same network of 19M, for a night on a GPU; weights are yours to train",
}
SAMPLE_RATE, HOP, STRIDE = 24_000, 480, 2
BINS, BINS_PER_OCTAVE, CHROMA_BINS = 204, 24, 168
MEL_FFT, MEL_BANDS, CHROMA = 1024, 64, 12
RANGE_DB, MIN_AMPLITUDE = 80.0, 1e-5
MIN_STD = 1e-3
STATIC = BINS + MEL_BANDS + CHROMA
VALUES = STATIC + BINS // 2 + MEL_BANDS + CHROMA
EPS = 1e-5
OUTPUT_VERSION = 2  # of 1 the CQT was in single precision


class CqtMelSettings(Settings):
    """The network's sizes.

    Attributes:
        dim, num_layers, num_heads: of the layers.
        hidden: units of a layer's feed-forward network; attention has half as many features.
        kernel: frames of the convolution over time, odd.
        chroma_weight: factor of the standardised chroma in the input to layer 1.
        view_chroma_weight: the same in layer 0.
    """

    dim: int = Field(default=384, ge=1)
    num_layers: int = Field(default=3, ge=1)
    num_heads: int = Field(default=4, ge=1)
    hidden: int = Field(default=192, ge=2)
    kernel: int = Field(default=9, ge=1)
    chroma_weight: float = Field(default=3.0, gt=0)
    view_chroma_weight: float = Field(default=12.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> CqtMelSettings:
        if self.hidden % (2 * self.num_heads):
            raise ValueError(f"hidden {self.hidden} must be divisible by twice num_heads {self.num_heads}")
        if not self.kernel % 2:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self


class _Spectra(nn.Module):
    """Samples `[B, T]` of whole clips to the values of every output frame, `[B, G, M]`, before standardisation."""

    def __init__(self) -> None:
        super().__init__()
        self.framing = Framing(MEL_FFT, HOP, MEL_FFT, padding="reflect", keep_last=False)
        self.mel = MelSpectrogram(SAMPLE_RATE, self.framing, MelBands(MEL_BANDS, scale="htk", norm="none"), "db")
        # In double precision, because chroma divides each frame by its maximum: in a frame of silence the rounding of
        # louder ones, which depends on the number of threads, would count as much as a chord.
        self.cqt = CQT(SAMPLE_RATE, HOP, BINS, BINS_PER_OCTAVE, double_long=True)

    def forward(self, samples_BT: Tensor) -> Tensor:
        mel_BFM = self.mel(samples_BT)
        cqt_BFM = self.cqt(samples_BT)[:, : mel_BFM.shape[1]]
        chroma_BFC = fold_to_chroma(cqt_BFM[..., :CHROMA_BINS], BINS_PER_OCTAVE, CHROMA, C1)
        cqt_BFM = _below_peak(20 * cqt_BFM.clamp(min=MIN_AMPLITUDE).log10())
        mel_BFM = _below_peak(mel_BFM)
        coarse_BFM = torch.cat([cqt_BFM.unflatten(-1, (-1, 2)).mean(-1), mel_BFM, chroma_BFC], -1)
        change_BFM = functional.pad(coarse_BFM.diff(dim=1), (0, 0, 1, 0)).abs()
        values_BFM = torch.cat([cqt_BFM, mel_BFM, chroma_BFC, change_BFM], -1)
        frames = values_BFM.shape[1] // STRIDE * STRIDE
        return values_BFM[:, :frames].unflatten(1, (-1, STRIDE)).mean(2)


def _below_peak(decibels_BFM: Tensor) -> Tensor:
    """Return decibels relative to each clip's loudest value, at least -80, over 20."""
    return (decibels_BFM - decibels_BFM.amax((1, 2), keepdim=True)).clamp(min=-RANGE_DB) / 20


class _Layer(nn.Module):
    """Attention, then a convolution over time with a feed-forward network; both after a norm and added."""

    def __init__(self, settings: CqtMelSettings) -> None:
        super().__init__()
        dim, hidden = settings.dim, settings.hidden
        self.num_heads = settings.num_heads
        self.attention_norm = nn.LayerNorm(dim, eps=EPS)
        self.qkv = nn.Linear(dim, 3 * (hidden // 2))
        self.attention_out = nn.Linear(hidden // 2, dim)
        self.conv_norm = nn.LayerNorm(dim, eps=EPS)
        self.conv = nn.Conv1d(dim, dim, settings.kernel, padding=settings.kernel // 2, groups=dim)
        self.ffn_in = nn.Linear(dim, hidden)
        self.ffn_out = nn.Linear(hidden, dim)

    def forward(self, x_BGD: Tensor, valid_BG: Tensor | None = None) -> Tensor:
        """Return `[B, G, D]`; frames where `valid_BG` is false are not attended to and count as zeros."""
        qkv_BGKHE = self.qkv(self.attention_norm(x_BGD)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv_BGKHE.transpose(1, 3).unbind(2)
        mask = None if valid_BG is None else valid_BG[:, None, None]
        attended = functional.scaled_dot_product_attention(query, key, value, mask)
        x_BGD = x_BGD + self.attention_out(attended.transpose(1, 2).flatten(2))
        normal_BGD = self.conv_norm(x_BGD)
        if valid_BG is not None:
            normal_BGD = normal_BGD.masked_fill(~valid_BG[..., None], 0)
        return x_BGD + self.ffn_out(functional.gelu(self.ffn_in(self.conv(normal_BGD.mT).mT)))


class CqtMelEncoder(Encoder):
    """The encoder, with random weights of that seed (none under torch's meta device).

    Attributes:
        activation_checkpointing: whether, in training, the activations inside a layer are recomputed in the backward
            pass instead of being kept; the same result in less memory.
    """

    settings: CqtMelSettings
    values_mean: Tensor
    values_std: Tensor

    def __init__(self, settings: CqtMelSettings, card: Card, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.activation_checkpointing = settings, False
        with torch.device("meta"):
            self.project = nn.Linear(VALUES, settings.dim, bias=False)
            self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.num_layers))
            self.register_buffer("values_mean", torch.empty(VALUES))
            self.register_buffer("values_std", torch.empty(VALUES))
        parameters = sum(parameter.numel() for parameter in self.parameters())
        self.card = _update_card(card, settings).model_copy(update={"parameters": parameters})
        init_weights(self, self._initialize, seed)
        self.spectra = build_constants(_Spectra)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for name, parameter in self.layers.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            else:
                bound = parameter.shape[1:].numel() ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
        for name, parameter in self.layers.named_parameters():
            if name.endswith("ffn_out.weight"):
                parameter.normal_(0, 0.04, generator=generator)
        nn.init.orthogonal_(self.project.weight, generator=generator)
        # Pebble's, until the corpus gives better ones: dB below the peak over 20, chroma, changes of both.
        for values, static, chroma, change, chroma_change in (
            (self.values_mean, -2.3, 0.39, 0.17, 0.04),
            (self.values_std, 0.67, 0.27, 0.18, 0.04),
        ):
            values.fill_(static)
            values[BINS + MEL_BANDS : STATIC] = chroma
            values[STATIC:] = change
            values[-CHROMA:] = chroma_change

    def num_frames(self, samples: int) -> int:
        """Return the number of frames: one for each whole 960 samples (at least 1)."""
        return max(self.spectra.framing.num_frames(samples) // STRIDE, 1)

    def input_statistics(self, batches: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return mean and standard deviation of each value over crops `[B, T]`, as buffers by name."""
        statistics = compute_bin_statistics(self.spectra(samples_BT) for samples_BT in batches)
        return {"values_mean": statistics.mean_M, "values_std": statistics.std_M.clamp(min=MIN_STD)}

    @torch.no_grad()
    def values(self, samples_BT: Tensor) -> Tensor:
        """Return the standardised spectra of whole clips, the input of the projection, `[batch, frames, 458]`."""
        missing = max((STRIDE + 1) * HOP - samples_BT.shape[1], MEL_FFT - samples_BT.shape[1], 0)
        values_BGM = self.spectra(functional.pad(samples_BT.float(), (0, missing)))
        values_BGM = values_BGM[:, : self.num_frames(samples_BT.shape[1])]
        normal_BGM = (values_BGM - self.values_mean) / self.values_std
        normal_BGM[..., BINS + MEL_BANDS : STATIC] *= self.settings.chroma_weight
        return normal_BGM

    def layer_outputs(self, values_BGM: Tensor, valid_BG: Tensor | None = None) -> list[Tensor]:
        """Return num_layers + 1 tensors `[batch, frames, dim]`; those of frames that are not valid mean nothing.

        Args:
            values_BGM: from `values`.
            valid_BG: which frames are a clip's own; None means all.
        """
        view_BGM = values_BGM.clone()
        view_BGM[..., BINS + MEL_BANDS : STATIC] *= self.settings.view_chroma_weight / self.settings.chroma_weight
        return [self.project(view_BGM), *self.transformed(values_BGM, valid_BG)]

    def transformed(self, values_BGM: Tensor, valid_BG: Tensor | None = None) -> list[Tensor]:
        """Return the outputs of the layers after layer 0, which are all that training needs; see `layer_outputs`."""
        outputs, x_BGD = [], self.project(values_BGM)
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layers:
            x_BGD = forward_and_recompute(layer, x_BGD, valid_BG) if recompute else layer(x_BGD, valid_BG)
            outputs.append(x_BGD)
        return outputs

    def forward(self, samples_BT: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Return the features of every layer, `[batch, layers + 1, frames, dim]` (see `Encoder.forward`)."""
        if lengths_B is None or bool((lengths_B >= samples_BT.shape[1]).all()):
            return self.forward_traceable(samples_BT)
        # Each clip by itself, because its peak is its own and its end is reflected.
        clips = [self.values(samples_T[None, :length])[0] for samples_T, length in zip(samples_BT, lengths_B.tolist())]
        values_BGM = pad_sequence([*clips, clips[0].new_zeros(self.num_frames(samples_BT.shape[1]), VALUES)])
        values_BGM = values_BGM.transpose(0, 1)[:-1]
        counts_B = torch.tensor([len(clip_GM) for clip_GM in clips], device=values_BGM.device)
        valid_BG = torch.arange(values_BGM.shape[1], device=values_BGM.device) < counts_B[:, None]
        layers_BLGD = torch.stack(self.layer_outputs(values_BGM, valid_BG), 1)
        return layers_BLGD.masked_fill(~valid_BG[:, None, :, None], 0)

    def forward_traceable(self, samples_BT: Tensor) -> Tensor:
        """Return `forward`'s features of clips of one length, by operations that a tracer follows."""
        return torch.stack(self.layer_outputs(self.values(samples_BT)), 1)


def _update_card(card: Card, settings: CqtMelSettings) -> Card:
    """Return a card with everything that follows from the settings."""
    values = {"num_layers": settings.num_layers, "dim": settings.dim, "output_version": OUTPUT_VERSION}
    return card.model_copy(update=values | {"network": f"{settings.num_layers} Transformer layers with convolutions"})


def _variant(name: str, parameters: int, **sizes: Any) -> tuple[Card, CqtMelSettings]:
    settings = CqtMelSettings(**sizes)
    card = Card(
        name=name,
        sample_rate=SAMPLE_RATE,
        frame_rate=SAMPLE_RATE / HOP / STRIDE,
        num_layers=0,
        dim=1,
        window_seconds=30.0,
        parameters=parameters,
        license="no published weights",
        input="CQT, log-mel and chroma with their changes",
        paper="Carrara's own",
    )
    return _update_card(card, settings), settings


ENCODER = EncoderFamily(
    settings=CqtMelSettings,
    build=CqtMelEncoder,
    variants={
        "cqt-mel-tiny": _variant("cqt-mel-tiny", 1_080_480),
        "cqt-mel-small": _variant("cqt-mel-small", 19_315_200, dim=768, num_layers=6, num_heads=8, hidden=1024),
    },
    update_card=_update_card,
)
